from __future__ import annotations

import copy
import json
from contextlib import suppress

import pytest
import torch
from torch import nn

from tests.support.vision import randomise, torchvision_models
from torchpare import plan, save_pretrained
from torchpare.attach import attach_masks
from torchpare.errors import CheckpointError, FileError, MissingExtraError

with suppress(MissingExtraError):  # transformers imports torchvision where that is installed
    torchvision_models()
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TOKENS = torch.arange(8).view(1, 8) + 3
TEXT = {"input_ids": TOKENS, "use_cache": False}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {**WIDTHS, **TOKEN_IDS, "vocab_size": 50, "num_key_value_heads": 2, "max_position_embeddings": 64}


def llama(**widths):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**GROUPED, **widths})), TEXT


def qwen3():
    config = transformers.Qwen3Config(**{**GROUPED, "num_hidden_layers": 4, "head_dim": 8, "use_sliding_window": True})
    return transformers.Qwen3ForCausalLM(config), TEXT


def gemma2():
    config = transformers.Gemma2Config(**GROUPED, head_dim=8, query_pre_attn_scalar=12)
    return transformers.Gemma2ForCausalLM(config), TEXT


def phi3():
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**GROUPED)), TEXT


def bert():
    config = transformers.BertConfig(**WIDTHS, vocab_size=50)
    return transformers.BertForSequenceClassification(config), {"input_ids": TOKENS}


def rembert():
    widths = {**WIDTHS, "input_embedding_size": 24, "output_embedding_size": 28}
    config = transformers.RemBertConfig(**widths, **TOKEN_IDS, vocab_size=50)
    return transformers.RemBertForMaskedLM(config), {"input_ids": TOKENS}


def gpt2():
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=50, **TOKEN_IDS)
    return transformers.GPT2LMHeadModel(config), TEXT


def vit():
    config = transformers.ViTConfig(**WIDTHS, image_size=16, patch_size=4)
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.rand(1, 3, 16, 16)}


def t5():
    config = transformers.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=50)
    return transformers.T5ForConditionalGeneration(config), {**TEXT, "decoder_input_ids": TOKENS}


