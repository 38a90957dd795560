rule master_bias:
    input:
        frames=lambda wildcards: [f.path for f in master(wildcards).frames],
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    wildcard_constraints:
        master="bias_[A-Za-z0-9._-]+",
    priority: 10
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    params:
        hdu=lambda wildcards: hdu_of(master(wildcards).like),
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_bias"),
    script:
        "../scripts/master_bias.py"


rule master_dark:
    input:
        frames=lambda wildcards: [f.path for f in master(wildcards).frames],
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    wildcard_constraints:
        master="dark_[A-Za-z0-9._-]+",
    priority: 10
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    params:
        hdu=lambda wildcards: hdu_of(master(wildcards).like),
        exptimes=lambda wildcards: [f.exptime for f in master(wildcards).frames],
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_dark"),
    script:
        "../scripts/master_dark.py"


rule master_flat:
    input:
        unpack(inputs_of_flat),
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    wildcard_constraints:
        master="flat_[A-Za-z0-9._-]+",
    priority: 10
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    params:
        hdu=lambda wildcards: hdu_of(master(wildcards).like),
        exptimes=lambda wildcards: [f.exptime for f in master(wildcards).frames],
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_flat"),
    script:
        "../scripts/master_flat.py"


rule bad_pixels:
    input:
        unpack(inputs_of_bad_pixels),
    output:
        f"{RESULTS}/masters/{{badpixels}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{badpixels}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{badpixels}}.tsv"
    priority: 10
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(5),
    params:
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("bad_pixels"),
    script:
        "../scripts/bad_pixels.py"
