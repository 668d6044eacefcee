"""Whole attention heads of any attention: which go, and that the model shrinks to what it was with them masked."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from tests.support.attention import tokens, train
from tests.support.vision import torchvision_models
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError, MaskError, MissingExtraError
from torchpare.pruning import TransformerHeadPruner

HEADS = [{"sparsity": 0.5, "structures": ["heads"]}]


def gone(model, layer=0, heads=4, width=6):
    """The heads that are masked in the queries of a fused projection."""
    mask = masks_of(model)[f"layers.{layer}.qkv"]["weight"].flatten()
    rows = mask.expand(model.layers[layer].qkv.out_features).view(3, heads, width)
    assert (rows.all(2) | ~rows.any(2)).all()
    return (~rows[0].any(1)).nonzero().flatten().tolist()


@pytest.mark.parametrize("p", [1, 2])
def test_the_heads_whose_projections_are_smallest_go(p):
    model, x = tokens()
    with torch.no_grad():
        for layer in model.layers:
            layer.qkv.weight.view(3, 4, 6, 20)[:, [1, 3]] *= 0.1
            layer.qkv.bias.view(3, 4, 6)[:, [1, 3]] *= 0.1
            layer.out.weight.view(20, 4, 6)[:, [0, 2]] *= 0.01  # what reads them does not count
    TransformerHeadPruner(model, HEADS, dummy_input=x, ranking_criterion=f"l{p}_weight").compress()
    assert [gone(model, layer) for layer in range(3)] == [[1, 3]] * 3
    report = ModelSpeedup(model, x).speedup_model()
    assert report.exact
    assert report.output_change > 1e-3
    assert model.layers[0].heads == 2
    assert model.layers[0].qkv.weight.shape == (36, 20)


def test_the_heads_that_pass_least_on_go():
    model, x = tokens()
    with torch.no_grad():
        model.layers[1].qkv.weight.view(3, 4, 6, 20)[2, 2] *= 1e-4  # values
        model.layers[1].qkv.bias.view(3, 4, 6)[2, 2] *= 1e-4
        model.layers[1].qkv.weight.view(3, 4, 6, 20)[:2, 2] *= 50  # large queries and keys do not save it
    runs = []

    def run(model):
        runs.append(model(x))

    asked = [{"sparsity": 0.25, "op_names": ["layers.1"]}]
    for criterion in ("l1_activation", "l2_activation"):
        model, _ = tokens()
        with torch.no_grad():
            model.layers[1].qkv.weight.view(3, 4, 6, 20)[2, 2] *= 1e-4
            model.layers[1].qkv.bias.view(3, 4, 6)[2, 2] *= 1e-4
            model.layers[1].qkv.weight.view(3, 4, 6, 20)[:2, 2] *= 50
        TransformerHeadPruner(model, asked, dummy_input=x, ranking_criterion=criterion, forward_runner=run).compress()
        assert gone(model, 1) == [2]
        assert "layers.0.qkv" not in masks_of(model)
        assert not any(module._forward_pre_hooks for module in model.modules())
    assert len(runs) == 2


def test_the_heads_that_the_loss_would_not_miss_go():
    model, x = tokens()
    with torch.no_grad():
        model.layers[0].out.weight.view(20, 4, 6)[:, 1] = 0  # nobody hears this head, whatever its size
        model.layers[0].qkv.weight.view(3, 4, 6, 20)[:, 1] *= 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    asked = [{"sparsity": 0.25, "op_names": ["layers.0"]}]
    TransformerHeadPruner(model, asked, dummy_input=x, ranking_criterion="taylorfo", optimizer=optimizer,
                          trainer=train).compress()  # fmt: skip
    assert gone(model, 0) == [1]


@pytest.mark.parametrize(("criterion", "head"), [("l1_weight", 2), ("l2_weight", 0)])
def test_the_norm_is_the_one_that_was_asked_for(criterion, head):
    model, x = tokens()
    with torch.no_grad():
        weight = model.layers[0].qkv.weight.fill_(1).view(3, 4, 6, 20)
        model.layers[0].qkv.bias.zero_()
        weight[:, 0] = 0.9  # a row sums to 18, its squares to 16
        weight[:, 2] = torch.eye(20)[0] * 10  # 10 and 100
    asked = [{"sparsity": 0.25, "op_names": ["layers.0"]}]
    TransformerHeadPruner(model, asked, dummy_input=x, ranking_criterion=criterion).compress()
    assert gone(model, 0) == [head]


@pytest.mark.parametrize(("criterion", "head"), [("l1_activation", 2), ("l2_activation", 0)])
def test_what_is_passed_on_is_measured_by_the_norm_that_was_asked_for(criterion, head):
    model, x = tokens()
    with torch.no_grad():
        model.layers[0].qkv.weight.view(3, 4, 6, 20)[2] = 0  # every token has the same values, those of the bias
        values = model.layers[0].qkv.bias.view(3, 4, 6)[2].fill_(2)
        values[0] = -0.9  # 5.4 in all, its squares 4.9
        values[2] = torch.tensor([5.0, 0, 0, 0, 0, 0])  # 5 and 25
    asked = [{"sparsity": 0.25, "op_names": ["layers.0"]}]
    TransformerHeadPruner(
        model, asked, dummy_input=x, ranking_criterion=criterion, forward_runner=lambda model: model(x)
    ).compress()
    assert gone(model, 0) == [head]


def test_taylor_adds_up_squared_products_of_what_makes_and_reads_a_head():
    model, x = tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    worth = torch.zeros(3, 4, dtype=torch.float64)
    for seed in range(2):  # as train() does
        ids = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(seed))
        model(ids).square().mean().backward()
        for at, layer in enumerate(model.layers):
            made = (layer.qkv.weight * layer.qkv.weight.grad).double().square().view(3, 4, -1).sum((0, 2))
            biased = (layer.qkv.bias * layer.qkv.bias.grad).double().square().view(3, 4, -1).sum((0, 2))
            read = (layer.out.weight * layer.out.weight.grad).double().square().view(20, 4, 6).sum((0, 2))
            worth[at] += made + biased + read
        optimizer.zero_grad()
    pruner = TransformerHeadPruner(model, HEADS, dummy_input=x, ranking_criterion="taylorfo", optimizer=optimizer,
                                   trainer=train)  # fmt: skip
    sums = {}
    kept = pruner._products

    def products(names, turn):
        sums.update(kept(names, turn))
        return sums

    pruner._products = products
    pruner.compress()
    for at in range(3):
        found = sum(
            sums[f"layers.{at}.{name}"].view(shape).sum((0, 2))
            for name, shape in (("qkv.weight", (3, 4, -1)), ("qkv.bias", (3, 4, -1)), ("out.weight", (20, 4, 6)))
        )
        torch.testing.assert_close(found, worth[at])


class Apart(nn.Module):
    """Attention with a projection each for queries, keys and values, of different sizes and with large biases."""

    def __init__(self, heads: int = 4, width: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k, self.v = (nn.Linear(10, heads * width) for _ in range(3))
        self.out = nn.Linear(heads * width, 10)
        with torch.no_grad():
            for at, layer in enumerate((self.q, self.k, self.v), start=1):
                layer.weight.copy_(torch.randn(heads * width, 10) * scale * 2**at)
                layer.bias.copy_(torch.randn(heads * width) * 30)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (one(x).view(n, length, self.heads, self.width).transpose(1, 2) for one in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(n, length, -1))


def heads_gone(layer):
    if "v" not in masks_of(layer):
        return []
    rows = (masks_of(layer)["v"]["weight"].flatten()).expand(layer.heads * layer.width).view(layer.heads, layer.width)
    return (~rows.any(1)).nonzero().flatten().tolist()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_weights_of_queries_keys_and_values_are_added_up_as_they_are_without_biases(p, seed):
    torch.manual_seed(seed)
    model = Apart()
    worth = sum(one.weight.detach().double().abs().pow(p).view(4, -1).sum(1) for one in (model.q, model.k, model.v))
    TransformerHeadPruner(model, HEADS, dummy_input=torch.randn(2, 5, 10), ranking_criterion=f"l{p}_weight").compress()
    assert heads_gone(model) == sorted(worth.argsort()[:2].tolist())


@pytest.mark.parametrize("criterion", ["l1_weight", "l1_activation", "taylorfo"])
def test_the_heads_of_all_attentions_are_compared_as_they_are(criterion):
    torch.manual_seed(0)
    model = nn.Sequential(Apart(), Apart(heads=4, width=3, scale=0.3))
    x = torch.randn(2, 5, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    passed = []
    hooks = [block.out.register_forward_pre_hook(lambda _, given: passed.append(given[0].detach())) for block in model]
    model(x).square().sum().backward()
    for hook in hooks:
        hook.remove()
    worth = {}
    for at, block in enumerate(model):
        if criterion == "l1_weight":
            own = sum(one.weight.detach().abs().view(4, -1).sum(1) for one in (block.q, block.k, block.v))
        elif criterion == "l1_activation":
            own = passed[at].abs().view(-1, 4, 3).sum((0, 2))
        else:
            products = [(p * p.grad).detach().double().square() for one in (block.q, block.k, block.v)
                        for p in (one.weight, one.bias)]  # fmt: skip
            own = sum(product.view(4, -1).sum(1) for product in products)
            own = own + (block.out.weight * block.out.weight.grad).detach().double().square().view(10, 4, 3).sum((0, 2))
        worth.update({(at, head): float(score) for head, score in enumerate(own)})
    model.zero_grad()

    def trainer(model, optimizer, criterion, epoch):
        del criterion, epoch
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    TransformerHeadPruner(
        model, HEADS, dummy_input=x, ranking_criterion=criterion, global_sort=True, optimizer=optimizer, trainer=trainer
    ).compress()
    best = {max((head for head in worth if head[0] == at), key=lambda head: worth[head]) for at in (0, 1)}
    lowest = sorted(set(worth) - best, key=lambda head: worth[head])[:4]  # half of all, and each keeps its best
    found = {(at, head) for at, block in enumerate(model) for head in heads_gone(block)}
    assert found == set(lowest)


def test_the_lowest_heads_of_all_attentions_go_and_each_keeps_one():
    model, x = tokens()
    with torch.no_grad():
        for at in range(4):
            model.layers[2].qkv.weight.view(3, 4, 6, 20)[:, at] *= 1e-3 * (at + 1)
            model.layers[2].qkv.bias.view(3, 4, 6)[:, at] *= 1e-3 * (at + 1)
    TransformerHeadPruner(
        model, [{"sparsity": 0.25, "structures": ["heads"]}], dummy_input=x, global_sort=True
    ).compress()
    # each layer's scores are in proportion to its own mean, so that no layer is small as a whole
    total = sum(len(gone(model, layer)) if f"layers.{layer}.qkv" in masks_of(model) else 0 for layer in range(3))
    assert total == 3
    both = [{"sparsity": 0.5, "op_names": ["layers.0"]}, {"sparsity": 0.25, "op_names": ["layers.1"]}]
    pruner = TransformerHeadPruner(tokens()[0], both, dummy_input=x, global_sort=True)
    with pytest.raises(ConfigError, match="give one sparsity"):
        pruner.compress()


def test_no_attention_loses_more_heads_than_its_entry_allows():
    def left(cap):
        model, x = tokens()
        with torch.no_grad():
            model.layers[1].qkv.weight.view(3, 4, 6, 20)[:, :3] *= 1e-3
            model.layers[1].qkv.bias.view(3, 4, 6)[:, :3] *= 1e-3
        entry = {"sparsity": 0.25, "structures": ["heads"], "max_sparsity_per_layer": cap}
        TransformerHeadPruner(model, [entry], dummy_input=x, global_sort=True).compress()
        return [len(gone(model, layer)) if f"layers.{layer}.qkv" in masks_of(model) else 0 for layer in range(3)]

    assert left(1.0) == [0, 3, 0]
    assert left(0.5)[1] == 2
    assert sum(left(0.5)) == 3
    contradicts = [{"sparsity": 0.5, "structures": ["heads"], "max_sparsity_per_layer": 0.25}]
    model, x = tokens()
    with pytest.raises(ConfigError, match=r"asks for a sparsity of 0\.5, and its max_sparsity_per_layer allows 0\.25"):
        TransformerHeadPruner(model, contradicts, dummy_input=x).compress()


def test_a_name_of_no_layer_is_not_passed_over():
    model, x = tokens()
    groups = [["layers.0.qkv", "layers.0.out"], ["layers.1.qvk"]]
    message = r"attention_name_groups\[1\]\[0\]: 'layers.1.qvk' names no layer.*did you mean 'layers.1.qkv'"
    with pytest.raises(ConfigError, match=message):
        TransformerHeadPruner(model, HEADS, attention_name_groups=groups, dummy_input=x)


def test_heads_go_by_turns_with_training():
    model, x = tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []

    def trainer(model, optimizer, criterion, epoch):
        seen.append((epoch, len(gone(model)) if is_attached(model) else 0))
        train(model, optimizer, criterion, epoch)

    TransformerHeadPruner(model, [{"sparsity": 0.75, "structures": ["heads"]}], dummy_input=x, num_iterations=3,
                          epochs_per_iteration=2, optimizer=optimizer, trainer=trainer).compress()  # fmt: skip
    assert seen == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert len(gone(model)) == 3
    ModelSpeedup(model, x).speedup_model()
    assert model.layers[0].heads == 1


def test_entries_reach_attentions_by_name_later_ones_win_and_exclude_excludes():
    model, x = tokens()
    asked = [
        {"sparsity": 0.5, "op_types": ["Linear"]},
        {"sparsity": 0.25, "op_names": ["layers.1.qkv"]},
        {"exclude": True, "op_names": ["layers.2"]},
    ]
    pruner = TransformerHeadPruner(model, asked, 6, dummy_input=x)
    pruner.compress()
    assert [len(gone(model, layer)) for layer in (0, 1)] == [2, 1]
    assert "layers.2.qkv" not in masks_of(model)
    assert pruner.attentions == (("layers.0.qkv",), ("layers.1.qkv",))


def test_older_scripts_name_the_layers_of_each_attention():
    model, x = tokens()
    names = [["layers.0.qkv", "layers.0.out"]]
    TransformerHeadPruner(model, HEADS, 6, names, x).compress()
    assert masks_of(model).keys() & {"layers.0.qkv", "layers.1.qkv"} == {"layers.0.qkv"}


def test_torchs_own_attention(tmp_path):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).double().eval()
    x = torch.randn(2, 5, 16).double()
    pruner = TransformerHeadPruner(model, HEADS, dummy_input=x)
    pruner.compress()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    report = ModelSpeedup(model, x).speedup_model()
    assert report.exact
    assert model.layers[0].self_attn.num_heads == 2
    other = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1).eval()
    pruner = TransformerHeadPruner(other, HEADS, dummy_input=x.float(), ranking_criterion="l1_activation",
                                   forward_runner=lambda model: model(x.float()))  # fmt: skip
    with pytest.raises(MaskError, match=r"no data passed through layers\.0\.self_attn"):
        pruner.compress()


def test_grouped_queries_of_a_llama_that_still_generates():
    with suppress(MissingExtraError):  # transformers imports torchvision where that is installed
        torchvision_models()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=8,
                                      num_key_value_heads=4, vocab_size=50)  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = {"input_ids": torch.ones(1, 5, dtype=torch.long)}
    TransformerHeadPruner(model, HEADS, dummy_input=ids).compress()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        model(**ids, labels=ids["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    report = ModelSpeedup(model, ids).speedup_model()
    assert report.exact
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (16, 32)
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (8, 32)
    assert model.generate(**ids, max_new_tokens=4, do_sample=False, pad_token_id=0).shape == (1, 9)


@pytest.mark.parametrize(
    ("config_list", "options", "message"),
    [
        (HEADS, {"dummy_input": None}, "give dummy_input"),
        (HEADS, {"ranking_criterion": "l3"}, "it is one of 'l1_weight'"),
        (HEADS, {"ranking_criterion": "taylorfo"}, "give a trainer and its optimizer"),
        (HEADS, {"ranking_criterion": "l2_activation"}, "a trainer or a forward_runner"),
        ([{"sparsity": 0.5, "op_names": ["layers.9"]}], {}, "did you mean 'layers"),
        ([{"sparsity": 0.5, "structures": ["mlp"]}], {}, r"use torchpare\.plan"),
        ([{**HEADS[0], "round_to": 2}], {}, r"config_list\[0\]\['round_to'\].*whole heads"),
        ([{**HEADS[0], "granularity": [4]}], {}, r"config_list\[0\]\['granularity'\].*whole heads"),
    ],
)
def test_what_cannot_work_says_so(config_list, options, message):
    model, x = tokens()
    with pytest.raises(ConfigError, match=message):
        TransformerHeadPruner(model, config_list, **{"dummy_input": x, **options})


def test_a_config_list_that_reaches_no_attention_lists_those_there_are():
    model, x = tokens()
    with pytest.raises(ConfigError, match=r"There are: layers\.0\.qkv; layers\.1\.qkv"):
        TransformerHeadPruner(model, [{"sparsity": 0.5, "op_names": ["head"]}], dummy_input=x).compress()
    assert not is_attached(model)
