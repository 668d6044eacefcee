"""Where ``import nni...`` leads: a finder on ``sys.meta_path`` that makes NNI's modules out of the tables of names.

A module is made when it is imported, and each of its names when it is asked for, so that nothing is loaded that a
script does not use.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torchpare.compat.nni.gone import gone
from torchpare.compat.nni.names import MODULES
from torchpare.errors import CompatError

__all__ = ["CHOICE", "install"]

CHOICE = "TORCHPARE_NNI"
"""The environment variable that says whether torchpare stands in where NNI itself is installed."""

_NO_MODULE = (
    "torchpare stands in for NNI's compression of PyTorch models; {name} is {what}. Experiments and hyper-parameter "
    "search: use the search library of your choice, such as Optuna"
)


def install() -> None:
    """Let ``import nni`` and what is below it lead here, once.

    Raises:
        CompatError: NNI itself is loaded already; or is installed, and the environment does not say which to use.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    loaded = sys.modules.get("nni")
    if loaded is not None:
        raise CompatError(f"NNI itself is loaded already, from {getattr(loaded, '__file__', None) or 'elsewhere'}: "
                          "write import torchpare.compat.nni above the first import of nni")  # fmt: skip
    real = importlib.util.find_spec("nni")
    if real is not None and os.environ.get(CHOICE) != "torchpare":
        raise CompatError(f"NNI itself is installed, at {real.origin}, and wins unless you say otherwise: set the "
                          f"environment variable {CHOICE}=torchpare to have torchpare stand in for it, uninstall NNI, "
                          "or leave import torchpare.compat.nni out")  # fmt: skip
    sys.meta_path.insert(0, _Finder(MODULES))


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the modules of the tables."""

    def __init__(self, modules: Mapping[str, Mapping[str, str]]) -> None:
        self.modules = modules
        self.packages = {"nni"} | {parent for path in modules for parent in _parents(path)}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module comes from; None for what is not NNI's.

        Raises:
            ModuleNotFoundError: it is NNI's, and not in the tables.
        """
        del path, target
        if fullname.partition(".")[0] != "nni":
            return None
        if fullname not in self.modules and fullname not in self.packages:
            near = get_close_matches(fullname, self.modules, n=1, cutoff=0.8)
            what = f"no such module; did you mean {near[0]}?" if near else "not part of it"
            raise ModuleNotFoundError(_NO_MODULE.format(name=fullname, what=what), name=fullname)
        return ModuleSpec(fullname, self, origin="torchpare.compat.nni", is_package=fullname in self.packages)

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module: with the list of its names, and who makes them."""
        names = self.modules.get(module.__name__, {})
        module.__doc__ = f"{module.__name__}, as torchpare stands in for it."
        module.__dict__["__all__"] = sorted(names)
        module.__dict__["__getattr__"] = partial(self._look_up, module, names)
        module.__dict__["__dir__"] = partial(_listed, module)

    def _look_up(self, module: ModuleType, names: Mapping[str, str], name: str) -> Any:
        below = f"{module.__name__}.{name}"
        if name not in names:
            if below in self.modules or below in self.packages:
                return import_module(below)
            raise AttributeError(_unknown(module.__name__, names, name))
        home, _, own = names[name].partition(":")
        found = getattr(import_module(home), own) if home else gone(module.__name__, name, own)
        module.__dict__[name] = found
        return found


def _unknown(path: str, names: Mapping[str, str], name: str) -> str:
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = f" It has {', '.join(sorted(names))}." if names and not near else ""
    if path == "nni":
        return _NO_MODULE.format(name=f"nni.{name}", what="not part of it")
    return f"torchpare's {path} has no {name!r}{hint}.{known}"


def _listed(module: ModuleType) -> list[str]:
    return sorted({*vars(module), *module.__dict__["__all__"]})


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
