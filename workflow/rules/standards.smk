rule measure_standards:
    input:
        sources=f"{RESULTS}/photometry/{{frame}}.fits",
        table=config["standards"]["file"] or [],
    output:
        f"{RESULTS}/standards/{{frame}}.tsv",
    log:
        f"{RESULTS}/logs/standards/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/standards/{{frame}}.tsv"
    priority: 47
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory(2),
    params:
        row=lambda wildcards: row_of_standards(light(wildcards)),
        options=options("standards"),
        code=code("measure_standards"),
    script:
        "../scripts/measure_standards.py"


rule night_zero_point:
    input:
        standards_of_night,
    output:
        f"{RESULTS}/nights/{{photometric}}.tsv",
    log:
        f"{RESULTS}/logs/nights/{{photometric}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/nights/{{photometric}}.tsv"
    priority: 48
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    params:
        night=lambda wildcards: night_and_filter(wildcards),
        options=options("standards"),
        colour_term=config["zero_points"]["colour_term"],
        code=code("night_zero_point"),
    script:
        "../scripts/night_zero_point.py"
