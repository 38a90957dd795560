rule report:
    input:
        frames=f"{RESULTS}/frames.tsv",
        sky=expand(f"{RESULTS}/sky/{{frame}}.tsv", frame=PLAN.lights),
        detectors=detector_tables(),
        zero_points=zero_points(PLAN.lights),
        nights=nights(),
        selections=selections(),
        stacks=stacks(),
        masters=all_masters(),
        previews=pictures(PLAN.lights),
        catalogues=catalogues(),
        light_curves=light_curves(),
        composites=colour_pictures(),
    output:
        page=report(
            f"{RESULTS}/report/index.html",
            caption="../report/night.rst",
            category="Night",
        ),
        charts=report(
            f"{RESULTS}/report/night.svg",
            caption="../report/charts.rst",
            category="Night",
        ),
        quality=report(
            f"{RESULTS}/quality.tsv",
            caption="../report/quality.rst",
            category="Tables",
        ),
        sky=report(
            f"{RESULTS}/sky.tsv",
            caption="../report/sky.rst",
            category="Tables",
        ),
        detector=report(
            f"{RESULTS}/detector.tsv",
            caption="../report/detector.rst",
            category="Tables",
        ),
        # one output, not one for each stack: Snakemake keeps a record of all the inputs for every output
        previews=report(
            directory(f"{RESULTS}/report/stacks"),
            patterns=["{target}/{filter}.png"],
            caption="../report/stack.rst",
            category="Stacks",
            labels={"target": "{target}", "filter": "{filter}"},
        ),
        summary=f"{RESULTS}/report/summary.txt",
        provenance=f"{RESULTS}/provenance.json",
        zero_points=f"{RESULTS}/zeropoints.tsv" if SOLVES else [],
        extinction=f"{RESULTS}/extinction.tsv" if SOLVES else [],
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    priority: 70
    conda:
        "../../envs/report.yaml"
    threads: 2
    resources:
        mem_mb=memory(2),
    params:
        templates=lambda wildcards: TEMPLATES,
        folders=folders_that_stay(),
        results=lambda wildcards, output: str(Path(output.quality).parent),
        night_of=NIGHT_OF,
        code=code("report"),
    script:
        "../scripts/report.py"
