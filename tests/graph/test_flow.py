"""Label arrays as rules hand them over: no larger than what they say."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from torchpare.graph.capture import capture
from torchpare.graph.flow import Flow


def test_an_axis_that_depends_on_no_other_has_size_one_on_it():
    program = capture(nn.ReLU(), torch.ones(4, 3, 5))
    flow, uid = Flow(program), program.outputs[0]
    rows = flow.store.fresh((4, 1, 5))
    flow.store.unify(rows[:1], rows[1:], "a test")
    flow.define(uid, [*flow.fixed((4, 3, 5))[:2], rows])
    assert [array.shape for array in flow.labels(uid)] == [(1, 1, 1), (1, 1, 1), (1, 1, 5)]
    assert (flow.store.find(flow.labels(uid)[2]) == flow.store.find(rows[0])).all()


def test_an_axis_that_depends_on_another_keeps_its_rows():
    program = capture(nn.ReLU(), torch.ones(4, 3, 5))
    flow, uid = Flow(program), program.outputs[0]
    rows = flow.store.fresh((4, 1, 5))
    flow.store.unify(rows[0, :, :4], rows[1:, :, :4], "a test")  # the last entries differ
    flow.define(uid, [*flow.fixed((4, 3, 5))[:2], rows])
    assert flow.labels(uid)[2].shape == (4, 1, 5)
    assert np.array_equal(flow.labels(uid)[2], rows)
