"""``nni.trace``, which recorded how an object was made, so that NNI could make it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from torchpare.compat.nni.changes import tell

__all__ = ["trace"]

T = TypeVar("T")


@overload
def trace(cls_or_func: T, *, kw_only: bool = True, inheritable: bool = False) -> T: ...
@overload
def trace(cls_or_func: None = None, *, kw_only: bool = True, inheritable: bool = False) -> Callable[[T], T]: ...


def trace(cls_or_func: Any = None, *, kw_only: bool = True, inheritable: bool = False) -> Any:
    """The class or function itself: optimizers and trainers need not be made again here.

    Args:
        cls_or_func: what to trace; without it, a decorator is returned.
        kw_only: not needed.
        inheritable: not needed.
    """
    del kw_only, inheritable
    tell("trace")
    return _itself if cls_or_func is None else cls_or_func


def _itself(given: T) -> T:
    return given
