"""What `lift_rate_limit` of the workflow reaches for in Snakemake is there, and is what it takes it for."""

from __future__ import annotations

import inspect

from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobScheduler


def test_the_default_limit_is_the_one_that_is_lifted():
    """Another default would leave the timers on: their number grows with the jobs of a night."""
    limit = get_argument_parser().parse_args([]).max_jobs_per_timespan
    assert (limit.max_jobs, limit.timespan) == (100, 1)


def test_a_scheduler_without_a_limiter_starts_no_timers():
    assert "self.job_rate_limiter = (" in inspect.getsource(JobScheduler.__init__)
    assert "if self.job_rate_limiter is not None:" in inspect.getsource(JobScheduler.schedule)
    assert "if self.job_rate_limiter is None:" in inspect.getsource(JobScheduler.job_selector)
