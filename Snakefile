# nightflow: from a night of raw CCD or CMOS frames to calibrated frames, sky tables, stacks and light curves.
#
#     raw bias, dark, flat ──> masters ──┐
#     raw lights ────────────────────────┴─> calibrate ─> mask ─> sky [─> solve] ─┬─> select_frames ─> stack ─> catalogue
#                                                                                 ├──────────> light curves <───┘
#                                                                                 └──────────────────> report

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/masters.smk"
include: "workflow/rules/frames.smk"
include: "workflow/rules/solve.smk"
include: "workflow/rules/standards.smk"
include: "workflow/rules/stacks.smk"
include: "workflow/rules/catalogues.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/simulate.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        products_of_a_night,


# What is frozen, no search for garbage looks through again, the last one as Python ends included.
onstart:
    gc.freeze()
    atomic.remove_scratch(RESULTS)
    compile_library()
    lift_rate_limit()
    packages.without_pandas()
    preload_steps()


onsuccess:
    gc.freeze()
    STEPS.stop()
    print_summary()


onerror:
    gc.freeze()
    STEPS.stop()
    print_failures(log)
