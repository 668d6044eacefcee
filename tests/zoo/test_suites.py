"""The zoo's transformers and hand-written nets: each name builds one thing, the same every time, and it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchpare.errors import ConfigError
from torchpare.zoo import custom_suite, transformers_suite

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")

CUSTOM_SAMPLE = (
    "lstm-bidirectional",
    "u-net",
    "yolo-head",
    "gan-generator-grouped",
    "qkv-h3d",
    "transformer-decoder",
    "tied-convolution",
    "moe-top2-loop",
    "vae",
    "dict-in-and-out",
    "keywords",
    "dataclass",
    "named-tuple",
    "graph-attention-scatter",
    "hard-coded-view",
    "cached-table",
    "mixed-types",
)
TRANSFORMERS_SAMPLE = (
    "bert-mlm-mask",
    "albert-mlm",
    "gpt2",
    "llama-grouped",
    "mixtral",
    "mamba",
    "t5-logits",
    "wav2vec2-ctc",
    "swin",
    "detr",
    "clip",
)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors(vars(value))


def call(model: nn.Module, inputs: Any) -> list[Tensor]:
    if isinstance(inputs, dict):
        return list(tensors(model(**inputs)))
    return list(tensors(model(*inputs) if isinstance(inputs, tuple) else model(inputs)))


def builds_the_same_twice_and_runs(build: Any, name: str) -> None:
    torch.manual_seed(1)
    model, inputs = build(name)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again, inputs_again = build(name)

    assert not model.training
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state()), "a build moves the global generator"
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    pairs = list(zip(tensors(inputs), tensors(inputs_again), strict=True))
    assert pairs
    assert all(torch.equal(a, b) for a, b in pairs)

    with torch.no_grad():
        outputs, outputs_again = call(model, inputs), call(again, inputs_again)
    assert any(output.is_floating_point() for output in outputs)
    assert all(output.isfinite().all() for output in outputs)
    assert all(torch.equal(a, b) for a, b in zip(outputs, outputs_again, strict=True))


@pytest.mark.parametrize("name", CUSTOM_SAMPLE)
def test_a_custom_net_is_the_same_each_time_and_runs(name):
    builds_the_same_twice_and_runs(custom_suite.build, name)


@needs_transformers
@pytest.mark.slow  # importing transformers takes most of it
@pytest.mark.parametrize("name", TRANSFORMERS_SAMPLE)
@pytest.mark.filterwarnings("default")  # the library's own, which are no business of ours
def test_a_transformer_is_the_same_each_time_and_runs(name):
    builds_the_same_twice_and_runs(transformers_suite.build, name)


def test_every_custom_net_is_small_and_built_under_its_own_name():
    """Two names for one builder would count one net twice."""
    seen: dict[str, str] = {}
    for name in custom_suite.NAMES:
        model, inputs = custom_suite.build(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert 0 < parameters < 1_000_000, name
        settings = sorted((key, value) for key, value in vars(model).items() if isinstance(value, int | float | str))
        key = repr((model, settings, inputs))
        assert key not in seen, f"{name} is {seen.get(key)} again"
        seen[key] = name


@pytest.mark.parametrize(("suite", "at_least"), [(custom_suite, 60), (transformers_suite, 45)])
def test_the_names_are_many_unique_and_writable_on_a_command_line(suite, at_least):
    assert len(suite.NAMES) >= at_least
    assert len(set(suite.NAMES)) == len(suite.NAMES)
    assert all(name == name.lower() and name.replace("-", "").isalnum() for name in suite.NAMES)


def test_the_tables_of_a_suite_do_not_hide_each_other():
    """A name in two tables would silently replace the first by the second."""
    tables = [
        value
        for suite in (custom_suite, transformers_suite)
        for key, value in vars(suite).items()
        if key.isupper() and isinstance(value, dict) and not key.startswith("_")
    ]
    assert sum(len(table) for table in tables) == len(custom_suite.NAMES) + len(transformers_suite.NAMES)


def test_the_transformers_suite_is_broad():
    classes = {case.model for case in transformers_suite._CASES.values()}
    assert len(classes) >= 120


@pytest.mark.parametrize("suite", [custom_suite, transformers_suite])
def test_an_unknown_name_is_answered_with_the_names(suite):
    with pytest.raises(ConfigError, match=f"no model 'resnet5000'.*{suite.NAMES[0]}"):
        suite.build("resnet5000")


def test_one_output_is_the_field_that_was_asked_for():
    class Two(nn.Module):
        def forward(self, x):
            return dataclasses.make_dataclass("Output", ["logits", "hidden"])(x + 1, x)

    x = torch.zeros(2)
    assert torch.equal(transformers_suite.OneOutput(Two(), "logits")(x=x), x + 1)
