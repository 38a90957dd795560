rule detector:
    output:
        f"{RESULTS}/detectors/{{camera}}.tsv",
    log:
        f"{RESULTS}/logs/detectors/{{camera}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/detectors/{{camera}}.tsv"
    priority: 89  # after bias and dark: flats wait for those, and mostly not for this
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(8, like_camera),
    params:
        frames=lambda wildcards: paths(frames_of_camera(wildcards)),
        raw=lambda wildcards: state(frames_of_camera(wildcards)),
        bias=lambda wildcards: [(f.path, f.hdu) for f in camera(wildcards).bias],
        flats=lambda wildcards: [
            [(f.path, f.hdu) for f in flats] for flats in camera(wildcards).flats
        ],
        lights=lambda wildcards: [(f.path, f.hdu) for f in lights_to_measure(wildcards)],
        detector=lambda wildcards: camera(wildcards).like.detector,
        options=options("calibration"),
        code=code("detector"),
    script:
        "../scripts/detector.py"


rule master_bias:
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    wildcard_constraints:
        master="bias_[A-Za-z0-9._-]+",
    priority: 90
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(16, like_master, COMBINING),
    params:
        frames=lambda wildcards: paths(master(wildcards).frames),
        raw=lambda wildcards: state(master(wildcards).frames),
        hdu=hdus,
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_bias"),
    script:
        "../scripts/master_bias.py"


rule master_dark:
    input:
        unpack(bias_and_dark),
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    wildcard_constraints:
        master="dark_[A-Za-z0-9._-]+",
    priority: 90
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(16, like_master, COMBINING),
    params:
        frames=lambda wildcards: paths(master(wildcards).frames),
        raw=lambda wildcards: state(master(wildcards).frames),
        hdu=hdus,
        exptimes=exptimes,
        detector=lambda wildcards: master(wildcards).like.detector,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_dark"),
    script:
        "../scripts/master_dark.py"


rule flat_levels:
    input:
        unpack(inputs_of_levels),
    output:
        f"{RESULTS}/masters/{{mosaic}}.tsv",
    log:
        f"{RESULTS}/logs/masters/{{mosaic}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{mosaic}}.tsv"
    priority: 90
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory(2),
    params:
        chips=chips_of,
        options=options("calibration"),
        code=code("flat_levels"),
    script:
        "../scripts/flat_levels.py"


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
    priority: 90
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(16, like_master, COMBINING),
    params:
        frames=lambda wildcards: paths(master(wildcards).frames),
        raw=lambda wildcards: state(master(wildcards).frames),
        hdu=hdus,
        exptimes=exptimes,
        detector=lambda wildcards: master(wildcards).like.detector,
        corners=lambda wildcards: corners(master(wildcards)),
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("master_flat"),
    script:
        "../scripts/master_flat.py"


rule library_master:
    output:
        f"{RESULTS}/masters/{{master}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{master}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{master}}.tsv"
    wildcard_constraints:
        master="library_[A-Za-z0-9._-]+",
    priority: 90
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(12, like_master),
    params:
        frames=lambda wildcards: paths(master(wildcards).frames),
        raw=lambda wildcards: state(master(wildcards).frames),
        hdu=lambda wildcards: master(wildcards).like.hdu,
        kind=lambda wildcards: master(wildcards).kind,
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("library_master"),
    script:
        "../scripts/library_master.py"


rule bad_pixels:
    input:
        unpack(inputs_of_bad_pixels),
    output:
        f"{RESULTS}/masters/{{badpixels}}.fits",
    log:
        f"{RESULTS}/logs/masters/{{badpixels}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/masters/{{badpixels}}.tsv"
    priority: 90
    conda:
        "../../envs/calibrate.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_planes(12, like_bad_pixels),
    params:
        options=options("calibration"),
        configuration=digest("masters"),
        code=code("bad_pixels"),
    script:
        "../scripts/bad_pixels.py"
