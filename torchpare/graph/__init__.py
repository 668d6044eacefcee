"""What hangs together in a model: reads, never writes.

Pruning a channel of one layer forces others to follow. To find out which, every index of every axis of every
parameter gets a *label*, and labels ride on the tensors of one recorded run, operator by operator. Three examples:

*A residual.* ``y = conv1(x) + conv2(z)``: channel 5 of both convolutions lands in channel 5 of the sum, so the rule of
``add`` makes the two labels one class. Either both filters go, or neither.

*A concatenation.* ``cat([a, b], 1)`` lays the labels of ``a`` and ``b`` end to end. The next convolution's input
columns take them over: column 70 carries the label of whichever filter made channel 70, and goes with it.

*A flatten.* ``(N, C, 7, 7) -> (N, 49 C)``: the label of each channel is repeated 49 times, so that dropping one channel
drops 49 columns of the linear layer after it.

Nothing here knows what a module is: rules are about ATen operators, a few dozen of them. What has no rule is frozen,
and named. The files, in the order in which data goes through them: `capture` writes a `program`; `rules` carry
`labels` through it (`flow`), helped by what `sizes` remember; the `space` answers questions; a `removal` is a decision.
"""

from __future__ import annotations

from torchpare.graph.removal import OnConflict, Removal, Restored, decide_removal, group_masks, reconciled_masks
from torchpare.graph.space import Channels, PruningSpace, analyse

__all__ = [
    "Channels",
    "OnConflict",
    "PruningSpace",
    "Removal",
    "Restored",
    "analyse",
    "decide_removal",
    "group_masks",
    "reconciled_masks",
]
