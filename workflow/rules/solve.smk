localrules:
    reference_catalogue,


rule reference_catalogue:
    output:
        f"{RESULTS}/reference/{{catalogue}}/{{field}}.fits",
    log:
        f"{RESULTS}/logs/reference/{{catalogue}}/{{field}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/reference/{{catalogue}}/{{field}}.tsv"
    priority: 100
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        # not the code: what was fetched once stays, on a machine without a network too
        query=online_catalogues.query_of(config["reference_catalogue"]),
    script:
        "../scripts/reference_catalogue.py"


rule solve_target:
    input:
        unpack(inputs_of_target),
    output:
        f"{RESULTS}/scamp/{{target}}.head",
    log:
        f"{RESULTS}/logs/scamp/{{target}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/scamp/{{target}}.tsv"
    priority: 45
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory(4),
    params:
        rows=lambda wildcards: [row_of_solve(f) for f in frames_of_target(wildcards)],
        sections=sections_of_solve(),
        code=code("solve_target"),
    script:
        "../scripts/solve_target.py"


rule solve:
    input:
        sources=f"{RESULTS}/sources/{{frame}}.fits",
        catalogue=catalogue_of_frame(),
        joint=joint_solution(),
    output:
        wcs=f"{RESULTS}/wcs/{{frame}}.head",
        zero_point=f"{RESULTS}/zeropoints/{{frame}}.tsv",
        sources=f"{RESULTS}/photometry/{{frame}}.fits",
    log:
        f"{RESULTS}/logs/solve/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/solve/{{frame}}.tsv"
    priority: 45
    group:
        GROUP_OF_SOLVE
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_solve,
    params:
        row=lambda wildcards: row_of_solve(light(wildcards)),
        sections=sections_of_solve(),
        configuration=digest("solve"),
        code=code("solve"),
    script:
        "../scripts/solve.py"
