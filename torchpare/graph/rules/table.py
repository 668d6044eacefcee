"""The one table of operator rules: ``@rule("aten.name", ...)`` puts a function in it."""

from __future__ import annotations

from collections.abc import Callable

from torchpare.graph.flow import Flow
from torchpare.graph.program import Op

__all__ = ["Rule", "find_rule", "rule"]

Rule = Callable[[Flow, Op], None]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function for operators.

    Args:
        names: of ATen operators without ``aten.``, whose in-place twins (``relu_``) are included; of others with their
            namespace, such as ``torchvision.roi_align``.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                message = f"two rules for aten.{name}"
                raise AssertionError(message)
            _RULES[name] = function
        return function

    return register


def find_rule(name: str) -> Rule | None:
    """The rule of an operator such as ``aten.relu_`` or ``mylib.shift``, or None where there is none."""
    if not name.startswith("aten."):
        return _RULES.get(name)
    short = name.removeprefix("aten.")
    return _RULES.get(short) or _RULES.get(short.rstrip("_"))
