"""The benchmark of planning: it believes no plan that cannot be right."""

from __future__ import annotations

import pytest

NOTHING = "Nothing to be done (all requested files are present and up to date)."
SOME = "Job stats:\njob      count\n-----  -------\nsky          7\ntotal        7\n"
SUMMARY = "output_file\tdate\nresults/sky/a.tsv\t-\nresults/report/stacks\t-\n"


@pytest.fixture(scope="module")
def survey(benchmark):
    return benchmark("planning")


@pytest.fixture
def measure(survey, tmp_path, monkeypatch):
    """Plans of two lights by a Snakemake that says these things in turn once the products are made."""

    def run(*plans):
        survey.make_survey(tmp_path / "raw", 2)
        answers = iter([SOME, SOME, SUMMARY, SOME, *plans])

        def snakemake(*arguments, **options):
            return survey.Cost(1.0, 1.0, 1.0, 0.0, next(answers))

        monkeypatch.setattr(survey, "snakemake", snakemake)
        return list(survey.measure(tmp_path))

    return run


def test_jobs_are_counted(survey):
    assert survey.jobs(SOME) == 7
    assert survey.jobs(NOTHING) == 0
    with pytest.raises(ValueError, match="no plan in:\nout of coffee"):
        survey.jobs("out of coffee")


def test_products_are_made_and_the_survey_is_left_as_it_was(measure, tmp_path):
    costs = dict(measure(NOTHING, SOME, SOME))
    assert costs["nothing left to do"].text == NOTHING
    assert (tmp_path / "results" / "sky" / "a.tsv").is_file()
    assert (tmp_path / "results" / "report" / "stacks").is_dir()
    assert len(list((tmp_path / "raw" / "n000").glob("light_*"))) == 2


@pytest.mark.parametrize("plans", [(SOME, SOME, SOME), (NOTHING, NOTHING, SOME), (NOTHING, SOME, NOTHING)])
def test_a_plan_that_cannot_be_right_ends_the_benchmark(measure, plans):
    with pytest.raises(SystemExit, match="planned again"):
        measure(*plans)
