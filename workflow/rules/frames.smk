rule calibrate:
    input:
        unpack(inputs_of_light),
    output:
        f"{RESULTS}/calibrated/{{frame}}.fits",
    params:
        hdu=lambda wildcards: light(wildcards).hdu,
        row=lambda wildcards: light(wildcards).cards(),
        detector=lambda wildcards: light(wildcards).detector,
        options=options("calibration"),
        configuration=digest("calibrate"),
        code=code("calibrate"),
    log:
        f"{RESULTS}/logs/calibrate/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate/{{frame}}.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(6),
    priority: 20
    script:
        "../scripts/calibrate.py"


rule mask:
    input:
        f"{RESULTS}/calibrated/{{frame}}.fits",
    output:
        f"{RESULTS}/masked/{{frame}}.fits",
    params:
        cosmic_rays=options("cosmic_rays"),
        trails=options("trails"),
        sources=options("sources"),
        configuration=digest("mask"),
        code=code("mask"),
    log:
        f"{RESULTS}/logs/mask/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/mask/{{frame}}.tsv"
    conda:
        "../../envs/mask.yaml"
    threads: 1
    resources:
        mem_mb=memory(8),
    priority: 30
    script:
        "../scripts/mask.py"


rule sky:
    input:
        f"{RESULTS}/masked/{{frame}}.fits",
    output:
        table=f"{RESULTS}/sky/{{frame}}.tsv",
        subtracted=f"{RESULTS}/subtracted/{{frame}}.fits",
        sources=f"{RESULTS}/sources/{{frame}}.fits",
    params:
        row=lambda wildcards: light(wildcards).identity(),
        sky=options("sky"),
        detection=options("detection"),
        configuration=digest("sky"),
        code=code("sky"),
    log:
        f"{RESULTS}/logs/sky/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sky/{{frame}}.tsv"
    conda:
        "../../envs/mask.yaml"
    threads: 1
    resources:
        mem_mb=memory(8),
    priority: 40
    script:
        "../scripts/sky.py"
