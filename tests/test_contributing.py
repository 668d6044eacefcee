"""What CONTRIBUTING.md shows works, and its words are those of the Makefile."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import torchpare
from tests.support.nets import Net
from torchpare.attach import masks_of
from torchpare.graph.rules import table

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_pruner_it_shows_prunes():
    names: dict = {}
    block, _, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(block, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    model = Net()
    spread = model.conv1.weight.detach().flatten(1).var(dim=1)
    names["SpreadPruner"](
        model, [{"sparsity": 0.5, "op_names": ["conv1"]}], dummy_input=torch.zeros(1, 3, 6, 6)
    ).compress()
    gone = ~masks_of(model)["conv1"]["weight"].flatten()
    assert set(gone.nonzero().flatten().tolist()) == set(spread.argsort()[:4].tolist())


def test_the_quantizer_it_shows_quantizes(tmp_path):
    names: dict = {}
    _, block, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(block, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    model, x = Net(), torch.randn(2, 3, 6, 6)
    asked = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_names": ["conv1"]}]
    quantizer = names["PowerOfTwoRanges"](model, asked)
    quantizer.compress()
    model(x)
    high = 2 ** model.conv1.old_weight.detach().abs().max().log2().ceil()
    torch.testing.assert_close(model.conv1.scale, high / 127)
    again = Net()
    names["PowerOfTwoRanges"](again, asked).compress()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert set(quantizer.export_model(tmp_path / "model.pth")["conv1"]) >= {"weight_bits", "output_scale"}


def test_the_rule_it_shows_lets_channels_through_an_operator_of_ones_own():
    _, _, block = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), Shifted(), torch.nn.Conv2d(8, 2, 1))
    x = torch.randn(1, 3, 4, 4)
    with torch.library._scoped_library("mylib", "DEF") as library:
        library.define("shift(Tensor x) -> Tensor")
        library.impl("shift", lambda x: x.roll(1, -1), "CompositeExplicitAutograd")
        assert "mylib.shift" in torchpare.plan(model, [{"sparsity": 0.0, "structures": ["all"]}], x).space.unknown
        try:
            exec(compile(block, "CONTRIBUTING.md", "exec", dont_inherit=True), {})
            report = torchpare.plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
        finally:
            table._RULES.pop("mylib.shift", None)
    assert report.exact
    assert model[0].out_channels == 4


class Shifted(torch.nn.Module):
    def forward(self, x):
        return torch.ops.mylib.shift(x)


def test_every_word_it_tells_is_a_word_of_make():
    words = set(re.findall(r"`make (\w+)`", PAGE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert words
    assert words <= targets


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / target).exists(), target
