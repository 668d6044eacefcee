"""Where a masked model becomes a small one: plan, cut, prove, report; all or nothing."""

from __future__ import annotations

from torchpare.speedup.dependency import ChannelDependency, GroupDependency, fix_mask_conflict
from torchpare.speedup.given import apply_compression_results
from torchpare.speedup.groups import GroupPlan
from torchpare.speedup.model_speedup import ModelSpeedup
from torchpare.speedup.planning import Plan, plan
from torchpare.speedup.report import FunctionChange, LayerChange, SpeedupReport
from torchpare.speedup.shrink_plan import ShrinkPlan, make_plan

__all__ = [
    "ChannelDependency",
    "FunctionChange",
    "GroupDependency",
    "GroupPlan",
    "LayerChange",
    "ModelSpeedup",
    "Plan",
    "ShrinkPlan",
    "SpeedupReport",
    "apply_compression_results",
    "fix_mask_conflict",
    "make_plan",
    "plan",
]
