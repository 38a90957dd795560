rule catalogue:
    input:
        f"{RESULTS}/stacks/{{target}}/{{filter}}.fits",
    output:
        table=f"{RESULTS}/catalogues/{{target}}/{{filter}}.fits",
        ds9=f"{RESULTS}/catalogues/{{target}}/{{filter}}.reg",
        ginga=f"{RESULTS}/catalogues/{{target}}/{{filter}}.txt",
    log:
        f"{RESULTS}/logs/catalogues/{{target}}/{{filter}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/catalogues/{{target}}/{{filter}}.tsv"
    priority: GATHERING + 2
    conda:
        "../../envs/catalogues.yaml"
    threads: 1
    resources:
        mem_mb=memory(10),
    params:
        options=options("catalogue"),
        sections={name: options(name) for name in ("photometry", "sources", "sky")},
        configuration=digest("catalogue"),
        code=code("catalogue"),
    script:
        "../scripts/catalogue.py"


rule match_catalogues:
    input:
        files_of_target("catalogues"),
    output:
        table=f"{RESULTS}/catalogues/{{target}}.fits",
        ds9=f"{RESULTS}/catalogues/{{target}}.reg",
        ginga=f"{RESULTS}/catalogues/{{target}}.txt",
    log:
        f"{RESULTS}/logs/catalogues/{{target}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/catalogues/{{target}}.tsv"
    priority: GATHERING + 3
    conda:
        "../../envs/catalogues.yaml"
    threads: 1
    resources:
        mem_mb=memory(4),
    params:
        filters=lambda wildcards: filters_of(wildcards.target),
        options=options("catalogue"),
        registration=options("registration"),
        configuration=digest("catalogue"),
        code=code("match_catalogues"),
    script:
        "../scripts/match_catalogues.py"


rule composite:
    input:
        stacks=files_of_channels("stacks"),
        catalogues=files_of_channels("catalogues"),
    output:
        report(
            f"{RESULTS}/composites/{{target}}.png",
            caption="../report/composite.rst",
            category="Colour pictures",
            labels={"target": "{target}"},
        ),
    log:
        f"{RESULTS}/logs/composites/{{target}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/composites/{{target}}.tsv"
    priority: GATHERING + 3
    conda:
        "../../envs/catalogues.yaml"
    threads: 1
    resources:
        mem_mb=memory(6),
    params:
        options=options("composite"),
        registration=options("registration"),
        code=code("composite"),
    script:
        "../scripts/composite.py"


rule lightcurves:
    input:
        catalogue=f"{RESULTS}/catalogues/{{target}}/{{filter}}.fits",
        selection=f"{RESULTS}/selection/{{target}}/{{filter}}.tsv",
        frames=group_files("subtracted", ".fits"),
        sources=group_files("sources", ".fits"),
        solved=solved("photometry", ".fits"),
    output:
        table=f"{RESULTS}/lightcurves/{{target}}/{{filter}}.fits",
        plot=report(
            f"{RESULTS}/lightcurves/{{target}}/{{filter}}.png",
            caption="../report/lightcurve.rst",
            category="Light curves",
            labels={"target": "{target}", "filter": "{filter}"},
        ),
    log:
        f"{RESULTS}/logs/lightcurves/{{target}}/{{filter}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/lightcurves/{{target}}/{{filter}}.tsv"
    priority: GATHERING + 4
    conda:
        "../../envs/catalogues.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2500,
    params:
        rows=lambda wildcards: [row_of_light_curve(f) for f in group(wildcards)],
        star=star_of,
        options={k: v for k, v in options("lightcurves").items() if k != "stars"},
        registration=options("registration"),
        configuration=digest("lightcurves"),
        code=code("lightcurves"),
    script:
        "../scripts/lightcurves.py"
