rule calibrate:
    input:
        unpack(inputs_of_light),
    output:
        pixels(f"{RESULTS}/calibrated/{{frame}}.fits"),
    log:
        f"{RESULTS}/logs/calibrate/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate/{{frame}}.tsv"
    priority: 20
    group:
        "frame"
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(16, light),
    params:
        light=raw_light,
        options=options("calibration"),
        compression=config["compression"],
        configuration=digest("calibrate"),
        code=code("calibrate"),
    script:
        "../scripts/calibrate.py"


rule mask:
    input:
        f"{RESULTS}/calibrated/{{frame}}.fits",
    output:
        masked=pixels(f"{RESULTS}/masked/{{frame}}.fits"),
        pictures=pictures(["{frame}"]),
    log:
        f"{RESULTS}/logs/mask/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/mask/{{frame}}.tsv"
    priority: 30
    group:
        "frame"
    conda:
        "../../envs/mask.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(16, light),
    params:
        cosmic_rays=options("cosmic_rays"),
        trails=options("trails"),
        sources=options("sources"),
        compression=config["compression"],
        configuration=digest("mask"),
        code=code("mask"),
    script:
        "../scripts/mask.py"


rule master_fringe:
    input:
        fringe_frames,
    output:
        f"{RESULTS}/masters/{{fringe}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{fringe}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{fringe}}.tsv"
    priority: 35
    conda:
        "../../envs/mask.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(16, like_fringe, COMBINING),
    params:
        sky=options("sky"),
        sources=options("sources"),
        fringes=options("fringes"),
        memory_mb=config["calibration"]["memory_mb"],
        configuration=digest("sky"),
        code=code("master_fringe"),
    script:
        "../scripts/master_fringe.py"


rule sky:
    input:
        masked=f"{RESULTS}/masked/{{frame}}.fits",
        fringe=fringe_of_frame(),
    output:
        table=f"{RESULTS}/sky/{{frame}}.tsv",
        subtracted=pixels(f"{RESULTS}/subtracted/{{frame}}.fits"),
        sources=f"{RESULTS}/sources/{{frame}}.fits",
    log:
        f"{RESULTS}/logs/sky/{{frame}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sky/{{frame}}.tsv"
    priority: 40
    group:
        GROUP_OF_SKY
    conda:
        "../../envs/mask.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(12, light),
    params:
        row=lambda wildcards: light(wildcards).identity(),
        sky=options("sky"),
        sources=options("sources"),
        detection=options("photometry"),
        configuration=digest("sky"),
        code=code("sky"),
    script:
        "../scripts/sky.py"
