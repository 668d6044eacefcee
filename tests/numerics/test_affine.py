"""Quantizing against whole numbers in Python, and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.twins import affine as twins
from torchpare.errors import QuantizationError
from torchpare.numerics.affine import Grid, check_finite, dequantize, fake_quantize, quantize, scale_and_zero_point
from torchpare.numerics.ranges import min_max

grids = st.builds(
    lambda bits, signed, symmetric, narrow: Grid(bits, signed, symmetric, narrow and bits > 1),
    st.integers(1, 16), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
matrices = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=5), elements=floats
)


def seen_as(x, layout):
    """The tensor as its granules, and the axes that each granule spans."""
    if layout == "group":
        size = 1 if x.shape[-1] % 2 else 2
        x = x.reshape(*x.shape[:-1], x.shape[-1] // size, size)
    dims = {"tensor": None, "channel": tuple(range(1, x.dim())), "group": (x.dim() - 1,)}[layout]
    return x, dims


@given(grids, matrices, st.sampled_from(["tensor", "channel", "group"]))
def test_codes_and_values_are_those_of_whole_numbers_bit_by_bit(grid, array, layout):
    x, dims = seen_as(torch.from_numpy(array), layout)
    scale, zero_point = scale_and_zero_point(*min_max(x, dims), grid)
    assert (grid.qmin, grid.qmax) == twins.limits(grid.bits, grid.signed, grid.narrow)
    assert bool((scale > 0).all())
    assert zero_point.dtype == torch.int32
    assert bool(((zero_point >= grid.qmin) & (zero_point <= grid.qmax)).all())

    codes, values = quantize(x, scale, zero_point, grid), fake_quantize(x, scale, zero_point, grid)
    cells = zip(x.flatten().tolist(), scale.expand_as(x).flatten().tolist(),
                zero_point.expand_as(x).flatten().tolist(), strict=True)  # fmt: skip
    expected = [(twins.code(v, s, z, grid.qmin, grid.qmax), s, z) for v, s, z in cells]
    assert codes.flatten().tolist() == [q for q, _, _ in expected]
    assert values.flatten().tolist() == [twins.value(q, s, z) for q, s, z in expected]
    assert torch.equal(dequantize(codes, scale, zero_point), values)


@given(grids, matrices)
def test_zero_stays_zero_and_no_value_moves_by_more_than_a_step(grid, array):
    x = torch.from_numpy(array).double()  # in float32 the ends of a huge range have no neighbours to tell them from
    scale, zero_point = scale_and_zero_point(*min_max(x), grid)
    zero = fake_quantize(torch.zeros(1), scale.float(), zero_point, grid)
    assert zero.item() == 0
    assert not torch.signbit(zero)
    if x.numel() and (not grid.symmetric or grid.bits > 1):
        moved = (fake_quantize(x, scale, zero_point, grid) - x).abs()
        assert float(moved.max()) <= float(scale) * 1.000001


@given(grids, matrices)
def test_quantizing_twice_is_quantizing_once(grid, array):
    x = torch.from_numpy(array) / 2**10  # room for the last step above the range
    scale, zero_point = scale_and_zero_point(*min_max(x), grid)
    once = fake_quantize(x, scale, zero_point, grid)
    assert torch.equal(fake_quantize(once, scale, zero_point, grid), once)


@given(grids, matrices, st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_computed_in_float32(grid, array, dtype):
    x = torch.from_numpy(array).clamp(-1000, 1000).to(dtype)
    scale, zero_point = scale_and_zero_point(*min_max(x), grid)
    assert scale.dtype == torch.float32
    assert torch.equal(
        fake_quantize(x, scale, zero_point, grid), fake_quantize(x.float(), scale, zero_point, grid).to(dtype)
    )


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-30, 3e38, 1e-45])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_constant_is_kept_up_to_rounding(value, symmetric):
    x = torch.full((3,), value)
    grid = Grid(8, signed=symmetric, symmetric=symmetric, narrow=symmetric)
    scale, zero_point = scale_and_zero_point(*min_max(x), grid)
    kept = fake_quantize(x, scale, zero_point, grid)
    torch.testing.assert_close(kept, x, rtol=1e-6, atol=2e-38)
    assert value != 0 or scale == 1


def test_the_gradient_passes_where_nothing_was_clipped_and_nowhere_else():
    grid, scale, zero_point = Grid(4, signed=True), torch.tensor(0.5), torch.tensor(2, dtype=torch.int32)
    x = torch.linspace(-8, 8, 65, dtype=torch.float32, requires_grad=True)
    slopes = torch.arange(65.0)
    (grad,) = torch.autograd.grad((fake_quantize(x, scale, zero_point, grid) * slopes).sum(), x)
    codes = (x.detach() / 0.5).round() + 2
    assert torch.equal(grad, torch.where((codes >= -8) & (codes <= 7), slopes, 0))
    assert 0 < int((grad != 0).sum()) < 64


def test_with_and_without_gradient_the_values_are_the_same():
    x = torch.randn(1000, requires_grad=True)
    given_ = (torch.tensor(0.01), torch.tensor(3, dtype=torch.int32), Grid(8))
    with torch.no_grad():
        plain = fake_quantize(x, *given_)
    assert torch.equal(fake_quantize(x, *given_), plain)


def test_nan_stays_nan_in_training_has_no_integer_and_is_named_where_ranges_are_taken():
    x = torch.tensor([1.0, float("nan")])
    scale, zero_point = torch.tensor(0.1), torch.tensor(0, dtype=torch.int32)
    assert torch.equal(fake_quantize(x, scale, zero_point, Grid(8)).isnan(), x.isnan())
    with pytest.raises(QuantizationError, match="NaN"):
        quantize(x, scale, zero_point, Grid(8))
    for bad in (x, torch.tensor([1.0, float("inf")]), torch.tensor([float("-inf"), 0.0])):
        with pytest.raises(QuantizationError, match=r"conv1\.weight holds NaN or infinite"):
            check_finite(*min_max(bad), "conv1.weight")
    check_finite(*min_max(torch.empty(0)), "empty")


def test_infinities_saturate():
    x = torch.tensor([float("inf"), float("-inf")])
    assert quantize(x, torch.tensor(0.1), torch.tensor(7, dtype=torch.int32), Grid(8)).tolist() == [255, 0]


@pytest.mark.parametrize(("arguments", "said"), [((0,), "0"), ((17,), "17"), ((1, True, True, True), "single integer")])
def test_a_grid_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(QuantizationError, match=said):
        Grid(*arguments)


@pytest.mark.parametrize(
    ("grid", "kind"),
    [
        (Grid(8), np.uint8),
        (Grid(8, signed=True), np.int8),
        (Grid(8, signed=True, symmetric=True, narrow=True), np.int8),
    ],
)
@pytest.mark.parametrize("channels", [False, True])
def test_onnx_runtime_gets_the_same_integers_and_the_same_values(grid, kind, channels, generator):
    x = torch.randn(16, 512, generator=generator) * torch.logspace(-3, 3, 16)[:, None]
    x[0, :64] = torch.arange(64) * 0.5  # ties
    scale, zero_point = scale_and_zero_point(*min_max(x, (1,) if channels else None), grid)
    if not channels:
        scale = torch.tensor(0.125)
    node = [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=0),
            onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=0)]  # fmt: skip
    numbers = [onnx.numpy_helper.from_array(scale.flatten().numpy() if channels else scale.numpy(), "s"),
               onnx.numpy_helper.from_array(zero_point.flatten().numpy().astype(kind) if channels
                                            else np.array(zero_point.item(), kind), "z")]  # fmt: skip
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(node, "g", [value("x", 1, x.shape)],
                                   [value("q", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)), x.shape),
                                    value("y", 1, x.shape)], numbers)  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    q, y = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    # The runtime knows no narrow range: where a scale clips, it goes one integer further down.
    wide = Grid(grid.bits, grid.signed, grid.symmetric)
    assert np.array_equal(q, quantize(x, scale, zero_point, wide).numpy())
    assert np.array_equal(y, fake_quantize(x, scale, zero_point, wide).numpy())
    assert np.array_equal(np.maximum(q, grid.qmin), quantize(x, scale, zero_point, grid).numpy())


@given(st.integers(2, 16), matrices, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_a_grid_made_for_a_tensor_clips_nothing_of_it(bits, array, dtype):
    x = torch.from_numpy(array).to(dtype).requires_grad_()
    assume(bool(x.isfinite().all()))  # the largest float32 are infinite in bfloat16
    grid = Grid(bits, signed=True, symmetric=True, narrow=True)
    scale, zero_point = scale_and_zero_point(*min_max(x), grid)
    slopes = torch.arange(1.0, x.numel() + 1, dtype=dtype).reshape(x.shape)
    both = [fake_quantize(x, scale, zero_point, grid, covered=covered) for covered in (True, False)]
    assert torch.equal(*both)
    for value in both:
        (grad,) = torch.autograd.grad((value * slopes).sum(), x)
        assert torch.equal(grad, slopes)


def test_what_is_said_to_be_covered_is_looked_at_where_the_grid_has_uneven_ends():
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    grid = Grid(2, signed=True, symmetric=True)  # -2 to 1: the largest value is clipped
    scale, zero_point = scale_and_zero_point(*min_max(x), grid)
    values = fake_quantize(x, scale, zero_point, grid, covered=True)
    assert torch.equal(values, dequantize(quantize(x, scale, zero_point, grid), scale, zero_point))
    (grad,) = torch.autograd.grad(values.sum(), x)
    assert grad[-1] == 0


def test_the_last_step_of_a_range_up_to_the_largest_half_is_still_a_number():
    x = torch.tensor([65504.0, -65504.0, 1.0], dtype=torch.float16, requires_grad=True)
    scale, zero_point = scale_and_zero_point(*min_max(x), Grid(8))
    for value in (x, x.detach()):
        assert bool(fake_quantize(value, scale, zero_point, Grid(8)).isfinite().all())
