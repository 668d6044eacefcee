"""Tables: tensors that a module keeps as plain attributes (`self.positions = sincos(...)`), registered nowhere.

The module reads them like buffers, so they lose channels like buffers. No state dict holds them: a class makes its
tables anew, with the size they had before a shrink.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["named_tables", "table", "tables_of"]


def table(module: nn.Module, name: str) -> Tensor | None:
    """The table of that name; None where the attribute is something else.

    What follows from a parameter (a weight that a hook works out before each call) is no table, and neither are
    integers, which are places and counts, nor a single number.
    """
    value = vars(module).get(name)
    if type(value) is not Tensor or name.startswith("_") or value.grad_fn is not None or value.requires_grad:
        return None
    return value if value.is_floating_point() and value.numel() > 1 else None


def tables_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tables of a module itself, with their names."""
    for name in vars(module):
        found = table(module, name)
        if found is not None:
            yield name, found


def named_tables(model: nn.Module) -> dict[str, Tensor]:
    """Every table of a model by its qualified name; of a module that is registered twice, under each of its names."""
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in model.named_modules(remove_duplicate=False)
        for name, tensor in tables_of(module)
    }
