rule simulate:
    output:
        f"{RESULTS}/simulated/README.txt",
    log:
        f"{RESULTS}/logs/simulate.log",
    benchmark:
        f"{RESULTS}/benchmarks/simulate.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 2
    resources:
        mem_mb=2000,
    params:
        raw=f"{RESULTS}/simulated/raw",
        truth=f"{RESULTS}/simulated/truth",
        options=options("simulate"),
        code=code("simulate"),
    script:
        "../scripts/simulate.py"
