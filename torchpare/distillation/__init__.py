"""Learning from a teacher: losses that compare a small model with the dense one it came from.

    teacher = dense_teacher(model)                                    # before pruning
    ...                                                               # prune, shrink: the model is the student now
    distiller = Distiller(model, teacher, [SoftTargets(temperature=4.0), HiddenStates(["layer2", "layer3"])])
    loss = 0.1 * task_loss(output, labels) + distiller(output, pictures)

What was pruned needs no adapter layers: channels are compared with those of the teacher that they came from, by the
kept indices that a shrink records and that attached masks tell.
"""

from __future__ import annotations

from torchpare.distillation.attention import AttentionMaps, AttentionScores
from torchpare.distillation.config import terms_from_config
from torchpare.distillation.distiller import Distiller
from torchpare.distillation.hidden_states import HiddenStates
from torchpare.distillation.kept import KeptOutputs
from torchpare.distillation.relations import Relations, TokenRelations
from torchpare.distillation.soft_targets import SoftTargets
from torchpare.distillation.teacher import Teacher, dense_teacher
from torchpare.distillation.term import FeatureTerm, Term

__all__ = [
    "AttentionMaps",
    "AttentionScores",
    "Distiller",
    "FeatureTerm",
    "HiddenStates",
    "KeptOutputs",
    "Relations",
    "SoftTargets",
    "Teacher",
    "Term",
    "TokenRelations",
    "dense_teacher",
    "terms_from_config",
]
