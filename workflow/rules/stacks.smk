rule select_frames:
    input:
        sources=group_files("sources", ".fits"),
    output:
        f"{RESULTS}/selection/{{target}}/{{filter}}.tsv",
    params:
        frames=lambda wildcards: [f.frame for f in group(wildcards)],
        selection=options("selection"),
        registration=options("registration"),
        configuration=digest("select"),
        code=code("select_frames"),
    log:
        f"{RESULTS}/logs/selection/{{target}}/{{filter}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/selection/{{target}}/{{filter}}.tsv"
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    priority: 50
    script:
        "../scripts/select_frames.py"


rule stack:
    input:
        frames=group_files("subtracted", ".fits"),
        selection=f"{RESULTS}/selection/{{target}}/{{filter}}.tsv",
    output:
        f"{RESULTS}/stacks/{{target}}/{{filter}}.fits",
    params:
        options=options("stack"),
        configuration=digest("stack"),
        code=code("stack"),
    log:
        f"{RESULTS}/logs/stacks/{{target}}/{{filter}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/stacks/{{target}}/{{filter}}.tsv"
    conda:
        "../../envs/stack.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: attempt * (500 + config["stack"]["memory_mb"]),
    priority: 60
    script:
        "../scripts/stack.py"
