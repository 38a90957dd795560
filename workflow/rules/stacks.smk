rule select_frames:
    input:
        sources=group_files("sources", ".fits"),
        zero_points=solved("zeropoints", ".tsv"),
        heads=solved("wcs", ".head"),
        images=images_to_register(),
        nights=nights_of_group,
        transforms=config["registration"]["transforms"] or [],
    output:
        table=f"{RESULTS}/selection/{{target}}/{{filter}}.tsv",
        grid=f"{RESULTS}/selection/{{target}}/{{filter}}.head",
    log:
        f"{RESULTS}/logs/selection/{{target}}/{{filter}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/selection/{{target}}/{{filter}}.tsv"
    priority: GATHERING
    conda:
        "../../envs/stack.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    params:
        frames=lambda wildcards: [f.frame for f in group(wildcards)],
        night_of=lambda wildcards: night_of_group(wildcards),
        selection=options("selection"),
        registration=options("registration"),
        moving=lambda wildcards: moving_target(wildcards.target),
        configuration=digest("select"),
        code=code("select_frames"),
    script:
        "../scripts/select_frames.py"


rule stack:
    input:
        frames=group_files("subtracted", ".fits"),
        solved=solved("photometry", ".fits"),
        nights=nights_of_group,
        heads=solved("wcs", ".head"),
        selection=f"{RESULTS}/selection/{{target}}/{{filter}}.tsv",
        grid=f"{RESULTS}/selection/{{target}}/{{filter}}.head",
    output:
        f"{RESULTS}/stacks/{{target}}/{{filter}}.fits",
    log:
        f"{RESULTS}/logs/stacks/{{target}}/{{filter}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/stacks/{{target}}/{{filter}}.tsv"
    priority: GATHERING + 1
    conda:
        "../../envs/stack.yaml"
    threads: threads_of_stack
    resources:
        mem_mb=memory_of_stack,
    params:
        options=options("stack"),
        detection=options("photometry"),
        registration=options("registration"),
        night_of=lambda wildcards: night_of_group(wildcards),
        configuration=digest("stack"),
        code=code("stack"),
    script:
        "../scripts/stack.py"
