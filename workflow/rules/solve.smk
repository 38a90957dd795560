rule solve:
    input:
        unpack(inputs_of_solve),
    output:
        wcs=f"{RESULTS}/wcs/{{frame}}.head",
        zero_point=f"{RESULTS}/zeropoints/{{frame}}.tsv",
        sources=f"{RESULTS}/photometry/{{frame}}.fits",
    log:
        f"{RESULTS}/logs/solve/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/solve/{{frame}}.tsv"
    priority: 45
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory(8),
    params:
        row=lambda wildcards: row_of_solve(light(wildcards)),
        sections=sections_of_solve(),
        configuration=digest("solve"),
        code=code("solve"),
    script:
        "../scripts/solve.py"
