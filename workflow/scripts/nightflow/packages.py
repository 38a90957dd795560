"""Packages that look for what nobody needs when they are imported."""

from __future__ import annotations

from unittest import mock


def quick_photutils():
    """A context in which photutils is imported without reading what is known of all packages that are installed.

    It looks up under which name it is itself installed, in each folder of ``sys.path``, of which Snakemake names some
    twice: a third of the time of its import. Told of no package it takes the name by which it is imported, the same.
    """
    return mock.patch("importlib.metadata.packages_distributions", dict)
