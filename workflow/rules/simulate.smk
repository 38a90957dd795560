rule simulate:
    output:
        f"{RESULTS}/simulated/night.json",
    params:
        options=options("simulate"),
        code=code("simulate"),
    log:
        f"{RESULTS}/logs/simulate.log",
    benchmark:
        f"{RESULTS}/benchmarks/simulate.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 2
    resources:
        mem_mb=2000,
    script:
        "../scripts/simulate.py"
