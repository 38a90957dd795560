"""Packages that look for, or make, what nobody needs when they are imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def quick_photutils():
    """A context in which photutils is imported without reading what is known of all packages that are installed.

    It looks up under which name it is itself installed, in each folder of ``sys.path``, of which Snakemake names some
    twice: a third of the time of its import. Told of no package it takes the name by which it is imported, the same.
    """
    from unittest import mock

    return mock.patch("importlib.metadata.packages_distributions", dict)


def without_pandas() -> None:
    """Keep Snakemake from importing pandas when it starts its first script, a tenth of the time before the first job.

    It looks whether a parameter is a table of pandas, as none of ours is, and does without where there is no pandas. To
    be called when all Snakefiles were read, in a workflow without others than these, which may need it.
    """
    sys.modules.setdefault("pandas", None)  # what is None there is not found


class UnitsLater:
    """Finds astropy.utils.data so that it is imported without astropy.units, which it needs for annotations only.

    astropy.io.fits imports that module, and two thirds of its time are the units, made anew in each process. Who needs
    them imports them as ever. Once it is found the finder takes itself away.
    """

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != "astropy.utils.data":
            return None
        sys.meta_path.remove(self)
        if _UNITS in sys.modules:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader.exec_module = partial(_run_without_units, spec.loader.exec_module)
        return spec


_UNITS = "astropy.units"


def _run_without_units(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    stand_in = sys.modules[_UNITS] = ModuleType(_UNITS)
    stand_in.Quantity, stand_in.UnitBase = (type(name, (), {}) for name in ("Quantity", "UnitBase"))
    try:
        run(module)
        return
    except ImportError:  # another astropy, which needs more of them
        pass
    finally:
        del sys.modules[_UNITS]
    run(module)
