"""Who is called around the steps of an optimizer: by its own hooks, and not where a step is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["Steps", "before_step", "remove_all", "steps_not"]


class Steps:
    """Calls functions before and after each step of an optimizer, until it is removed; not where it `steps_not`.

    It may be removed from within such a call. Then its hooks stay and do nothing: the optimizer is going through all of
    its hooks just then, and would stumble over one that is taken away.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self._handles: list[Any] = []
        self._calls = {"before": before, "after": after}
        self._calling = False
        if before is not None:
            self._handles.append(before_step(optimizer, partial(self._call, "before")))
        if after is not None:
            self._handles.append(optimizer.register_step_post_hook(partial(self._call, "after")))

    def remove(self) -> None:
        """Stop calling."""
        self._calls.clear()
        if not self._calling:
            remove_all(self._handles)

    def _call(self, when: str, *hooked: Any) -> None:
        if (call := self._calls.get(when)) is None or (hooked and steps_not(hooked[0])):
            return
        self._calling = True
        try:
            call()
        finally:
            self._calling = False


def before_step(optimizer: Optimizer, call: Callable[[], None]) -> RemovableHandle:
    """Call a function just before each step of an optimizer, when the gradients are there and are not scaled.

    Where the step is given a closure, that computes the gradients (in Lightning, that is every step): the call follows
    it. Of a closure that is run several times, as by LBFGS, it follows the first run. Where the optimizer `steps_not`
    there is no call.

    Args:
        optimizer: whose steps.
        call: without arguments.

    Returns:
        Its ``remove()`` ends it.
    """

    def hook(stepping: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if steps_not(stepping):
            return None
        _unscale(stepping)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            call()
            return None
        due = [call]

        def followed() -> Any:
            result = closure()
            while due:
                due.pop()()
            return result

        return (args[:1], {**kwargs, "closure": followed})

    return optimizer.register_step_pre_hook(hook)


def steps_not(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer, in its step, will leave all parameters alone, for gradients that are not finite.

    Of others a ``GradScaler`` does not call the step then. Fused ones it does call, after it has written on them, as
    ``found_inf``, how it stands; it takes that away after the step.
    """
    found = vars(optimizer).get("found_inf")
    return found is not None and bool(found)


@torch.no_grad()
def _unscale(optimizer: Optimizer) -> None:
    """Divide the gradients by the factor that a ``GradScaler`` has left to a fused optimizer, and say that it is done.

    That is the state in which ``GradScaler.unscale_`` would have left both.
    """
    scale = vars(optimizer).get("grad_scale")
    if scale is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale.to(parameter.grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined] - where GradScaler has put it


def remove_all(handles: list[RemovableHandle]) -> None:
    """Take off what hangs there."""
    while handles:
        handles.pop().remove()
