"""The configuration: defaults are valid and documented, mistakes are explained in one sentence each."""

from __future__ import annotations

import copy
import os

import pytest
import yaml

from nightflow import atomic, configuration


@pytest.fixture(scope="module")
def schema(root):
    return yaml.safe_load((root / "workflow" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def defaults(root):
    return yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))


def leaves(section, prefix=""):
    for key, value in section.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]


def declared(schema, prefix=""):
    for key, entry in schema.get("properties", {}).items():
        yield from declared(entry, f"{prefix}{key}.") if "properties" in entry else [f"{prefix}{key}"]


def test_defaults_are_valid(defaults, schema):
    configuration.check(defaults, schema)


def test_every_option_has_a_default_and_a_description(defaults, schema):
    names = {name for name in leaves(defaults) if not name.startswith("simulate")}
    assert names == {name for name in declared(schema) if not name.startswith("simulate")}


@pytest.mark.parametrize(
    ("section", "module", "table"),
    [
        ("sky", "sky", "DEFAULTS"),
        ("sources", "sources", "MASK_DEFAULTS"),
        ("photometry", "photometry", "DEFAULTS"),
        ("cosmic_rays", "cosmicrays", "DEFAULTS"),
        ("trails", "trails", "DEFAULTS"),
    ],
)
def test_defaults_of_functions_are_those_of_the_configuration(defaults, section, module, table):
    """A function called by itself does what the workflow does."""
    import importlib

    own = getattr(importlib.import_module(f"nightflow.{module}"), table)
    assert {**defaults[section], **own} == defaults[section]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skyy": {}}, "unknown key 'skyy' .did you mean 'sky'.."),
        ({"sky": {"sgima": 3}}, "unknown key 'sky.sgima' .did you mean 'sigma'..; known here are method, estimator"),
        ({"sky": {"sigma": "four"}}, "sky.sigma is 'four' .text.; it must be a number above 0"),
        ({"sky": {"sigma": -1}}, "sky.sigma is -1 .a number.; it must be a number above 0"),
        ({"sky": {"estimator": "avg"}}, "it must be one of median, mean, mode"),
        ({"sky": None}, "sky is empty; it must be a section with keys"),
        ({"sky": {"maxiters": 2.5}}, "it must be a whole number at least 1"),
        ({"raw_dir": 20180512}, "raw_dir is 20180512 .a number.; .*write ./20180512"),
        ({"results_dir": 2018}, "write ./2018"),
        ({"stack": {"clamp": "yes"}}, "it must be true or false"),
        ({"calibration": {"gain": "big"}}, "it must be one of header, measured or a number above 0"),
        ({"calibration": {"missing": "ignore"}}, "one of error, skip, warn"),
        ({"selection": {"max_fwhm": "3 sgima"}}, "selection.max_fwhm is '3 sgima'"),
        (
            {"lightcurves": {"stars": {"M67": {"ra": 1.0}}}},
            "lightcurves.stars.M67: '.*' is a dependency of",
        ),
        ({"composite": {"filters": ["R", "V"]}}, "composite.filters is .* one of auto, none or a list"),
    ],
)
def test_mistakes_are_explained(defaults, schema, change, words):
    config = copy.deepcopy(defaults)
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
    with pytest.raises(configuration.ConfigurationError, match=words) as error:
        configuration.check(config, schema)
    assert len(str(error.value).splitlines()) == 1


def test_paths_have_one_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spellings = ["results", "./results", "results/", str(tmp_path / "results"), "x/../results"]
    assert {configuration.canonical(path) for path in spellings} == {"results"}
    assert configuration.canonical("/elsewhere/./raw/") == "/elsewhere/raw"


@pytest.mark.parametrize("path", ["a{b}", "a*", "a?", "a\nb"])
def test_results_folders_that_snakemake_would_misread_are_refused(path):
    with pytest.raises(configuration.ConfigurationError, match="results_dir"):
        configuration.check_results_dir(path)


def test_unchanged_text_is_not_written_again(tmp_path):
    path = tmp_path / "a" / "t.txt"
    atomic.write_if_changed(path, "x")
    os.utime(path, (1, 1))
    atomic.write_if_changed(path, "x")
    assert path.stat().st_mtime == 1
    atomic.write_if_changed(path, "y")
    assert path.read_text() == "y" and path.stat().st_mtime > 1


@pytest.mark.parametrize(
    "given, read",
    [
        ({"sky": {"sigma": "3.0"}}, {"sky": {"sigma": 3.0}}),
        ({"trails": {"find": "false"}}, {"trails": {"find": False}}),
        (
            {"selection": {"max_fwhm": "4.5", "max_sky": "3 sigma"}},
            {"selection": {"max_fwhm": 4.5, "max_sky": "3 sigma"}},
        ),
        ({"photometry": {"apertures": ["1", "2.5"]}}, {"photometry": {"apertures": [1, 2.5]}}),
        (
            {
                "simulate": {
                    "seed": "7",
                    "shape": ["256", "256"],
                    "dialect": "maxim",
                    "effects": {"dust": {"enabled": "no"}},
                }
            },
            {"simulate": {"seed": 7, "shape": [256, 256], "dialect": "maxim", "effects": {"dust": {"enabled": False}}}},
        ),
        (
            {"lightcurves": {"stars": {"M67": {"ra": "1.5", "dec": "2"}}}},
            {"lightcurves": {"stars": {"M67": {"ra": 1.5, "dec": 2}}}},
        ),
        ({"sky": {"sigma": "much"}}, {"sky": {"sigma": "much"}}),
        ({"sky": {"sigma": "[3"}}, {"sky": {"sigma": "[3"}}),
        ({"raw_dir": "./20180512"}, {"raw_dir": "./20180512"}),
        ({"raw_dir": 20180512, "unknown": "3"}, {"raw_dir": 20180512, "unknown": "3"}),
    ],
)
def test_values_inside_braces_on_the_command_line_have_their_types(given, read, root):
    """Snakemake hands what stands inside braces over as text."""
    import yaml

    schema = yaml.safe_load((root / "workflow" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
    assert configuration.typed(given, schema) == read
