rule master_bias:
    input:
        frames=lambda wildcards: [f.path for f in master(wildcards).frames],
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    wildcard_constraints:
        master="bias_[A-Za-z0-9._-]+",
    params:
        hdus=lambda wildcards: [f.hdu for f in master(wildcards).frames],
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_bias"),
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    priority: 10
    script:
        "../scripts/master_bias.py"


rule master_dark:
    input:
        frames=lambda wildcards: [f.path for f in master(wildcards).frames],
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    wildcard_constraints:
        master="dark_[A-Za-z0-9._-]+",
    params:
        hdus=lambda wildcards: [f.hdu for f in master(wildcards).frames],
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_dark"),
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    priority: 10
    script:
        "../scripts/master_dark.py"


rule master_flat:
    input:
        unpack(inputs_of_flat),
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    wildcard_constraints:
        master="flat_[A-Za-z0-9._-]+",
    params:
        hdus=lambda wildcards: [f.hdu for f in master(wildcards).frames],
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_flat"),
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(1),
    priority: 10
    script:
        "../scripts/master_flat.py"


rule bad_pixels:
    input:
        unpack(inputs_of_bad_pixels),
    output:
        f"{RESULTS}/masters/{{badpixels}}.fits",
    params:
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("bad_pixels"),
    log:
        f"{RESULTS}/logs/masters/{{badpixels}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{badpixels}}.tsv"
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(5),
    priority: 10
    script:
        "../scripts/bad_pixels.py"
