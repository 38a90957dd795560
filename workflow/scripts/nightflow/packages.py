"""Packages that look for, or make, what nobody needs when they are imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# What is None in sys.modules is not found by who imports it.


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
    sys.modules.setdefault("pandas", None)


class Lighter:
    """Finds a module, once, and has it imported in a way of its own; then it takes itself out of ``sys.meta_path``.

    Parameters
    ----------
    name : str
        Of the module.
    run : callable
        Called with the loader's function that runs a module, and with the module.
    """

    def __init__(self, name: str, run: Callable[[Callable, ModuleType], None]):
        self._name, self._run = name, run

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader.exec_module = partial(self._run, spec.loader.exec_module)
        return spec


_UNITS = "astropy.units"


def _run_known(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    import inspect

    inspect.modulesbyfile[inspect.getabsfile(module)] = module.__name__
    return run(module)


def _run_without_units(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    run = partial(_run_known, run)
    if _UNITS in sys.modules:
        return run(module)
    stand_in = sys.modules[_UNITS] = ModuleType(_UNITS)
    stand_in.Quantity, stand_in.UnitBase = (type(name, (), {}) for name in ("Quantity", "UnitBase"))
    try:
        return run(module)
    except ImportError:  # another astropy, which needs more of them
        pass
    finally:
        del sys.modules[_UNITS]
    return run(module)


_BLAS = "scipy.linalg.cython_blas"


def _run_without_blas(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    if _BLAS in sys.modules:
        return run(module)
    sys.modules[_BLAS] = None
    try:
        return run(module)
    finally:
        del sys.modules[_BLAS]


#: astropy.io.fits imports astropy.utils.data, which needs astropy.units for annotations only: two thirds of its time
#: are the units, made anew in each process. Who needs them imports them as ever. Each setting of astropy asks inspect
#: in which module it is, and inspect looks up the files of all modules there are unless it knows of that one. And
#: numba, when it loads its first kernel, imports all of scipy.linalg to see whether there is a BLAS for covariances;
#: who multiplies looks again.
LIGHTER = (
    *(Lighter(name, _run_known) for name in ("astropy", "astropy.logger", "astropy.io.fits")),
    Lighter("astropy.utils.data", _run_without_units),
    Lighter("numba.np.arraymath", _run_without_blas),
)
