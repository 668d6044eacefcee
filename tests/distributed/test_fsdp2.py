"""Under torchrun and ``fully_shard`` masks and scales are those of one process, and what is gathered is a plain model.

In two layouts: ``fully_shard`` on every layer and the model, which gives each layer another class, and on the model
alone. In two orders: sharded before anything is compressed, and after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.fsdp_cases import BEFORE, EXAMPLE, masked_and_quantized
from tests.distributed.fsdp_script import CASES
from tests.distributed.launch import once
from tests.distributed.pruner_cases import PRUNERS
from tests.distributed.quantizer_cases import QUANTIZERS
from tests.distributed.share import CONVOLUTIONS, EVERYTHING, Share, grids, masks, net
from torchpare import ModelSpeedup, load, save
from torchpare.attach import plain_state_dict
from torchpare.pruning import L1FilterPruner
from torchpare.quantization import LsqQuantizer, QAT_Quantizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*never below zero")]

LAYOUTS = tuple(CASES)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to in every case: one launch for all."""
    folder = once(tmp_path_factory, "fsdp2", Path(__file__).with_name("fsdp_script.py"))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], nn.Module]:
    """The models of one process that sees whole batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cases = PRUNERS | QUANTIZERS
    made = {
        (order, name): (BEFORE if order == "sharded last" else cases)[name](Share()) for order, name in CASES["layers"]
    }
    torch.set_num_threads(threads)
    return made


@pytest.mark.parametrize(("layout", "order", "name"), [(layout, *case) for layout in CASES for case in CASES[layout]])
def test_masks_scales_and_weights_are_those_of_one_process(layout, order, name, found, alone):
    ours, theirs = (rank[f"{layout} / {order} / {name}"] for rank in found)
    model = alone[order, name]
    expected = {"masks": masks(model), "grids": grids(model), "state": model.state_dict()}
    assert expected["masks"] or expected["grids"]
    for kind, values in expected.items():
        assert values.keys() == ours[kind].keys() == theirs[kind].keys()
        for key, value in values.items():
            assert torch.equal(ours[kind][key], theirs[kind][key]), key
            torch.testing.assert_close(
                ours[kind][key], value, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}"
            )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_gathered_is_pruned_exported_shrunk_and_saved_as_any_model(layout, found, tmp_path):
    state = found[0][f"{layout} / sharded first / agp l1"]["state"]
    model = net()
    pruner = L1FilterPruner(model, CONVOLUTIONS, dummy_input=EXAMPLE)
    pruner.load_model_state_dict(state)  # strictly, and the masks with it
    assert all(torch.equal(mask, state[f"{key}_mask"]) for key, mask in masks(model).items())
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    net().load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    model.eval()
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x)
    ModelSpeedup(model, EXAMPLE).speedup_model()
    assert model.a.out_channels == 4
    save(model, tmp_path / "small.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(load(net(), tmp_path / "small.safetensors").eval()(x), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "quantizer"), [("qat", QAT_Quantizer), ("lsq", LsqQuantizer)])
def test_what_is_gathered_is_a_quantized_model(layout, name, quantizer, found, tmp_path):
    state = found[0][f"{layout} / sharded first / {name}"]["state"]
    model = net()
    own = quantizer(model, [EVERYTHING])
    own.compress()
    model.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in grids(model).items())
    calibration = own.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    assert calibration["a"]["weight_scale"].shape == model.a.scale.shape
    for key, value in torch.load(tmp_path / "model.pth", weights_only=True).items():
        assert torch.equal(value, plain_state_dict(model)[key])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sharded_model_takes_over_what_was_gathered_and_what_was_written_in_pieces(layout, found):
    for rank in found:
        for way in ("resumed", "checkpoint"):
            kept, again = (rank[f"{layout} / told"][way][key] for key in ("kept", "again"))
            assert any(key.endswith("_mask") for key in kept)
            assert kept.keys() == again.keys()
            assert all(torch.equal(value, again[key]) for key, value in kept.items())
    expected = masked_and_quantized(Share()).state_dict()
    assert expected.keys() == found[0][f"{layout} / told"]["resumed"]["kept"].keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_to_learn_that_come_into_a_sharded_model_stay_the_same_everywhere(layout, found, alone):
    ours, theirs = (rank[f"{layout} / told"]["late"] for rank in found)
    for key, value in grids(alone["sharded first", "lsq"]).items():
        assert torch.equal(ours[key], theirs[key]), key
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_between_passes_a_weight_is_its_pieces_and_baking_writes_zeros_into_them(layout, found):
    for rank in found:
        told = rank[f"{layout} / told"]
        assert told["read"]["itself"]
        assert told["read"]["pieces"] == 4  # of eight filters, on two processes
        assert told["read"]["listed"]
        assert "masked: weight" in told["read"]["repr"]
        assert told["baked"] == {"same kinds": True, "zeros": True, "sharded": True, "masks": 3}
        assert told["halves"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_a_model_has_to_be_whole_it_is_said_what_to_do(layout, found):
    for rank in found:
        said = rank[f"{layout} / refused"]
        for what in ("export", "shrink", "ahead", "equal", "write", "calibration", "rounding"):
            assert "Net is sharded" in said[what], what
            assert "before fully_shard" in said[what]
            assert "get_model_state_dict" in said[what]
        assert "Linear.weight lies in pieces (S(0))" in said["apart"]
        assert "tensor parallelism" in said["apart"]
        assert "before fully_shard, or with DDP" in said["hessian"]
