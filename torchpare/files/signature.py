"""What tells two models of one class apart without a look at weights: shapes, and numbers that modules remember."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

__all__ = ["Place", "Signature", "signature"]

Place = tuple[str, int | str]
"""A tensor and an axis, or a module and the name of a number."""


@dataclass(frozen=True)
class Signature:
    """Shapes of all tensors that are saved, by (name, axis), and numbers of all modules by (path, name)."""

    sizes: dict[Place, int]
    numbers: dict[Place, float]

    def different_sizes(self, other: Signature) -> list[Place]:
        """Axes that differ in size, or that only one of the two has, in the order of the model."""
        every = dict.fromkeys([*self.sizes, *other.sizes])
        return [place for place in every if self.sizes.get(place) != other.sizes.get(place)]

    def different_numbers(self, other: Signature) -> list[Place]:
        """Numbers that differ, of those that both have."""
        return [place for place, value in self.numbers.items() if other.numbers.get(place, value) != value]

    @property
    def tensors(self) -> set[str]:
        """The names of all tensors."""
        return {name for name, _ in self.sizes}


def signature(model: nn.Module) -> Signature:
    """The signature of a model; weights on the meta device suffice."""
    sizes: dict[Place, int] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        sizes |= dict(_axes(name, tuple(tensor.shape)))
    numbers: dict[Place, float] = {
        (path, name): value
        for path, module in model.named_modules(remove_duplicate=False)
        for name, value in vars(module).items()
        if type(value) in (int, float)
    }
    return Signature(sizes, numbers)


def _axes(name: str, shape: tuple[int, ...]) -> Iterator[tuple[Place, int]]:
    """Each axis of a tensor with its size, and as axis -1 how many there are: a scalar must be there, too."""
    yield (name, -1), len(shape)
    yield from (((name, axis), size) for axis, size in enumerate(shape))
