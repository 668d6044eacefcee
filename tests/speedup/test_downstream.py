"""A shrunk model is an ordinary model: whatever one does with models afterwards works on it, too."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.vision import randomise, torchvision_models
from torchpare import ModelSpeedup, load, plan, save
from torchpare.errors import MissingExtraError
from torchpare.files.onnx import check_onnx, export_onnx
from torchpare.pruning import L1FilterPruner

ROOT = Path(__file__).parents[2]

# Libraries warn of themselves: of operators to come, of settings to be preferred.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Residual(nn.Module):
    """A stem, a block around which its input is added, a grouped convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv1 = nn.Conv2d(16, 24, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.norm1(self.conv1(x))))
        return self.head(torch.relu(self.grouped(x)).mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer encoder between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens)))


class Recurrent(nn.Module):
    """Two layers of LSTM, of whose last state a head is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def llama() -> nn.Module:
    """A small LLaMA, with two query heads for each key-value head."""
    with suppress(MissingExtraError):  # transformers imports torchvision where that is installed
        torchvision_models()
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=32,
        use_cache=False,  # a cache that is returned is an output, and so are the heads in it
    )
    return transformers.LlamaForCausalLM(config)


TOKENS = torch.arange(14).view(2, 7)
CASES = {
    "cnn": (Residual, (torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8),)),
    "encoder": (Encoder, (TOKENS,)),
    "llama": (llama, {"input_ids": TOKENS}),
    "lstm": (Recurrent, (torch.linspace(-1, 1, 2 * 4 * 6).view(2, 4, 6),)),
}
# Different widths in different places: half of everything, but less of one layer.
ENTRIES = {
    "cnn": [{"structures": ["all"], "sparsity": 0.5}, {"op_names": ["conv1"], "structures": ["all"], "sparsity": 0.25}],
    "encoder": [
        {"structures": ["mlp", "heads"], "sparsity": 0.5},
        {"op_names": ["encoder.layers.1.linear1"], "structures": ["mlp"], "sparsity": 0.25},
    ],
    "llama": [
        {"structures": ["mlp", "heads"], "sparsity": 0.5},
        {
            "op_names": ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"],
            "structures": ["mlp"],
            "sparsity": 0.25,
        },
    ],
    "lstm": [{"structures": ["hidden"], "sparsity": 0.5}],
}
each = pytest.mark.parametrize("name", CASES)


def dense(name: str, seed: int = 0) -> nn.Module:
    build, _ = CASES[name]
    return randomise(build(), torch.Generator().manual_seed(seed)).eval()


def shrunk(name: str, seed: int = 0) -> nn.Module:
    model = dense(name, seed)
    report = plan(model, ENTRIES[name], CASES[name][1]).apply()
    assert report.parameters_after < 0.8 * report.parameters_before
    return model


def run(model: nn.Module, name: str, dtype: torch.dtype | None = None) -> Tensor:
    inputs = CASES[name][1]
    if isinstance(inputs, dict):
        return model(**inputs)[0]
    return model(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))


def outputs(model: nn.Module, name: str) -> Tensor:
    with torch.no_grad():
        return run(model, name)


@each
def test_it_trains(name):
    model = shrunk(name).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    target = torch.randn(outputs(model, name).shape)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (run(model, name) - target).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


@each
def test_gradients_equal_those_of_the_masked_model(name):
    model = dense(name)
    made = plan(model, ENTRIES[name], CASES[name][1])
    masked, cuts = copy.deepcopy(model).double(), made.shrink.cuts
    layers = dict(masked.named_modules())
    with torch.no_grad():
        for layer, own in made.masks().items():
            for parameter, mask in own.items():
                layers[layer].get_parameter(parameter).mul_(mask)
    made.apply()
    want, have = run(masked, name, torch.float64), run(model.double(), name, torch.float64)
    weights = torch.randn(want.shape, dtype=torch.float64)
    (want * weights).sum().backward()
    (have * weights).sum().backward()
    big = dict(masked.named_parameters())
    for key, parameter in model.named_parameters():
        kept = cuts[key].apply(big[key].grad) if key in cuts else big[key].grad
        assert kept.shape == parameter.grad.shape
        assert torch.allclose(parameter.grad, kept, rtol=1e-9, atol=1e-11), key
    assert any(parameter.shape != big[key].shape for key, parameter in model.named_parameters())


@each
def test_copies_and_pickles_equal_it(name):
    model = shrunk(name)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(twin, name), outputs(model, name))
        next(twin.parameters()).data.zero_()
    assert next(model.parameters()).abs().sum() > 0


@each
def test_its_state_loads_into_another_one_that_was_shrunk_alike(name):
    model, other = shrunk(name), shrunk(name, seed=1)
    assert not torch.equal(outputs(other, name), outputs(model, name))
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other, name), outputs(model, name))


def test_widths_layer_by_layer_survive_a_file_and_a_new_process(tmp_path):
    models = {name: shrunk(name) for name in CASES}
    assert (models["cnn"].conv1.out_channels, models["cnn"].conv2.out_channels) == (18, 8)
    assert [layer.linear1.out_features for layer in models["encoder"].encoder.layers] == [16, 24]
    assert [layer.mlp.up_proj.out_features for layer in models["llama"].model.layers] == [24, 36]
    for name, model in models.items():
        save(model, tmp_path / f"{name}.safetensors")
    script = (
        "import sys, torch, torchpare\n"
        "from tests.speedup.test_downstream import CASES, outputs\n"
        "for name, (build, _) in CASES.items():\n"
        "    model = torchpare.load(build(), f'{sys.argv[1]}/{name}.safetensors').eval()\n"
        "    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}\n"
        "    torch.save((outputs(model, name), shapes), f'{sys.argv[1]}/{name}.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=300)
    for name, model in models.items():
        result, shapes = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.equal(result, outputs(model, name))
        assert shapes == {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert load(CASES[name][0](), tmp_path / f"{name}.safetensors").state_dict().keys() == model.state_dict().keys()


@each
def test_it_compiles_whole(name):
    torch.compiler.reset()
    model = shrunk(name)
    whole = name != "lstm"  # torch compiles around any LSTM, not through it
    compiled = torch.compile(model, fullgraph=whole, backend="aot_eager")
    assert torch.allclose(outputs(compiled, name), outputs(model, name), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not shutil.which("g++"), reason="the compiler of torch needs one for C++")
def test_it_compiles_to_machine_code():
    torch.compiler.reset()
    model = shrunk("cnn")
    compiled = torch.compile(model, fullgraph=True)
    assert torch.allclose(outputs(compiled, "cnn"), outputs(model, "cnn"), rtol=1e-4, atol=1e-5)


@each
def test_it_exports(name):
    model, inputs = shrunk(name), CASES[name][1]
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    program = torch.export.export(model, args, kwargs, strict=False)
    assert torch.allclose(outputs(program.module(), name), outputs(model, name), rtol=1e-5, atol=1e-6)


@each
def test_it_runs_in_onnxruntime(name, tmp_path):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    model = shrunk(name)
    export_onnx(model, tmp_path / "small.onnx", CASES[name][1])
    assert check_onnx(model, tmp_path / "small.onnx", CASES[name][1]) < 1e-4


@each
def test_it_can_be_shrunk_once_more(name, tmp_path):
    model = shrunk(name)
    before = sum(p.numel() for p in model.parameters())
    again = plan(model, [{"structures": [ENTRIES[name][0]["structures"][0]], "sparsity": 0.5}], CASES[name][1])
    report = again.apply()
    assert report.largest_difference <= report.tolerance
    assert sum(p.numel() for p in model.parameters()) == report.parameters_after < before
    save(model, tmp_path / "smaller.safetensors")
    loaded = load(CASES[name][0](), tmp_path / "smaller.safetensors").eval()
    assert torch.equal(outputs(loaded, name), outputs(model, name))


PRUNED = {
    "cnn": ["conv1", "grouped"],
    "encoder": ["encoder.layers.0.linear1", "encoder.layers.1.linear1"],
    "llama": ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"],
}


@pytest.mark.parametrize("name", PRUNED)
def test_a_plan_follows_a_pruner_and_its_speedup(name, tmp_path):
    model, inputs = dense(name), CASES[name][1]
    pruner = L1FilterPruner(model, [{"op_names": PRUNED[name], "sparsity": 0.25}])
    pruner.compress()
    first = ModelSpeedup(model, inputs).speedup_model()
    second = plan(model, ENTRIES[name], inputs).apply()
    assert first.parameters_before > first.parameters_after == second.parameters_before > second.parameters_after
    save(model, tmp_path / "small.safetensors")
    loaded = load(CASES[name][0](), tmp_path / "small.safetensors").eval()
    assert torch.equal(outputs(loaded, name), outputs(model, name))


@pytest.mark.parametrize("structures", [["mlp", "heads"], ["mlp", "heads", "head_dim", "embedding"], ["layers"]])
def test_a_language_model_generates_with_a_cache_of_fewer_heads(structures):
    model = dense("llama")
    plan(model, [{"structures": structures, "sparsity": 0.5}], CASES["llama"][1]).apply()
    tokens = TOKENS.clone()
    with torch.no_grad():
        for _ in range(5):
            tokens = torch.cat([tokens, model(input_ids=tokens)[0][:, -1:].argmax(-1)], 1)
        settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        made = model.generate(TOKENS, attention_mask=torch.ones_like(TOKENS), use_cache=True, **settings)
        cache = model(input_ids=TOKENS, use_cache=True).past_key_values
    assert torch.equal(made, tokens)
    assert len(cache.layers) == len(model.model.layers)
    assert cache.layers[0].keys.shape[1] == (4 if structures == ["layers"] else 2)
