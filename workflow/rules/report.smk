TEMPLATE = Path(source_file("../report/night.html.j2")).read_text("utf-8")


rule report:
    input:
        frames=f"{RESULTS}/frames.tsv",
        sky=expand(f"{RESULTS}/sky/{{frame}}.tsv", frame=PLAN.lights),
        detectors=detector_tables(),
        zero_points=zero_points(),
        selections=selections(),
        stacks=stacks(),
    output:
        page=report(
            f"{RESULTS}/report/index.html",
            caption="../report/night.rst",
            category="Night",
        ),
        summary=f"{RESULTS}/report/summary.txt",
        detector=f"{RESULTS}/detector.tsv",
        quality=f"{RESULTS}/quality.tsv",
        sky=f"{RESULTS}/sky.tsv",
        zero_points=f"{RESULTS}/zeropoints.tsv" if SOLVER != "none" else [],
        extinction=f"{RESULTS}/extinction.tsv" if SOLVER != "none" else [],
        provenance=f"{RESULTS}/provenance.json",
        previews=stack_previews(),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    priority: 70
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(2),
    params:
        template=lambda wildcards: TEMPLATE,
        results=lambda wildcards, output: str(Path(output.quality).parent),
        preview_size=config["report"]["preview_size"],
        code=code("report"),
    script:
        "../scripts/report.py"