def clip():
    text = {**WIDTHS, **TOKEN_IDS, "vocab_size": 50, "max_position_embeddings": 16}
    vision = {**WIDTHS, "intermediate_size": 40, "image_size": 16, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return transformers.CLIPModel(config), {"input_ids": TOKENS, "pixel_values": torch.rand(1, 3, 16, 16)}


def resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ResNetForImageClassification(config), {"pixel_values": torch.rand(1, 3, 32, 32)}


def shrunk(build, structures, generator, **entry):
    model, inputs = build()
    randomise(model, generator).eval()
    plan(model, [{"sparsity": 0.5, "structures": structures, **entry}], inputs).apply()
    return model, inputs


def logits(model, inputs):
    """Of a copy: weights that lie in a file, at odd addresses, are multiplied by other kernels than ours."""
    with torch.no_grad():
        return copy.deepcopy(model)(**inputs)[0]


@pytest.mark.parametrize(
    ("build", "structures", "fields"),
    [
        (llama, ["mlp"], {"intermediate_size": 24}),
        (llama, ["heads"], {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}),
        (llama, ["embedding"], {"hidden_size": 16, "rms_norm_eps": 2e-6, "num_attention_heads": 4, "head_dim": 8}),
        (llama, ["mlp", "heads", "embedding"], {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1}),
        (llama, ["layers", "mlp"], {"num_hidden_layers": 1, "intermediate_size": 24}),
        (qwen3, ["layers"], {"num_hidden_layers": 2, "intermediate_size": 48}),
        (gemma2, ["heads"], {"num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 12}),
        (phi3, ["heads"], {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "hidden_size": 32}),
        (bert, ["mlp", "heads", "embedding"], {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}),
        # No shape and no number that the shrink had to set tells of its heads; only running it does.
        (rembert, ["mlp", "heads", "embedding"], {"hidden_size": 16, "num_attention_heads": 2}),
        (gpt2, ["mlp"], {"n_inner": 64, "n_embd": 32}),
        (gpt2, ["mlp", "heads", "embedding"], {"n_embd": 16, "n_head": 2}),
        (vit, ["heads"], {"num_attention_heads": 2, "head_dim": 8, "hidden_size": 32}),
        (vit, ["embedding"], {"num_attention_heads": 4, "head_dim": 8, "hidden_size": 16}),
        (t5, ["heads", "mlp"], {"num_heads": 2, "d_ff": 24, "d_kv": 8}),
        (t5, ["head_dim"], {"num_heads": 4, "d_kv": 4}),
        (resnet, ["channels"], {"embedding_size": 4, "hidden_sizes": [4, 8]}),
    ],
)
def test_the_stock_class_loads_it_and_computes_the_same(build, structures, fields, generator, tmp_path):
    model, inputs = shrunk(build, structures, generator)
    save_pretrained(model, tmp_path / "small", inputs)
    loaded = type(model).from_pretrained(tmp_path / "small")
    assert type(loaded) is type(model)
    assert not hasattr(loaded, "torchpare_structure")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    assert {name: getattr(loaded.config, name) for name in fields} == fields
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert sorted(path.suffix for path in (tmp_path / "small").iterdir()) in (
        [".json"] * n + [".safetensors"] for n in (1, 2)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_parts_with_configs_of_their_own_get_their_own_widths(generator, tmp_path):
    model, inputs = shrunk(clip, ["mlp"], generator)
    save_pretrained(model, tmp_path / "small", inputs)
    loaded = transformers.CLIPModel.from_pretrained(tmp_path / "small")
    assert (loaded.config.text_config.intermediate_size, loaded.config.vision_config.intermediate_size) == (24, 20)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_a_width_that_happens_to_be_the_library_s_default_is_written_too(generator, tmp_path):
    # LlamaConfig() has heads of width 128, and leaves that out of the file; read back it would be hidden_size / heads.
    model, inputs = shrunk(lambda: llama(hidden_size=64, head_dim=128), ["mlp"], generator)
    save_pretrained(model, tmp_path / "small", inputs)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small")
    assert loaded.config.head_dim == 128
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_a_model_that_was_not_shrunk_is_saved_as_it_is(generator, tmp_path):
    model, inputs = bert()
    randomise(model, generator).eval()
    save_pretrained(model, tmp_path / "small", inputs)
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "small")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_it_keeps_its_dtype_and_its_settings_for_generation(generator, tmp_path):
    model, inputs = shrunk(llama, ["mlp"], generator)
    model.to(torch.bfloat16).generation_config.max_new_tokens = 7
    save_pretrained(model, tmp_path / "small", inputs)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small")
    assert loaded.dtype == torch.bfloat16
    assert loaded.generation_config.max_new_tokens == 7


def test_the_model_is_only_read(generator, tmp_path):
    model, inputs = shrunk(llama, ["mlp", "heads"], generator)
    model.train()
    model.model.norm.eval()
    before = copy.deepcopy(model.config.to_dict()), {n: p.clone() for n, p in model.named_parameters()}
    random = torch.get_rng_state()
    save_pretrained(model, tmp_path / "small", inputs)
    assert model.config.to_dict() == before[0]
    assert all(torch.equal(p, before[1][n]) for n, p in model.named_parameters())
    assert (model.training, model.model.norm.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("build", "structures", "message"),
    [
        (
            llama,
            ["head_dim"],
            r"layers\.0\.self_attn\.scaling is 0\.353553 in the model, but LlamaForCausalLM computes",
        ),
        (
            gemma2,
            ["embedding"],
            r"embed_scale is 5\.65685 in the model, but Gemma2ForCausalLM computes it from its config",
        ),
        (gemma2, ["head_dim"], r"does not load model\.rotary_emb\.inv_freq as it is in the model"),
        (
            qwen3,
            ["embedding"],
            r"self_attn\.q_norm\.variance_epsilon is 1e-06 in the model, but Qwen3\w+ has one rms_norm_eps for all",
        ),
        (
            bert,
            ["mlp"],
            r"pooler\.dense\.weight has size 16 along axis 0 \(once 32\), for which hidden_size would have",
        ),
        (
            bert,
            ["embedding"],
            r"query\.weight has size 32 along axis 0, for which hidden_size .* asks for 16: the config",
        ),
        (gpt2, ["heads"], r"h\.0\.attn\.c_attn\.weight has size 48 along axis 1 \(once 96\), for which n_embd would"),
    ],
)
def test_what_no_config_can_say_is_refused_with_the_reason(build, structures, message, generator, tmp_path):
    model, inputs = shrunk(build, structures, generator)
    with pytest.raises(CheckpointError, match=message) as caught:
        save_pretrained(model, tmp_path / "small", inputs)
    assert "torchpare.save(model, path)" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_widths_that_differ_from_layer_to_layer_are_refused(generator, tmp_path):
    model, inputs = llama()
    randomise(model, generator).eval()
    config_list = [
        {
            "sparsity": 0.5,
            "structures": ["mlp"],
            "op_names": ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"],
        }
    ]
    plan(model, config_list, inputs).apply()
    message = (
        r"model\.layers\.1\.mlp\.gate_proj\.weight has size 48 along axis 0, for which intermediate_size would have to "
        r"be 48, but model\.layers\.0\.mlp\.gate_proj\.weight with size 24 along axis 0 asks for 24"
    )
    with pytest.raises(CheckpointError, match=message):
        save_pretrained(model, tmp_path / "small", inputs)
    assert list(tmp_path.iterdir()) == []


def test_code_that_the_stock_class_does_not_have_is_found_by_running(generator, tmp_path):
    model, inputs = shrunk(llama, ["mlp"], generator)
    model.model.layers[0].mlp.act_fn = nn.ReLU()
    with pytest.raises(CheckpointError, match=r"but then model\.layers\.0\.mlp\.act_fn returns something else"):
        save_pretrained(model, tmp_path / "small", inputs)
    # Without inputs of the user the library's own serve, where it has some.
    with pytest.raises(CheckpointError, match=r"but then model\.layers\.0\.mlp\.act_fn returns something else"):
        save_pretrained(model, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_the_stock_class_lacks_is_named(generator, tmp_path):
    model, inputs = shrunk(llama, ["mlp"], generator)
    model.model.layers[0].mlp.gate_proj.bias = nn.Parameter(torch.zeros(24))
    with pytest.raises(CheckpointError, match=r"the model has a tensor model\.layers\.0\.mlp\.gate_proj\.bias"):
        save_pretrained(model, tmp_path / "small", inputs)


def test_inputs_that_do_not_fit_are_told_apart_from_a_model_that_does_not(generator, tmp_path):
    model, _ = shrunk(llama, ["mlp"], generator)
    with pytest.raises(CheckpointError, match="does not run on the example inputs"):
        save_pretrained(model, tmp_path / "small", {"pixel_values": torch.rand(1)})


def test_a_failure_while_writing_leaves_nothing_behind(generator, tmp_path, monkeypatch):
    model, inputs = shrunk(llama, ["mlp"], generator)

    def broken(self, folder):
        (folder / "config.json").write_text("{")
        raise OSError("the disk is full")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", broken)
    with pytest.raises(OSError, match="the disk is full"):
        save_pretrained(model, tmp_path / "small", inputs)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_any_other_stays_as_it_is(generator, tmp_path):
    model, inputs = shrunk(llama, ["mlp"], generator)
    small = tmp_path / "small"
    small.mkdir()
    save_pretrained(model, small, inputs)
    assert json.loads((small / "config.json").read_text())["intermediate_size"] == 24
    before = {path.name: path.read_bytes() for path in small.iterdir()}
    with pytest.raises(FileError, match="a folder with something in it"):
        save_pretrained(model, small, inputs)
    assert {path.name: path.read_bytes() for path in small.iterdir()} == before
    with pytest.raises(FileError, match="there is no folder"):
        save_pretrained(model, tmp_path / "not" / "there", inputs)


def test_only_finished_transformers_models_are_saved(generator, tmp_path):
    with pytest.raises(CheckpointError, match=r"Linear is no transformers model.*torchpare\.save"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "small")
    model, inputs = llama()
    attach_masks(model, {"model.layers.0.mlp.gate_proj": {"weight": torch.arange(48).view(48, 1) % 2 == 0}})
    with pytest.raises(CheckpointError, match=r"masks are attached to 'model\.layers\.0\.mlp\.gate_proj'"):
        save_pretrained(model, tmp_path / "small", inputs)
    assert list(tmp_path.iterdir()) == []
