"""Where removing channels changes the function by nature, as the report tells of it."""

from __future__ import annotations

from collections.abc import Collection

from torchpare.graph import Removal
from torchpare.speedup.patches import Patches
from torchpare.speedup.report import FunctionChange

__all__ = ["carried_channels", "loud_channels", "norms_over_pruned_axes", "not_compared", "spoilt_channels"]


def norms_over_pruned_axes(removal: Removal, made_up_for: Collection[str]) -> tuple[FunctionChange, ...]:
    """Norms that divide by fewer channels than before, and other places that the rules made a note of."""
    changes: dict[tuple[str, str], FunctionChange] = {}
    for note in removal.space.notes:
        lost = int(removal.lost(note.labels).sum())
        if lost and note.module not in made_up_for:
            detail = f"it is taken over fewer channels than before ({note.site})"
            changes.setdefault((note.kind, note.module), FunctionChange(note.kind, note.module, lost, detail))
    return tuple(changes.values())


def not_compared(patches: Patches) -> tuple[FunctionChange, ...]:
    """Where the reference could not be told to look at what stays alone, so that the difference proves nothing."""
    detail = "the comparison cannot tell this change from a mistake: largest_difference is shown, and not judged"
    return tuple(
        FunctionChange(f"{name.removeprefix('aten.')} over other channels in each row", module, 0, detail)
        for module, name in sorted(patches.unpatched)
    )


def loud_channels(patches: Patches) -> tuple[FunctionChange, ...]:
    """Sums and products over channels that are not zero although everything that makes them is masked."""
    detail = "channels that go are not zero there, so the masked model adds constants that the small one does not have"
    return tuple(
        FunctionChange(f"{name.removeprefix('aten.')} over removed channels", module, count, detail)
        for (module, name), count in patches.loud.items()
    )


def carried_channels(watches: Patches) -> tuple[FunctionChange, ...]:
    """Products that read something of channels that go, since the masks do not cover all that makes them."""
    detail = "the masks do not silence what it reads there, such as the shift of a batch norm"
    channels: dict[str, int] = {}
    for (module, _), count in watches.loud.items():
        channels[module] = max(channels.get(module, 0), count)
    return tuple(
        FunctionChange("removed channels still carry a signal", module, count, detail)
        for module, count in channels.items()
    )


def spoilt_channels(patches: Patches) -> tuple[FunctionChange, ...]:
    """Divisions that make no number of removed channels."""
    detail = "removed channels are zeros that are divided by zero there, so the masked model returns no numbers"
    return tuple(
        FunctionChange(f"{name.removeprefix('aten.')} of removed channels", module, count, detail)
        for (module, name), count in patches.spoilt.items()
    )
