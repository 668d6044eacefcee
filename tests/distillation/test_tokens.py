"""Sequence models: logits over a vocabulary, hidden states, heads; only tokens count that are tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import torchpare
from tests.distillation.nets import tokens_net
from tests.support.vision import torchvision_models
from torchpare.distillation import (
    AttentionScores,
    Distiller,
    HiddenStates,
    KeptOutputs,
    Relations,
    SoftTargets,
    TokenRelations,
    dense_teacher,
)
from torchpare.errors import ConfigError
from torchpare.numerics.distances import soft_target_loss, token_relation_loss

torchvision_models()  # before transformers, which imports torchvision by itself
transformers = pytest.importorskip("transformers")

LAYER = "encoder.layers.0"


def another(seed=1):
    """A student and a teacher that differ, and what they take."""
    student, batch = tokens_net()
    return student, tokens_net(seed)[0], batch


@pytest.mark.parametrize(
    "term", [SoftTargets(), HiddenStates([LAYER]), Relations([LAYER]), TokenRelations([LAYER], heads=4)], ids=str
)
def test_what_lies_behind_the_end_of_a_sentence_has_no_part(term):
    student, teacher, batch = another()
    distiller = Distiller(student, teacher, [term])
    loss = distiller(student(**batch), **batch)
    changed = {**batch, "tokens": batch["tokens"].clone()}
    changed["tokens"][1, 3:] = (changed["tokens"][1, 3:] + 4) % 11
    torch.testing.assert_close(distiller(student(**changed), **changed), loss)
    changed["tokens"][1, 0] = (changed["tokens"][1, 0] + 4) % 11
    assert distiller(student(**changed), **changed) != loss
    in_order = batch["tokens"], batch["attention_mask"]
    assert distiller(student(*in_order), *in_order) == loss


def test_soft_targets_are_compared_token_by_token_and_the_mean_is_over_tokens():
    student, teacher, batch = another()
    loss = Distiller(student, teacher, [SoftTargets(2.0)])(student(**batch), **batch)
    real = batch["attention_mask"].bool()
    own, its = student(**batch)["logits"][real], teacher(**batch)["logits"][real]
    expected = 4 * F.kl_div(F.log_softmax(own / 2, -1), F.softmax(its / 2, -1), reduction="batchmean")
    torch.testing.assert_close(loss, expected)


def test_labels_tell_what_counts_too_and_of_a_causal_model_one_token_later():
    student, teacher, batch = another()
    batch["labels"] = torch.tensor([[-100, 3, 4, -100, 5], [-100, 3, -100, 2, -100], [3] * 5])
    own, its = student(**batch)["logits"], teacher(**batch)["logits"]
    both = (batch["labels"] != -100) & batch["attention_mask"].bool()
    for term, counted in (
        (SoftTargets(2.0), both),
        (SoftTargets(2.0, labels=None), batch["attention_mask"].bool()),
        (SoftTargets(2.0, mask=None), batch["labels"] != -100),
        (SoftTargets(2.0, ignore_index=3), (batch["labels"] != 3) & batch["attention_mask"].bool()),
        (SoftTargets(2.0, next_token=True), F.pad(both[:, 1:], (0, 1))),
        (SoftTargets(2.0, mask=None, labels=None, next_token=True), F.pad(torch.ones(3, 4).bool(), (0, 1))),
    ):
        loss = Distiller(student, teacher, [term])(student(**batch), **batch)
        torch.testing.assert_close(loss, soft_target_loss(own, its, 2.0, counted))


def test_pictures_that_are_classified_place_by_place():
    student, teacher = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)
    x, labels = torch.randn(2, 3, 5, 5), torch.randint(4, (2, 5, 5))
    labels[:, 2] = -100

    class Call(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, labels=None):
            return (self.inner(x),)

    student, teacher = Call(student), Call(teacher)
    loss = Distiller(student, teacher, [SoftTargets(2.0, axis=1)])(student(x), x, labels=labels)
    own, its = student(x)[0].movedim(1, -1), teacher(x)[0].movedim(1, -1)
    torch.testing.assert_close(loss, soft_target_loss(own, its, 2.0, labels != -100))


def test_a_mask_is_found_by_the_name_that_is_given_and_torchs_padding_masks_say_the_opposite():
    student, teacher, batch = another()

    class Torchs(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, tokens, src_key_padding_mask):
            return self.inner(tokens, ~src_key_padding_mask)

    loss = Distiller(student, teacher, [HiddenStates([LAYER])])(student(**batch), **batch)
    student, teacher = Torchs(student), Torchs(teacher)
    padding = batch["attention_mask"] == 0
    term = HiddenStates([f"inner.{LAYER}"], mask="src_key_padding_mask")
    same = Distiller(student, teacher, [term])(student(batch["tokens"], padding), batch["tokens"], padding)
    torch.testing.assert_close(same, loss)


@pytest.mark.parametrize(
    ("term", "inputs", "message"),
    [
        (HiddenStates([LAYER], mask="mask"), {}, "no tensor 'mask' among the inputs given to the distiller"),
        (HiddenStates([LAYER]), {"attention_mask": torch.ones(3, 4)}, r"'attention_mask' is \(3, 4\), and its tokens"),
        (AttentionScores([LAYER]), {}, r"attention_scores at 'encoder.layers.0': scores of attention are \(N, heads"),
        (TokenRelations([LAYER], heads=3), {}, "with a width for 3 heads"),
        (SoftTargets(axis=3), {}, r"logits of shape \(3, 5, 11\) have no classes along axis 3"),
        (SoftTargets(output="scores"), {}, r"there is no \[scores\] in dict with the keys 'hidden', 'logits'"),
        (HiddenStates([f"{LAYER}[1]"]), {}, rf"the student's '{LAYER}\[1\]': there is no \[1\] in a tensor"),
    ],
)  # fmt: skip
def test_errors_say_what_does_not_fit(term, inputs, message):
    class Careless(torch.nn.Module):
        """A mask that does not fit would stop the model itself, if it looked at it."""

        def __init__(self, inner):
            super().__init__()
            self.embed, self.encoder, self.decode = inner.embed, inner.encoder, inner.decode
            self.inner = [inner]

        def forward(self, tokens, attention_mask=None):
            return self.inner[0](tokens)

    student, teacher, batch = another()
    student, teacher = Careless(student), Careless(teacher)
    with pytest.raises(ConfigError, match=message):
        Distiller(student, teacher, [term])(student(batch["tokens"]), batch["tokens"], **inputs)


# -- transformers ----------------------------------------------------------------------------------------------------


def bert():
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50,
        max_position_embeddings=16, attn_implementation="eager", num_labels=3,
    )  # fmt: skip
    batch = {"input_ids": torch.randint(50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    batch["attention_mask"][1, 4:] = 0
    return transformers.BertForSequenceClassification(config).eval(), batch


SELF = "bert.encoder.layer.{}.attention.self"


def bert_terms():
    return [
        SoftTargets(),
        HiddenStates(["bert.embeddings", "bert.encoder.layer.1", "bert.encoder.layer.0.intermediate"]),
        AttentionScores([SELF.format(0) + "[1]", SELF.format(1) + "[1]"]),
        TokenRelations([SELF.format(1) + ".value"], heads=2),
        Relations(["bert.pooler"]),
    ]


def test_an_unpruned_bert_has_nothing_to_learn_and_a_pruned_one_keeps_its_heads():
    model, batch = bert()
    teacher = dense_teacher(model)
    distiller = Distiller(model, teacher, bert_terms())
    distiller(model(**batch), **batch)
    assert {word: float(loss) for word, loss in distiller.losses.items()} == dict.fromkeys(distiller.losses, 0.0)
    torchpare.plan(model, [{"sparsity": 0.5, "structures": ["heads", "mlp"]}], batch).apply()
    distiller(model(**batch), **batch).backward()
    assert all(loss > 0 for loss in distiller.losses.values())
    kept = KeptOutputs(model, teacher, batch)
    rows = model.torchpare_structure["kept"][SELF.format(0) + ".query.weight"]["0"]
    assert kept.indices(SELF.format(0) + ".query", dim=-1).tolist() == rows
    # The attention of the first layer reads what the teacher's does: its heads are the very ones that were kept.
    for address in (SELF.format(0) + "[1]", SELF.format(0) + ".value"):
        term = AttentionScores([address]) if "[" in address else HiddenStates([address])
        assert Distiller(model, teacher, [term])(model(**batch), **batch) == 0.0


def test_values_of_a_bert_with_fewer_heads_are_compared_with_the_rows_by_hand():
    model, batch = bert()
    teacher = dense_teacher(model)
    torchpare.plan(model, [{"sparsity": 0.5, "structures": ["heads", "embedding"]}], batch).apply()
    name = SELF.format(1) + ".value"
    loss = Distiller(model, teacher, [TokenRelations([name], heads=2)])(model(**batch), **batch)
    seen = []
    for one in (model, teacher):
        handle = one.get_submodule(name).register_forward_hook(lambda _m, _a, out: seen.append(out))
        one(**batch)
        handle.remove()
    rows = torch.tensor(model.torchpare_structure["kept"][name + ".weight"]["0"])
    expected = token_relation_loss(seen[0], seen[1].index_select(2, rows), 2, batch["attention_mask"].bool())
    torch.testing.assert_close(loss, expected)
    assert loss > 1e-8


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_causal_models_with_labels_and_hidden_states_from_their_output(kind):
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16)
        model = transformers.GPT2LMHeadModel(config).eval()
    else:
        config = transformers.LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            vocab_size=50,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
    batch = {"input_ids": torch.randint(50, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    batch["attention_mask"][1, 4:] = 0
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    batch["labels"][0, :2] = -100
    batch |= {"output_hidden_states": True, "use_cache": False}
    teacher = dense_teacher(model)
    terms = [SoftTargets(2.0, next_token=True), HiddenStates(["[hidden_states][1]", "[hidden_states][2]"])]
    distiller = Distiller(model, teacher, terms)
    output = model(**batch)
    assert distiller(output, **batch) == 0.0
    plan = torchpare.plan(
        model, [{"sparsity": 0.5, "structures": ["heads", "embedding"]}], batch, outputs=lambda output: output.logits
    )
    plan.apply()
    output = model(**batch)
    loss = distiller(output, **batch)
    (0.1 * output.loss + loss).backward()
    counted = torch.zeros(2, 6, dtype=torch.bool)
    counted[0, 1:5] = counted[1, :3] = True
    its = teacher(**batch)
    expected = soft_target_loss(output.logits, its.logits, 2.0, counted)
    torch.testing.assert_close(distiller.losses["soft_targets"], expected.detach())
    kept = KeptOutputs(model, teacher, batch).indices("transformer.h.0" if kind == "gpt2" else "model.layers.0", dim=-1)
    assert len(kept) == 16
    real = batch["attention_mask"].bool()
    expected = sum(F.mse_loss(output.hidden_states[at][real], its.hidden_states[at][real][:, kept]) for at in (1, 2))
    torch.testing.assert_close(distiller.losses["hidden_states"], expected.detach())


def test_a_model_with_encoder_and_decoder_has_two_kinds_of_tokens():
    config = transformers.T5Config(
        d_model=16, d_kv=4, num_heads=4, d_ff=24, num_layers=1, vocab_size=30, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    teacher = dense_teacher(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = {"input_ids": torch.randint(30, (2, 5)), "attention_mask": torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])}
    batch["labels"] = torch.tensor([[4, 5, 6, 7, 8], [4, 5, 6, -100, -100]])
    its = teacher(**batch)
    loss = Distiller(model, teacher, [SoftTargets(2.0)])(output := model(**batch), **batch)
    torch.testing.assert_close(loss, soft_target_loss(output.logits, its.logits, 2.0, batch["labels"] != -100))
    with pytest.raises(ConfigError, match="the model has an encoder and a decoder, whose tokens differ; say"):
        Distiller(model, teacher, [HiddenStates(["encoder"])])(model(**batch), **batch)
    loss = Distiller(model, teacher, [HiddenStates(["encoder"], mask="attention_mask")])(model(**batch), **batch)
    real = batch["attention_mask"].bool()
    hidden = model.encoder(**{k: batch[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    told = teacher.encoder(**{k: batch[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    torch.testing.assert_close(loss, F.mse_loss(hidden[real], told[real]))
