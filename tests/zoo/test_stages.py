"""Whatever goes wrong with a model, and wherever, is told by its code; the rest of the examination goes on."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.bad_suite import Net
from torchpare.errors import CaptureError, ProofError, ShrinkError
from torchpare.zoo import one, stages
from torchpare.zoo.results import Result
from torchpare.zoo.suites import case

SUITE = "tests.zoo.bad_suite"


def examined(name: str, *, onnx: bool = False) -> Result:
    return one.examine(case(SUITE, name), 0.5, onnx=onnx)


def test_a_good_model_comes_through_and_all_of_it_is_told():
    seen: list[Result] = []
    result = one.examine(case(SUITE, "good"), 0.5, onnx=True, keep=seen.append)
    assert result.ok, result
    assert [stage.name for stage in result.stages] == [
        "build", "plan", "shrink", "masking", "forward", "reload", "onnx", "train"
    ]  # fmt: skip
    assert result.exact
    assert result.dtype == "float64"
    assert result.largest_difference is not None
    assert result.tolerance is not None
    assert result.largest_difference <= result.tolerance
    assert result.output_change is not None
    assert result.output_change > 1e-3
    assert result.parameters_before == sum(parameter.numel() for parameter in Net().parameters())
    assert result.parameters_after == sum((4 * 27 + 4, 4 + 4, 4 * 36 + 4, 4 * 5 + 5))
    assert result.groups == 2
    assert result.frozen == 1
    assert result.kept_back[0].startswith("head: ")
    assert not result.unknown
    assert [len(result.stages) for result in seen] == sorted(len(result.stages) for result in seen)
    assert [result.done for result in seen].count(True) == 1


@pytest.mark.parametrize(
    ("name", "reason", "detail", "last"),
    [
        ("broken", "build", "RuntimeError: no such weights in two lines (bad_suite.py:", "build"),
        ("not-finite", "build", "output of shape (2, 5) is not finite", "build"),
        ("endless", "forward", "output of shape (2, 5) is not finite", "train"),
        ("forgetful", "reload", "output differs after saving and loading", "train"),
        ("evaluates-only", "train", "ValueError: too small to train", "train"),
        ("deaf", "vacuous", "masking moved the outputs by ", "train in evaluation mode"),
        ("fixed", "nothing-pruned", "it is an output of the model", "removal"),
    ],
)  # fmt: skip
def test_each_way_to_fail_has_its_code(name, reason, detail, last):
    result = examined(name)
    assert result.done
    assert not result.ok
    assert result.reason == reason
    assert detail in result.misses[0].detail
    assert result.stages[-1].name == last


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CaptureError("a"), "capture"),
        (ValueError("a"), "plan"),
        (MemoryError(), "killed"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), "killed"),
    ],
)
def test_a_model_that_cannot_be_planned(monkeypatch, error, reason):
    def plan(*_):
        raise error

    monkeypatch.setattr(one, "plan", plan)
    result = examined("good")
    assert (result.reason, len(result.stages), result.done) == (reason, 2, True)


@pytest.mark.parametrize(("error", "reason"), [(ProofError("a"), "proof"), (ShrinkError("a"), "shrink")])
def test_a_plan_that_cannot_be_carried_out(monkeypatch, error, reason):
    def plan(*arguments):
        planned = one_plan(*arguments)

        def apply(self):
            raise error

        monkeypatch.setattr(type(planned), "apply", apply)
        return planned

    one_plan = one.plan
    monkeypatch.setattr(one, "plan", plan)
    result = examined("good")
    assert (result.reason, result.stages[-1].name) == (reason, "shrink")
    assert result.parameters_before
    assert result.parameters_after is None


@pytest.mark.skipif(torch.__version__ < (2, 8), reason="a model cannot know there that it is being exported")
def test_what_the_small_model_alone_cannot_export_is_a_miss():
    result = examined("no-small-onnx", onnx=True)
    assert [stage.reason for stage in result.misses] == ["onnx"]
    assert result.stages[-1].name == "train"


@pytest.mark.skipif(torch.__version__ < (2, 8), reason="a model cannot know there that it is being exported")
def test_what_the_dense_model_cannot_export_either_is_told_and_not_counted():
    result = examined("no-onnx", onnx=True)
    assert result.ok
    assert [stage.name for stage in result.excused] == ["onnx"]
    assert result.excused[0].detail.startswith("onnx: dense fails too: ExportError")


def test_a_model_that_never_trains_is_not_counted_and_one_that_trains_in_evaluation_mode_has_to():
    never, evaluating = examined("never-trains"), examined("never-trains-in-training")
    assert never.ok
    assert [stage.name for stage in never.excused] == ["train", "train in evaluation mode"]
    assert evaluating.ok
    assert [stage.name for stage in evaluating.excused] == ["train"]
    assert evaluating.stages[-1].reason is None


def test_outputs_keep_their_names_and_shapes():
    class Two(Net):
        def forward(self, x):
            return {"a": super().forward(x), "b": x}

    x = torch.randn(2, 3, 6, 6)
    shapes = stages.healthy_shapes(Two(), x)
    assert shapes == {"output['a']": (2, 5), "output['b']": (2, 3, 6, 6)}
    stages.check_forward(Two(), x, shapes, varying=False)
    with pytest.raises(stages.MissError, match=r"output\['a'\] has shape \(2, 5\), and \(2, 7\) in the dense model"):
        stages.check_forward(Two(), x, shapes | {"output['a']": (2, 7)}, varying=False)
    with pytest.raises(stages.MissError, match="the dense model returns output;"):
        stages.check_forward(Two(), x, {"output": (2, 5)}, varying=False)
    stages.check_forward(Two(), x, shapes | {"output['a']": (3, 5)}, varying=True)
    with pytest.raises(stages.MissError, match="has shape"):
        stages.check_forward(Two(), x, shapes | {"output['a']": (2, 7)}, varying=True)


def test_training_wants_gradients_that_are_finite_and_not_all_zero():
    x = torch.randn(2, 3, 6, 6)
    model = Net()
    before = model.head.weight.detach().clone()
    stages.check_training(model, x)
    assert not torch.equal(model.head.weight, before)
    with torch.no_grad():
        model.head.weight.fill_(1e30)
    with pytest.raises(stages.MissError, match="is not finite"):
        stages.check_training(model, x)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    with pytest.raises(stages.MissError, match="every gradient is zero"):
        stages.check_training(model, x)
