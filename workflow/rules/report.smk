rule report:
    input:
        frames=f"{RESULTS}/frames.tsv",
        sky=expand(f"{RESULTS}/sky/{{frame}}.tsv", frame=PLAN.lights),
        sources=expand(f"{RESULTS}/sources/{{frame}}.fits", frame=PLAN.lights),
        selections=selections(),
        stacks=stacks(),
    output:
        page=report(
            f"{RESULTS}/report/index.html",
            caption="../report/night.rst",
            category="Night",
        ),
        summary=f"{RESULTS}/report/summary.txt",
        quality=f"{RESULTS}/quality.tsv",
        sky=f"{RESULTS}/sky.tsv",
    params:
        results=RESULTS,
        code=code("report"),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    priority: 70
    script:
        "../scripts/report.py"
