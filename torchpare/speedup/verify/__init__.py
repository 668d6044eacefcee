"""Judges of a shrink that look inside: `retrace` at every shape, `bisimulate` at every number.

The proof of a shrink compares outputs. These two follow the small model operator by operator: use them to find out
which operator made a proof fail, or where a network changes by nature.
"""

from __future__ import annotations

from torchpare.speedup.verify.bisimulation import bisimulate
from torchpare.speedup.verify.retrace import retrace
from torchpare.speedup.verify.tally import Bisimulation, Tally

__all__ = ["Bisimulation", "Tally", "bisimulate", "retrace"]
