import compileall
import gc
import os
import sys
import time
from pathlib import Path

from snakemake import benchmark
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

# The library. Its files are named one by one, since a remote module fetches only what is named.
MODULES = (
    "__init__ alignment asterisms astrometry astrometry_net atomic badpixels "
    "barycentre bayer calibration catalogues characterisation charts combination "
    "combine commands composites configuration cosmicrays crosscorrelation crossmatch "
    "deblending detector drizzling ensemble explain extinction failures fluxscales "
    "forced forkserver frames fringes handover headercards headervalues instruments "
    "inventory joining joint_astrometry kron labelling lacosmic lightcurve_plots "
    "lightcurves lights lineage masters matching measurement medians motion "
    "neighbours noisecorrelation nova online_catalogues packages page photometry "
    "photontransfer planning plate_matching plate_search plates pointing preloading "
    "previews processors products programs prov provenance psf_photometry quality "
    "rawfiles reference reference_catalogues regions registration rejection report "
    "resampling scamp scenes sharedstars simulate simulate_detector simulate_effects "
    "simulate_headers simulate_noise simulate_settings simulate_sky simulate_sources "
    "simulate_truth sky skygrid skymatching solving sources stackengines stackheader "
    "stacking standards steps swarp trails transfer tying verify wavelengths weakness "
    "zero_points "
).split()


def source_file(path):
    """A file of the workflow: in place where the workflow lies on this machine, else fetched."""
    here = Path(workflow.current_basedir.get_path_or_uri(secret_free=True), path)
    return str(here.resolve()) if here.is_file() else workflow.source_path(path)


LIBRARY = {name: source_file(f"../scripts/nightflow/{name}.py") for name in MODULES}
sys.path.insert(0, str(Path(LIBRARY["__init__"]).parents[1]))

