"""Names that scripts written for NNI import from here; each lives in the room that does the work."""

from __future__ import annotations

from torchpare.report.counts import count_flops_params
from torchpare.search import SensitivityAnalysis
from torchpare.speedup import ChannelDependency, GroupDependency, fix_mask_conflict

__all__ = ["ChannelDependency", "GroupDependency", "SensitivityAnalysis", "count_flops_params", "fix_mask_conflict"]
