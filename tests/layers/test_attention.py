from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchpare.layers import MultiheadAttention, adopt, is_stock, release

E, H = 12, 3  # features and heads
B, L, S = 2, 5, 7  # batch, queries and keys


@pytest.fixture(autouse=True)
def exact():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():  # the stock biases start as zeros
            parameter.normal_(0, 0.5)
    return module


def pair(**options: Any) -> tuple[nn.MultiheadAttention, MultiheadAttention]:
    stock = randomised(nn.MultiheadAttention(E, options.pop("num_heads", H), **options))
    ours = copy.deepcopy(stock)
    adopt(ours)
    return stock, ours


def assert_same(expected: Any, found: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def without_fast_path(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return module(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


CONSTRUCTIONS = [
    {"batch_first": first, "bias": bias, "add_bias_kv": kv, "add_zero_attn": zero, **widths}
    for first, bias, kv, zero, widths in itertools.product(
        (False, True), (False, True), (False, True), (False, True), ({}, {"kdim": 8, "vdim": 10})
    )
]
MASKS = [None, "2D bool", "2D float", "3D bool", "3D float", "causal"]
CALLS = [
    {"kind": kind, "mask": mask, "padding": padding, "need_weights": need, "average_attn_weights": average}
    for kind, mask, padding, (need, average) in itertools.product(
        ("self", "cross", "unbatched"), MASKS, (None, "bool", "float"), ((False, True), (True, True), (True, False))
    )
]


def inputs(stock: nn.MultiheadAttention, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    if kind == "self" and stock.kdim == stock.vdim == E:
        x = torch.randn(B, L, E) if stock.batch_first else torch.randn(L, B, E)
        return x, x, x
    shapes = [(L, E), (S, stock.kdim), (S, stock.vdim)]
    if kind != "unbatched":
        shapes = [(B, n, w) if stock.batch_first else (n, B, w) for n, w in shapes]
    query, key, value = (torch.randn(shape) for shape in shapes)
    return query, key, value


def masks(mask: str | None, padding: str | None, batched: bool, queries: int, keys: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if mask == "causal":
        found.update(attn_mask=torch.ones(queries, keys, dtype=torch.bool).triu(1), is_causal=True)
    elif mask is not None:
        shape = (B * H if batched else H, queries, keys) if mask.startswith("3D") else (queries, keys)
        allowed = torch.rand(shape) < 0.7
        allowed[..., 0] = True  # a query that attends to nothing has no result
        found["attn_mask"] = torch.randn(shape) if mask.endswith("float") else ~allowed
    if padding is not None:
        shape = (B, keys) if batched else (keys,)
        away = torch.zeros(shape, dtype=torch.bool)
        away[..., -2:] = True
        found["key_padding_mask"] = torch.randn(shape) if padding == "float" else away
    return found


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("options", CONSTRUCTIONS, ids=lambda o: "-".join(k for k, v in o.items() if v) or "plain")
def test_every_option_gives_the_stock_result(options):
    stock, ours = pair(**options)
    for call in CALLS:
        batched = call["kind"] != "unbatched"
        query, key, value = inputs(stock, call["kind"])
        time = 1 if batched and stock.batch_first else 0
        given = masks(call["mask"], call["padding"], batched, query.shape[time], key.shape[time])
        given |= {name: call[name] for name in ("need_weights", "average_attn_weights")}
        expected, found = stock(query, key, value, **given), ours(query, key, value, **given)
        assert_same(expected[0], found[0])
        assert (expected[1] is None) == (found[1] is None) == (not call["need_weights"])
        if expected[1] is not None:
            assert_same(expected[1], found[1])


@pytest.mark.parametrize("options", [{}, {"kdim": 8, "vdim": 10}, {"add_bias_kv": True}])
@pytest.mark.parametrize("need_weights", [False, True])
def test_gradients_are_the_stock_ones(options, need_weights):
    stock, ours = pair(**options)
    query, key, value = inputs(stock, "cross")
    for module in (stock, ours):
        module(query, key, value, need_weights=need_weights)[0].square().sum().backward()
    names = [name for name, _ in stock.named_parameters()]
    assert names == [name for name, _ in ours.named_parameters()]
    for name in names:
        assert_same(stock.get_parameter(name).grad, ours.get_parameter(name).grad)


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_drops_the_same_weights_in_training_and_none_in_evaluation(need_weights):
    stock, ours = pair(dropout=0.5)
    query, key, value = inputs(stock, "cross")
    results = []
    for module in (stock, ours):
        torch.manual_seed(1)
        results.append(module(query, key, value, need_weights=need_weights)[0])
    assert_same(*results)
    quiet = ours.eval()(query, key, value, need_weights=need_weights)[0]
    assert not torch.allclose(quiet, results[1])
    assert_same(stock.eval()(query, key, value, need_weights=need_weights)[0], quiet)


# ------------------------------------------------------------------------------------------------- pruned instances


def dropped_rows(heads: int, width: int, head: int | None, column: int | None) -> Tensor:
    """Which of ``heads * width`` projected features go: one head, or one column of each head."""
    gone = torch.zeros(heads, width, dtype=torch.bool)
    if head is not None:
        gone[head] = True
    if column is not None:
        gone[:, column] = True
    return gone.flatten()


def cut(module: MultiheadAttention, keys_gone: Tensor, values_gone: Tensor) -> None:
    """Take rows out of the projections, and the columns that read them."""

    def keep(owner: nn.Module, name: str, gone: Tensor, axis: int) -> None:
        old = getattr(owner, name)
        if old is not None:
            kept = old.detach().index_select(axis, (~gone).nonzero().flatten())
            setattr(owner, name, nn.Parameter(kept))

    rows = torch.cat([keys_gone, keys_gone, values_gone])
    keep(module, "in_proj_weight", rows, 0)
    keep(module, "in_proj_bias", rows, 0)
    for name, gone in (("q_proj_weight", keys_gone), ("k_proj_weight", keys_gone), ("v_proj_weight", values_gone)):
        keep(module, name, gone, 0)
    keep(module, "bias_k", keys_gone, 2)
    keep(module, "bias_v", values_gone, 2)
    keep(module.out_proj, "weight", values_gone, 1)


def zero_keys(module: nn.MultiheadAttention, gone: Tensor) -> None:
    """A query or key column of zeros adds nothing to any score."""
    with torch.no_grad():
        if module.in_proj_weight is not None:
            module.in_proj_weight[:E][gone] = 0
        else:
            module.q_proj_weight[gone] = 0
        if module.in_proj_bias is not None:
            module.in_proj_bias[:E][gone] = 0


PRUNABLE = [{}, {"kdim": 8, "vdim": 10}, {"add_bias_kv": True, "add_zero_attn": True}, {"bias": False}]


@pytest.mark.parametrize("options", PRUNABLE)
@pytest.mark.parametrize("need_weights", [False, True])
def test_without_a_head_it_is_the_stock_one_that_does_not_read_that_head(options, need_weights):
    stock, ours = pair(**options)
    query, key, value = inputs(stock, "cross")
    before = stock(query, key, value, need_weights=need_weights)[0]
    gone = dropped_rows(H, E // H, head=1, column=None)
    with torch.no_grad():
        stock.out_proj.weight[:, gone] = 0
    cut(ours, gone, gone)
    ours.num_heads = H - 1
    expected = stock(query, key, value, need_weights=need_weights)[0]
    assert not torch.allclose(before, expected)
    assert_same(expected, ours(query, key, value, need_weights=need_weights)[0])


@pytest.mark.parametrize("options", PRUNABLE)
@pytest.mark.parametrize("need_weights", [False, True])
def test_narrower_keys_and_values_need_not_be_equally_narrow(options, need_weights):
    stock, ours = pair(**options)
    query, key, value = inputs(stock, "cross")
    keys_gone = dropped_rows(H, E // H, head=None, column=2)
    values_gone = dropped_rows(H, E // H, head=None, column=0) | dropped_rows(H, E // H, head=None, column=3)
    zero_keys(stock, keys_gone)
    with torch.no_grad():
        stock.out_proj.weight[:, values_gone] = 0
    cut(ours, keys_gone, values_gone)
    ours.head_dim, ours.value_dim = E // H - 1, E // H - 2
    expected = stock(query, key, value, need_weights=need_weights)
    found = ours(query, key, value, need_weights=need_weights)
    assert_same(expected[0], found[0])
    if need_weights:
        assert_same(expected[1], found[1])


def shrunk(**options: Any) -> MultiheadAttention:
    _, ours = pair(**options)
    gone = dropped_rows(H, E // H, head=0, column=1)
    cut(ours, gone, gone)
    ours.num_heads, ours.head_dim, ours.value_dim = H - 1, E // H - 1, E // H - 1
    return ours.eval()


def test_a_shrunk_one_is_copied_and_pickled():
    ours, x = shrunk(), torch.randn(L, B, E)
    expected = ours(x, x, x)[0]
    stream = io.BytesIO()
    torch.save(ours, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(stream, weights_only=False)):
        assert type(twin) is MultiheadAttention
        assert torch.equal(twin(x, x, x)[0], expected)


def test_state_dicts_are_the_stock_ones():
    stock, _ = pair()
    ours = MultiheadAttention(E, H)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(L, B, E)
    assert_same(stock(x, x, x)[0], ours(x, x, x)[0])


class Attending(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, y: Tensor, padding: Tensor) -> Tensor:
        inner = self.attention(x, x, x, need_weights=False)[0]
        return self.attention(inner, y, y, key_padding_mask=padding)[0]


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_shrunk_one_is_exported(batch_first):
    model = Attending(shrunk(batch_first=batch_first))
    x, y = torch.randn(B, L, E), torch.randn(B, S, E)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[:, -1] = True
    if not batch_first:
        x, y = x.transpose(0, 1), y.transpose(0, 1)
    program = torch.export.export(model, (x, y, padding))
    assert_same(model(x, y, padding), program.module()(x, y, padding))


def test_a_shrunk_one_compiles_to_one_graph():
    model = Attending(shrunk(batch_first=True))
    x, y, padding = torch.randn(B, L, E), torch.randn(B, S, E), torch.zeros(B, S, dtype=torch.bool)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_same(model(x, y, padding), compiled(x, y, padding))


# --------------------------------------------------------------------------------------------- inside stock modules


def fused(name: str) -> bool:
    return "native_multi_head_attention" in name or "transformer_encoder_layer_fwd" in name


class Called(torch.utils._python_dispatch.TorchDispatchMode):
    """Names of the operators of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def adopted(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        if isinstance(module, nn.MultiheadAttention):
            adopt(module)
    return twin


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_an_encoder_layer_computes_what_it_did_without_the_fast_path(batch_first, norm_first, training):
    stock = nn.TransformerEncoderLayer(E, 2, 16, dropout=0.0, batch_first=batch_first, norm_first=norm_first)
    stock = randomised(stock).train(training)
    ours, x = adopted(stock), torch.randn(B, L, E)
    padding = torch.zeros((B, L) if batch_first else (L, B), dtype=torch.bool)
    padding[0, -1] = True
    with torch.no_grad(), Called() as stock_run:
        expected = stock(x)
    with torch.no_grad(), Called() as our_run:
        found = ours(x)
    assert_same(expected, found)
    assert not any(map(fused, our_run.names))
    assert any(map(fused, stock_run.names)) == (batch_first and not training)  # so that the line above says something
    assert_same(without_fast_path(stock, x, src_key_padding_mask=padding), ours(x, src_key_padding_mask=padding))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_whole_transformer_computes_what_it_did(batch_first, training):
    stock = nn.Transformer(E, 2, 2, 2, 16, dropout=0.0, batch_first=batch_first).train(training)
    ours = adopted(randomised(stock))
    source, target = torch.randn(B, S, E), torch.randn(B, L, E)
    if not batch_first:
        source, target = source.transpose(0, 1), target.transpose(0, 1)
    causal = nn.Transformer.generate_square_subsequent_mask(L)
    padding = torch.zeros(B, S)
    padding[1, -3:] = -torch.inf
    given = {"tgt_mask": causal, "tgt_is_causal": True, "memory_key_padding_mask": padding}
    with torch.no_grad():
        assert_same(stock(source, target, **given), ours(source, target, **given))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_built_for_nested_tensors_keeps_its_padding_zero():
    layer = nn.TransformerEncoderLayer(E, 2, 16, dropout=0.0, batch_first=True)
    stock = randomised(nn.TransformerEncoder(layer, 2)).eval()
    ours, x = adopted(stock), torch.randn(B, L, E)
    padding = torch.zeros(B, L, dtype=torch.bool)
    padding[0, -2:] = True
    with torch.no_grad(), Called() as run:
        found = ours(x, src_key_padding_mask=padding)
    assert any("nested" in name for name in run.names)
    assert not any(map(fused, run.names))
    assert not found[0, -2:].any()
    with torch.no_grad():
        assert_same(stock(x, src_key_padding_mask=padding), found)


# --------------------------------------------------------------------------------------------------- there and back


def test_adopting_keeps_every_parameter_and_releasing_goes_back():
    stock = nn.MultiheadAttention(E, H, kdim=8, vdim=10)
    before, state = dict(stock.named_parameters()), dict(vars(stock))
    adopt(stock)
    assert type(stock) is MultiheadAttention
    assert is_stock(stock)
    release(stock)
    assert type(stock) is nn.MultiheadAttention
    assert all(parameter is before[name] for name, parameter in stock.named_parameters())
    assert vars(stock) == state


def test_only_the_stock_class_itself_is_adopted():
    class Own(nn.MultiheadAttention):
        pass

    with pytest.raises(TypeError, match=r"got .+Own"):
        adopt(Own(E, H))


def test_what_the_stock_class_cannot_compute_is_not_released():
    with pytest.raises(ValueError, match="2 heads of width 3"):
        release(shrunk())
    _, other_scale = pair()
    other_scale.scale *= 2
    assert not is_stock(other_scale)
    _, other_values = pair()
    other_values.value_dim -= 1
    assert not is_stock(other_values)
    apart = nn.MultiheadAttention(E, H, kdim=8, vdim=10)
    adopt(apart)
    apart.q_proj_weight = nn.Parameter(apart.q_proj_weight.detach()[:, 1:])
    assert not is_stock(apart)


def test_released_on_a_narrower_embedding_it_is_a_stock_one_of_that_width():
    _, ours = pair()
    gone = dropped_rows(H, E // H, head=2, column=None)
    cut(ours, gone, gone)
    ours.num_heads = H - 1
    narrow = ~gone  # as many features as the heads that are left take
    ours.in_proj_weight = nn.Parameter(ours.in_proj_weight.detach()[:, narrow])
    ours.out_proj.weight = nn.Parameter(ours.out_proj.weight.detach()[narrow])
    ours.out_proj.bias = nn.Parameter(ours.out_proj.bias.detach()[narrow])
    x = torch.randn(L, B, 8)
    expected = ours(x, x, x)[0]
    release(ours)
    assert (ours.embed_dim, ours.kdim, ours.vdim) == (8, 8, 8)
    assert_same(expected, ours(x, x, x)[0])


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attn_mask": torch.zeros(L, L + 1)}, r"attn_mask is \(5, 6\); .*, here \(5, 5\), or .*, here \(6, 5, 5\)"),
        ({"key_padding_mask": torch.zeros(B, L + 1)}, r"key_padding_mask is \(2, 6\); it must be \(2, 5\)"),
        ({"key_padding_mask": torch.zeros(L)}, "key_padding_mask has 1 axes"),
        ({"attn_mask": torch.zeros(L, L, dtype=torch.int64)}, "bool or floating"),
        ({"is_causal": True}, "attn_mask must be given"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    _, ours = pair(batch_first=True)
    x = torch.randn(B, L, E)
    with pytest.raises(RuntimeError, match=message):
        ours(x, x, x, **arguments)


def test_keys_and_values_must_be_equally_many():
    _, ours = pair(batch_first=True)
    x, y = torch.randn(B, L, E), torch.randn(1, L, E)
    with pytest.raises(RuntimeError, match="equally many"):
        ours(x, x, y)


def test_parameters_are_reset_as_the_stock_ones():
    for options in ({}, {"kdim": 8}, {"add_bias_kv": True}, {"bias": False}):
        stock, ours = pair(**options)
        for module in (stock, ours):
            torch.manual_seed(3)
            module._reset_parameters()
        assert all(map(torch.equal, stock.parameters(), ours.parameters()))