# Snakemake puts the folder of a script behind what is installed, which may be nightflow in another version.
search_path = [sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ.update(PYTHONPATH=os.pathsep.join(search_path))
# glibc gives the memory of each array back to the system and has it zeroed for the next one: 4 % of a step's time.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**28))

from nightflow import (
    atomic,
    configuration,
    failures,
    frames,
    instruments,
    lacosmic,
    online_catalogues,
    packages,
    planning,
    preloading,
    processors,
    provenance,
    steps,
    verify,
    wavelengths,
)
from nightflow.matching import NoCalibration

os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", processors.slow_instructions())

SOURCES_READ = Path(LIBRARY["__init__"]).with_name("__pycache__") / "sources.json"
provenance.recall(SOURCES_READ)

INSTRUMENTS = (
    "andor",
    "cfht",
    "eso",
    "gemini",
    "generic",
    "ing",
    "lco",
    "maxim",
    "microobservatory",
    "noirlab",
)

# What each step's products depend on in the configuration, its ancestors' options included (NFCONF).
SECTIONS = {
    "masters": ["calibration"],
    "calibrate": ["calibration"],
    "mask": ["calibration", "cosmic_rays", "trails", "sources"],
    "sky": [
        "calibration",
        "cosmic_rays",
        "trails",
        "sources",
        "fringes",
        "sky",
        "photometry",
    ],
}
SECTIONS["solve"] = [
    *SECTIONS["sky"],
    "astrometry",
    "reference_catalogue",
    "zero_points",
]
SECTIONS["select"] = [*SECTIONS["solve"], "standards", "selection", "registration"]
SECTIONS["stack"] = [*SECTIONS["select"], "stack"]
SECTIONS["catalogue"] = [*SECTIONS["stack"], "catalogue"]
SECTIONS["lightcurves"] = [*SECTIONS["catalogue"], "lightcurves"]
PLANNING_ONLY = (
    "library",
    "file",
    "match",
    "missing",
    "split_colours",
    "vizier",
    "radius",
    "attempts",
    "timeout",
)  # decide which files go where and where they come from, not what is in them


STARTED = time.time()
STEPS = preloading.Preloading()
NEEDED_BY_STEPS = (
    "snakemake.iocontainers",
    "snakemake.logging",
    "nightflow.products",
    "nightflow.steps",
)

# The graph of a survey's jobs is millions of objects that all stay: to search them for dead circles again and again
# takes a tenth of planning.
gc.set_threshold(200_000, 50, 100)


def stop(error):
    """End with a sentence of ours, and nothing around it."""
    sys.exit(f"nightflow: {error}")


def load_instruments():
    """Header dialects by name: those that come with nightflow, and the user's file if one is configured."""
    definitions = {
        name: configuration.read(source_file(f"../../config/instruments/{name}.yaml"))
        for name in INSTRUMENTS
    }
    chosen = config["instrument"]
    if chosen.endswith((".yaml", ".yml")):
        if not Path(chosen).is_file():
            raise instruments.InstrumentError(f"instrument file '{chosen}' not found")
        own = load_configfile(chosen)
        configuration.check(own, schema("instrument"), f"instrument file '{chosen}'")
        definitions[own["name"]] = own
        config["instrument"] = own["name"]
    elif chosen != "auto" and chosen not in definitions:
        raise instruments.InstrumentError(
            f"instrument '{chosen}' is unknown; known are auto, {', '.join(INSTRUMENTS)}, or a file ending in .yaml"
        )
    return instruments.resolve(definitions)


def schema(name):
    return configuration.read(source_file(f"../schemas/{name}.schema.yaml"))


def make_plan():
    """Scan the raw frames, unless there are none to scan yet (lint, the commands for people)."""
    if config["raw_dir"] is None:
        return planning.Plan()
    own_map = config["calibration"]["bad_pixel_map"]
    if own_map and not Path(own_map).is_file():
        raise FileNotFoundError(f"calibration.bad_pixel_map '{own_map}' not found")
    dialects = load_instruments()
    fresh = workflow.is_main_process
    rows = planning.scan(config, dialects, RESULTS, fresh)
    library = planning.scan_library(config, dialects, RESULTS, fresh)
    try:
        return planning.assemble(rows, config, library)
    finally:
        if workflow.is_main_process:
            atomic.write_if_changed(f"{RESULTS}/frames.tsv", frames.to_tsv(rows))


def hide_key():
    """Put the key of engine nova where its jobs look, and where no product and no record of a run shows it."""
    key = config["astrometry"].pop("api_key")
    if key:
        from nightflow import nova

        os.environ.setdefault(nova.KEY_VARIABLE, key)


defaults = configuration.read(source_file("../../config/config.yaml"))
update_config(defaults, config)
config.update(configuration.typed(defaults, schema("config")))

try:
    configuration.check(config, schema("config"))
    hide_key()
    configuration.check_results_dir(config["results_dir"])
    if sentence := lacosmic.refused(config["cosmic_rays"]):
        raise configuration.ConfigurationError(sentence)
    RESULTS = configuration.canonical(config["results_dir"])
    PLAN = make_plan()
except (
    configuration.ConfigurationError,
    instruments.InstrumentError,
    frames.OverridesError,
    planning.NothingToReduce,
    NoCalibration,
    FileNotFoundError,
) as error:
    stop(error)
except OSError as error:
    stop(steps.in_words(error) or error)


wildcard_constraints:
    camera="[A-Za-z0-9][A-Za-z0-9._-]*",
    frame="[A-Za-z0-9][A-Za-z0-9._-]*",
    master="(bias|dark|flat|library)_[A-Za-z0-9._-]+",
    fringe="fringe_[A-Za-z0-9._-]+",
    mosaic="levels_[A-Za-z0-9._-]+",
    photometric="[A-Za-z0-9._-]+",
    catalogue="[A-Za-z0-9._-]+",
    field="[0-9.]+[+-][0-9.]+r[0-9.]+",
    badpixels="badpixels_[A-Za-z0-9._-]+",
    target="[A-Za-z0-9][A-Za-z0-9._-]*",
    filter="[A-Za-z0-9][A-Za-z0-9._-]*",


def code(step):
    """Digest of the code that a step runs, so that an edited function reruns what uses it."""
    return provenance.code_digest(source_file(f"../scripts/{step}.py"), LIBRARY)


def options(section):
    """One section of the configuration, without what only decides which files go where."""
    return {
        key: value for key, value in config[section].items() if key not in PLANNING_ONLY
    }


def digest(stage):
    sections = {section: options(section) for section in SECTIONS[stage]}
    if stage != "masters" and config["compression"] != "none":  # it rounds pixels
        sections["compression"] = config["compression"]
    return provenance.options_digest(sections)


def record_configuration():
    """Leave what the present configuration is, for the command `verify`."""
    digests = {stage: digest(stage) for stage in SECTIONS}
    masters = [*PLAN.masters, *PLAN.bad_pixels, *PLAN.fringes]
    text = verify.record(digests, masters, {**config, "results_dir": RESULTS})
    atomic.write_if_changed(f"{RESULTS}/{verify.RECORD}", text)


try:
    if workflow.is_main_process and config["raw_dir"] is not None:
        record_configuration()
except OSError as error:
    stop(steps.in_words(error) or error)


# Raw frames are parameters of the steps that read them, not inputs: Snakemake ends a whole run where an input went away
# after planning, and fails a job whose input is younger than its output, as frames are whose camera's clock is ahead.
# The parameters have the size and time of each file, any change of which counts, be it to an earlier time.


def paths(frames):
    return [frame.path for frame in frames]


def state(frames):
    """Size and time of change of raw frames, as they were when the run was planned."""
    return [frame.state for frame in frames]


def pixels(path):
    """A product with the pixels of a single frame, which `disk: small` removes when nothing needs it any more."""
    return temp(path) if config["disk"] == "small" else path


# Priority of what gathers frames: after all lights, so that the last stacks are made side by side, not one behind the
# other; with `disk: small` as soon as its frames are there, for the place that they take.
GATHERING = 50 if config["disk"] == "small" else 10


def memory(factor, base=400):
    """Memory in MB for `factor` times the size of the input, products that are never compressed; more at each attempt."""

    def mem_mb(wildcards, input, attempt):
        return int(attempt * (base + factor * input.size_mb))

    return mem_mb


COMBINING = 400 + config["calibration"]["memory_mb"]  # MB beside the result


def memory_of_planes(planes, image, base=400):
    """Memory in MB for float32 planes of the shape of `image(wildcards)`, more at each attempt.

    For what is done to single images. The header tells their shape before there is a file, and whatever its
    compression; to ask Snakemake for the sizes of each job's files takes an eighth of the time of planning.
    """

    def mem_mb(wildcards, attempt):
        return int(attempt * (base + planes * 4 * image(wildcards).n_pixels / 2**20))

    return mem_mb


def known(table, key, what):
    """Row of a table of the plan, or a sentence."""
    if key not in table:
        stop(f"this night has no {what} {key!r}: see {RESULTS}/frames.tsv")
    return table[key]


def light(wildcards):
    return known(PLAN.lights, wildcards.frame, "light")


def master(wildcards):
    return known(PLAN.masters, wildcards.master, "master")


def group(wildcards):
    return known(PLAN.stacks, (wildcards.target, wildcards.filter), "stack")


def like_master(wildcards):
    """A frame of the shape of a master."""
    return master(wildcards).like


def hdus(wildcards):
    """HDU to read in each raw frame of a master."""
    return [frame.hdu for frame in master(wildcards).frames]


def exptimes(wildcards):
    return [frame.exptime for frame in master(wildcards).frames]


def master_path(name):
    return f"{RESULTS}/masters/{name}.fits" if name else []


def camera(wildcards):
    return known(PLAN.cameras, wildcards.camera, "camera")


def like_camera(wildcards):
    return camera(wildcards).like


def must_be_measured(detector):
    """Whether something of a detector has to come from the data."""
    chosen = config["calibration"]
    measured = "measured" in (chosen["gain"], chosen["read_noise"])
    return measured or detector["saturation"] is None


def lights_to_measure(wildcards):
    """Frames that show the saturation, where the header does not tell it."""
    detector = camera(wildcards).like.detector
    return camera(wildcards).lights if detector["saturation"] is None else []


def frames_of_camera(wildcards):
    """Every frame that a camera is measured on."""
    flats = [frame for flats in camera(wildcards).flats for frame in flats]
    return [*camera(wildcards).bias, *flats, *lights_to_measure(wildcards)]


def detector_of(name, detector):
    """The table of the camera of a light or master flat as named input, where it is needed."""
    table = f"{RESULTS}/detectors/{PLAN.camera_of[name]}.tsv"
    return {"detector": table} if must_be_measured(detector) else {}


def detector_tables():
    return [f"{RESULTS}/detectors/{name}.tsv" for name in PLAN.cameras]


def masters_of(item):
    """Bias and dark of a light or of a master flat, as named inputs."""
    return {
        kind: master_path(getattr(item, kind))
        for kind in ("bias", "dark")
        if getattr(item, kind)
    }


def bias_and_dark(wildcards):
    return masters_of(master(wildcards))


def inputs_of_flat(wildcards):
    flat = master(wildcards)
    found = masters_of(flat) | detector_of(flat.name, flat.like.detector)
    for mosaic, members in PLAN.mosaics.items():
        if flat in members:
            found["levels"] = f"{RESULTS}/masters/{mosaic}.tsv"
    return found


def mosaic(wildcards):
    return known(PLAN.mosaics, wildcards.mosaic, "set of flats of several chips")


def inputs_of_levels(wildcards):
    chips = mosaic(wildcards)
    needed = sorted({name for chip in chips for name in (chip.bias, chip.dark) if name})
    tables = [
        detector_of(chip.name, chip.like.detector).get("detector", []) for chip in chips
    ]
    return {
        "masters": [master_path(name) for name in needed],
        "detectors": [table for table in tables if table],
    }


def chips_of(wildcards):
    """What the levels of a mosaic's flats are found from, for each chip."""
    return [
        {
            "paths": [f.path for f in chip.frames],
            "hdu": [f.hdu for f in chip.frames],
            "exptimes": [f.exptime for f in chip.frames],
            "raw": state(chip.frames),
            "detector": chip.like.detector,
            "measured": detector_of(chip.name, chip.like.detector).get("detector"),
            "bias": master_path(chip.bias) or None,
            "dark": master_path(chip.dark) or None,
        }
        for chip in mosaic(wildcards)
    ]


def fringe_lights(wildcards):
    return known(PLAN.fringes, wildcards.fringe, "fringe pattern")


def like_fringe(wildcards):
    """A frame of the shape of a fringe pattern."""
    return fringe_lights(wildcards)[0]


def fringe_frames(wildcards):
    return [
        f"{RESULTS}/masked/{frame.frame}.fits" for frame in fringe_lights(wildcards)
    ]


# On a cluster the steps of a frame are one job, but fringes are found in the masked frames of a whole night.
GROUP_OF_SKY = "sky" if config["fringes"]["correct"] else "frame"


def fringe_of_frame():
    """Input function: the fringe pattern of a frame that has one; nothing to evaluate for each frame if none has."""
    if not PLAN.fringe_of:
        return []
    return lambda wildcards: master_path(PLAN.fringe_of.get(wildcards.frame))


def corners(item):
    """Where the window of a light or of raw flats begins in each of its masters, if it is cut out of them."""
    frame = getattr(item, "like", item)
    found = {}
    for kind in ("bias", "dark", "flat"):
        name = getattr(item, kind, None)
        like = PLAN.masters[name].like if name else None
        found[kind] = planning.matching.window_corner(frame, like) if like else None
    found["bad_pixels"] = found["dark"] or found["flat"]
    return found


def raw_light(wildcards):
    """What `calibrate` has to know of a raw light."""
    frame = light(wildcards)
    return {
        "path": frame.path,
        "state": frame.state,
        "hdu": frame.hdu,
        "cards": frame.cards(),
        "detector": frame.detector,
        "corners": corners(frame),
    }


def inputs_of_light(wildcards):
    frame = light(wildcards)
    found = masters_of(frame) | detector_of(frame.frame, frame.detector)
    if frame.flat:
        found["flat"] = master_path(frame.flat)
    if config["calibration"]["bad_pixel_map"]:
        found["bad_pixel_map"] = config["calibration"]["bad_pixel_map"]
    if frame.frame in PLAN.bad_pixels_of:
        found["bad_pixels"] = master_path(PLAN.bad_pixels_of[frame.frame])
    return found


def behind_bad_pixels(wildcards):
    """Names of the dark and the flat, of which one may be missing."""
    return known(PLAN.bad_pixels, wildcards.badpixels, "bad-pixel map")


def like_bad_pixels(wildcards):
    dark, flat = behind_bad_pixels(wildcards)
    return PLAN.masters[dark or flat].like


def inputs_of_bad_pixels(wildcards):
    dark, flat = behind_bad_pixels(wildcards)
    return {
        kind: master_path(name)
        for kind, name in (("dark", dark), ("flat", flat))
        if name
    }


def threads_of_stack(wildcards):
    """A stack of seconds takes the first core that is free; one of minutes is worth waiting for four."""
    pixels = [frame.n_pixels for frame in group(wildcards)]
    return 4 if sum(pixels) > 2.5e8 else 1


def memory_of_stack(wildcards, attempt):
    """Memory in MB for the strips at work, and for the result of a frame's size with what is measured on it."""
    stack = config["stack"]
    finer = stack["drizzle_scale"] ** -2 if stack["kernel"] == "drizzle" else 1
    planes = 9 * 4 * finer * max(frame.n_pixels for frame in group(wildcards)) / 2**20
    return int(attempt * (400 + stack["memory_mb"] + planes))


def group_files(folder, suffix):
    """Input function: one file of each frame in a stack's group."""

    def files(wildcards):
        return [
            f"{RESULTS}/{folder}/{frame.frame}{suffix}" for frame in group(wildcards)
        ]

    return files


def engine_of_solve():
    """Who finds the frames' places on the sky; 'none' leaves the step out."""
    engine, section = config["astrometry"]["engine"], config["reference_catalogue"]
    catalogue = section["file"] or section["online"]
    if engine in ("catalogue", "scamp") and catalogue is None:
        stop(
            f"astrometry.engine is {engine}, but reference_catalogue.file is not set, nor is online"
        )
    if section["file"] and section["online"]:
        stop("reference_catalogue.file and online are both set: choose one")
    if section["file"] and not Path(section["file"]).is_file():
        stop(f"reference_catalogue.file {section['file']!r} not found")
    if engine == "nova":
        from nightflow import nova

        try:
            nova.key_of_user()
        except steps.UserError as error:
            stop(error)
    return engine if engine != "auto" else "catalogue" if catalogue else "none"


SOLVER = engine_of_solve()
GROUP_OF_SOLVE = (
    "solve" if SOLVER == "scamp" else GROUP_OF_SKY
)  # SCAMP solves a target as a whole
ONLINE = config["reference_catalogue"]["online"] if SOLVER != "none" else None
FIELDS = online_catalogues.fields_of(PLAN.lights, config) if ONLINE else {}


def catalogues_of(frames):
    """Reference catalogue of some frames: a file of the user's, or those of the fields that the frames lie in."""
    if not ONLINE:
        return config["reference_catalogue"]["file"] or []
    found = {FIELDS[frame].path(ONLINE) for frame in frames if frame in FIELDS}
    return [f"{RESULTS}/reference/{path}" for path in sorted(found)]


def check_registration():
    """Stop where what the configuration says of the registration cannot be done."""
    chosen = config["registration"]
    if chosen["engine"] in ("wcs", "swarp") and SOLVER == "none":
        stop(
            f"registration.engine is {chosen['engine']}, which needs the frames' places on the sky: "
            "set reference_catalogue.file or astrometry.engine"
        )
    if chosen["engine"] == "given" and chosen["transforms"] is None:
        stop("registration.engine is given, but registration.transforms is not set")
    if chosen["transforms"] is not None and not Path(chosen["transforms"]).is_file():
        stop(f"registration.transforms {chosen['transforms']!r} not found")
    targets = {target for target, _ in PLAN.stacks}
    for target in chosen["moving_targets"]:
        if PLAN.stacks and target not in targets:
            stop(
                f"registration.moving_targets names {target!r}; the targets are {', '.join(sorted(targets))}"
            )


check_registration()


def images_to_register():
    """Input function: the frames of a group themselves, where the engine of registration looks at their pixels."""
    pixels = config["registration"]["engine"] == "correlation"
    return group_files("subtracted", ".fits") if pixels else []


def moving_target(target):
    """Rate of a target that the stack follows, if it is one that moves."""
    return config["registration"]["moving_targets"].get(target)


def catalogue_of_frame():
    """Input function, or the user's file, which is that of all frames."""
    if not ONLINE:
        return catalogues_of(())
    return lambda wildcards: catalogues_of([wildcards.frame])


def joint_solution():
    """Input function: SCAMP's solution of the frame's target, if that is the engine."""
    if SOLVER != "scamp":
        return []
    return lambda wildcards: f"{RESULTS}/scamp/{light(wildcards).target}.head"


def frames_of_target(wildcards):
    """All lights of a target, whatever their filter."""
    found = [f for f in PLAN.lights.values() if f.target == wildcards.target]
    return found or stop(
        f"this night has no target {wildcards.target!r}: see {RESULTS}/frames.tsv"
    )


def inputs_of_target(wildcards):
    names = [frame.frame for frame in frames_of_target(wildcards)]
    found = {"sources": [f"{RESULTS}/sources/{name}.fits" for name in names]}
    if catalogue := catalogues_of(names):
        found["catalogue"] = catalogue
    return found


REFERENCE_MB = (
    Path(config["reference_catalogue"]["file"]).stat().st_size / 2**20
    if SOLVER != "none" and config["reference_catalogue"]["file"]
    else 0
)


def memory_of_solve(wildcards, attempt):
    """Memory in MB for the reference catalogue, which is most of what the step reads."""
    return int(attempt * (800 + 8 * REFERENCE_MB))


def row_of_solve(frame):
    columns = ("night", "airmass", "ra", "dec", "mjd_mid")
    return {**frame.identity(), **{name: getattr(frame, name) for name in columns}}


def sections_of_solve():
    names = ("astrometry", "reference_catalogue", "zero_points")
    sections = {name: options(name) for name in names}
    sections["astrometry"]["engine"] = SOLVER
    sections["reference_catalogue"] = online_catalogues.resolved(
        sections["reference_catalogue"]
    )
    return sections


def solved(folder, suffix):
    """Input function: one file of the solve step for each frame in a stack's group, none where it is left out."""
    return group_files(folder, suffix) if SOLVES else []


def zero_points(lights):
    return [f"{RESULTS}/zeropoints/{frame}.tsv" for frame in lights if SOLVES]


def find_standards():
    """Whether there is a table of standard stars; a sentence where it is not what the configuration says."""
    section = config["standards"]
    if section["file"] is None:
        return False
    if not Path(section["file"]).is_file():
        stop(f"standards.file {section['file']!r} not found")
    targets = {frame.target for frame in PLAN.lights.values()}
    if PLAN.lights and not targets >= set(section["targets"]):
        lacking = ", ".join(sorted(set(section["targets"]) - targets))
        stop(
            f"standards.targets names {lacking}; the targets are {', '.join(sorted(targets))}"
        )
    return True


STANDARDS = find_standards()
SOLVES = SOLVER != "none" or STANDARDS
NIGHTS = planning.photometric_nights(PLAN.lights) if STANDARDS else {}
NIGHT_OF = {frame.frame: name for name, frames in NIGHTS.items() for frame in frames}


def standards_of_night(wildcards):
    """Measured standards of the frames of a night and filter that show them."""
    targets = config["standards"]["targets"]
    frames = known(NIGHTS, wildcards.photometric, "night with a filter")
    return [
        f"{RESULTS}/standards/{frame.frame}.tsv"
        for frame in frames
        if not targets or frame.target in targets
    ]


def night_and_filter(wildcards):
    first = known(NIGHTS, wildcards.photometric, "night with a filter")[0]
    return {"night": first.night, "filter": first.filter}


def night_of_group(wildcards):
    """Name of the night and filter of each of a stack's frames, if there are standards."""
    return {f.frame: NIGHT_OF[f.frame] for f in group(wildcards) if f.frame in NIGHT_OF}


def nights_of_group(wildcards):
    """Zero points of the nights of a stack's frames."""
    names = sorted(set(night_of_group(wildcards).values()))
    return [f"{RESULTS}/nights/{name}.tsv" for name in names]


def nights():
    return [f"{RESULTS}/nights/{name}.tsv" for name in NIGHTS]


def row_of_standards(frame):
    return {**row_of_solve(frame), "path": frame.path}


def selections():
    return [f"{RESULTS}/selection/{target}/{name}.tsv" for target, name in PLAN.stacks]


def stacks():
    return [f"{RESULTS}/stacks/{target}/{name}.fits" for target, name in PLAN.stacks]


def all_masters():
    names = [*PLAN.masters, *PLAN.bad_pixels, *PLAN.fringes]
    return [f"{RESULTS}/masters/{name}.fits" for name in names]


def pictures(frames):
    """Two pictures of each frame, calibrated and masked, on nights that are not too long to look at them."""
    if len(PLAN.lights) > config["report"]["frame_previews"]:
        return []
    kinds = ("calibrated", "masked")
    return [f"{RESULTS}/previews/{f}.{kind}.png" for f in frames for kind in kinds]


def folders_that_stay():
    """Folders of single frames that the report links to: not those that `disk: small` empties."""
    pixel_folders = ("calibrated", "masked", "subtracted")
    kept = () if config["disk"] == "small" else pixel_folders
    return [*kept, "sources", *(["photometry"] if SOLVER != "none" else [])]


# The parts of the page, which is made of them by the script.
TEMPLATES = {
    name: Path(source_file(f"../report/{name}")).read_text("utf-8")
    for name in ("night.html.j2", "night.css", "night.js")
}


def catalogues():
    """Catalogues of the stacks, and of the targets over their filters."""
    if config["catalogue"]["engine"] == "none":
        return []
    groups = [f"{target}/{name}" for target, name in PLAN.stacks]
    targets = sorted({target for target, _ in PLAN.stacks})
    return [f"{RESULTS}/catalogues/{name}.fits" for name in (*groups, *targets)]


def filters_of(target):
    """What tells the stacks of a target apart: their filters, mostly."""
    return known(
        {
            t: [name for other, name in PLAN.stacks if other == t]
            for t, _ in PLAN.stacks
        },
        target,
        "target",
    )


def files_of_target(folder):
    """Input function: one file of each stack of a target."""

    def files(wildcards):
        return [
            f"{RESULTS}/{folder}/{wildcards.target}/{name}.fits"
            for name in filters_of(wildcards.target)
        ]

    return files


def light_curves():
    """Light curves of the stacks with enough frames, in which the stars stand still."""
    least = config["lightcurves"]["min_frames"]
    if least is None or config["catalogue"]["engine"] == "none":
        return []
    return [
        f"{RESULTS}/lightcurves/{target}/{name}.fits"
        for (target, name), frames in PLAN.stacks.items()
        if len(frames) >= least and not moving_target(target)
    ]


def row_of_light_curve(frame):
    """What the light curves must know of a frame."""
    columns = ("frame", "mjd_mid", "exptime", "airmass", "ra", "dec", "site")
    return {name: getattr(frame, name) for name in columns}


def star_of(wildcards):
    return config["lightcurves"]["stars"].get(wildcards.target)


def channels_of(target):
    """Stacks for red, green and blue of a target's colour picture, None where it has no such three."""
    return wavelengths.choose(filters_of(target), config["composite"]["filters"])


def files_of_channels(folder):
    """Input function: one file for each of red, green and blue."""

    def files(wildcards):
        channels = channels_of(wildcards.target)
        if channels is None:
            stop(
                f"target {wildcards.target!r} has no three filters for a colour picture: set composite.filters"
            )
        return [
            f"{RESULTS}/{folder}/{wildcards.target}/{name}.fits" for name in channels
        ]

    return files


def colour_pictures():
    if config["catalogue"]["engine"] == "none":
        return []
    targets = sorted({target for target, _ in PLAN.stacks})
    return [
        f"{RESULTS}/composites/{target}.png"
        for target in targets
        if channels_of(target)
    ]


def products_of_a_night(wildcards):
    """Everything that `all` asks for."""
    if config["raw_dir"] is None:
        stop(
            "raw_dir is not set: name the folder of your raw frames, for example "
            "snakemake --cores all --config raw_dir=/data/2024-03-08 results_dir=results"
        )
    if config["night"]:
        return products_of_frames(config["night"])
    made = [*stacks(), *catalogues(), *light_curves(), *colour_pictures()]
    return [*made, f"{RESULTS}/report/index.html"]


def products_of_frames(night):
    """What comes of the single frames of a night, whatever their stacks."""
    lights = [name for name, frame in PLAN.lights.items() if frame.night == night]
    if not lights:
        nights = sorted({frame.night or "undated" for frame in PLAN.lights.values()})
        stop(
            f"there are no lights of the night {night}; there are of {', '.join(nights)}"
        )
    tables = expand(f"{RESULTS}/sky/{{frame}}.tsv", frame=lights)
    return [*tables, *zero_points(lights)]


def compile_library():
    """Leave byte code beside the library, where Python is told to write none as it imports (containers do so).

    Each job would compile what it imports, which takes a quarter of its start. What was read of the sources is kept
    there too.
    """
    compileall.compile_dir(Path(LIBRARY["__init__"]).parent, maxlevels=0, quiet=2)
    provenance.keep(SOURCES_READ)


def lift_rate_limit():
    """Take off Snakemake's default limit of 100 jobs a second, not one that the user has set.

    It starts a timer after each pass of the scheduler, and each timer ends in another pass, for as long as jobs wait: their
    number grows with the jobs done. 900 jobs take 900 threads and 30 s of CPU time in it, 6 threads and 8 s without.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def preload_steps():
    """Start the server of preloaded steps for jobs that this run starts itself, with its own Python.

    Its workers are to be in the benchmark files: a Snakemake that measures in another way does without the server.
    """
    timer = getattr(benchmark, "BenchmarkTimer", None)
    elsewhere = (
        workflow.deployment_settings.deployment_method or not workflow.local_exec
    )
    if timer and not (elsewhere or workflow.touch):
        STEPS.start(NEEDED_BY_STEPS)
        benchmark.BenchmarkTimer = STEPS.counting(timer)


def print_summary():
    summary = Path(RESULTS, "report", "summary.txt")
    if config["raw_dir"] and not config["night"] and summary.is_file():
        print(summary.read_text(encoding="utf-8"), end="")


def print_failures(logs):
    """Which frame and step failed, the last lines of their logs, and what to do."""
    text = "".join(
        Path(log).read_text(encoding="utf-8", errors="replace") for log in logs
    )
    print(failures.describe(text, f"{RESULTS}/logs", STARTED), end="")
