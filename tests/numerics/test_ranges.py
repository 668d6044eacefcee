"""Ranges against sorting, against trying everything, and against distributions whose answer is known."""

from __future__ import annotations

import pytest
import torch

from torchpare.numerics.affine import Grid, fake_quantize, scale_and_zero_point
from torchpare.numerics.histograms import BINS, Histogram, kl_range
from torchpare.numerics.ranges import min_max, moving_average, mse_range, percentile_range

INT8 = Grid(8, signed=True, symmetric=True, narrow=True)


def counted(*batches):
    histogram = Histogram.empty()
    for batch in batches:
        histogram = histogram.with_values(batch)
    return histogram


@pytest.mark.parametrize("dims", [None, (), (1,), (0, 2), (-1,)])
def test_the_range_broadcasts_back_and_holds_every_value(dims, generator):
    x = torch.randn(4, 3, 5, generator=generator)
    low, high = min_max(x, dims)
    assert bool(((low <= x) & (x <= high)).all())
    if dims is not None:
        assert all(size == (1 if at in {d % 3 for d in dims} else x.shape[at]) for at, size in enumerate(low.shape))
    empty_low, _ = min_max(x[:0], dims)
    assert not empty_low.any()


def test_the_first_value_of_a_moving_average_counts_whole_and_the_weights_add_up_to_one(generator):
    values = torch.randn(20, generator=generator)
    average = torch.tensor(123.0)
    for seen, value in enumerate(values):
        average = moving_average(average, value, torch.tensor(seen), 0.9)
        weights = 0.9 ** torch.arange(seen, -1, -1.0)
        torch.testing.assert_close(average, (weights * values[: seen + 1]).sum() / weights.sum())


@pytest.mark.parametrize("percentile", [60, 90, 99, 100])
def test_a_percentile_leaves_out_that_share_at_each_end_counted_or_not(percentile, generator):
    x = torch.randperm(1000, generator=generator).float()
    low, high = percentile_range(x, percentile)
    assert (low, high) == (1000 - 10 * percentile, 10 * percentile - 1)
    many = torch.randint(1, 5, (1000,), generator=generator)
    assert percentile_range(x, percentile, many) == percentile_range(x.repeat_interleave(many), percentile)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dims", [None, (1,)])
def test_no_share_of_the_range_has_a_smaller_error_than_the_one_chosen(bits, dims, generator):
    x = torch.randn(3, 400, generator=generator) ** 3
    grid = Grid(bits, signed=True, symmetric=True)

    def error(low, high):
        return (
            (fake_quantize(x, *scale_and_zero_point(low, high, grid), grid) - x)
            .double()
            .square()
            .sum(1 if dims else None)
        )

    low, high = min_max(x, dims)
    least = error(*mse_range(x, grid, dims, candidates=20))
    for step in range(1, 21):
        other = error(low * step / 20, high * step / 20)
        assert bool((least <= other.reshape(least.shape) * (1 + 1e-6)).all())
    assert bool((least < error(low, high)).all()) or bits == 8


def test_a_histogram_counts_what_numpy_counts_and_forgets_nothing_when_it_grows(generator):
    x = torch.randn(1000, generator=generator)
    histogram = counted(x)
    lows = float(x.min()), float(x.max())
    torch.testing.assert_close(histogram.counts, torch.histc(x.double(), BINS, *lows))
    grown = counted(x, 5 * x, 100 + x[:0], 0.1 * x)
    assert (float(grown.low), float(grown.high)) == pytest.approx((5 * lows[0], 5 * lows[1]))
    assert float(grown.counts.sum()) == 3000
    width = float(grown.high - grown.low) / BINS
    mean = float((grown.counts * grown.centres).sum() / 3000)
    assert abs(mean - float(torch.cat([x, 5 * x, 0.1 * x]).double().mean())) < 2 * width


def test_kl_keeps_all_of_an_even_distribution_and_cuts_a_lonely_outlier(generator):
    even = torch.rand(100_000, generator=generator) * 2 - 1
    low, high = kl_range(counted(even), INT8)
    assert float(high) > 0.9
    assert float(low) < -0.9
    gauss = torch.randn(100_000, generator=generator)
    low, high = kl_range(counted(torch.cat([gauss, torch.tensor([40.0])])), INT8)
    assert 2 < float(high) < 12
    assert -12 < float(low) < -2


def test_zeros_do_not_narrow_what_kl_keeps(generator):
    active = torch.randn(20000, generator=generator).relu()
    sparse = torch.cat([active, torch.zeros(400_000)])
    ranges = [kl_range(Histogram.empty().with_values(values), Grid(8)) for values in (active, sparse)]
    assert ranges[0] == ranges[1]
    assert float(ranges[1][1]) > 0.7 * float(active.max())


@pytest.mark.parametrize("values", [torch.zeros(5), torch.empty(0)])
def test_of_nothing_but_zeros_every_range_is_zero(values):
    histogram = counted(values)
    for low, high in (kl_range(histogram, INT8), percentile_range(values, 99), mse_range(values, INT8)):
        assert (float(low), float(high)) == (0, 0)


@pytest.mark.parametrize("value", [1e-30, -2.5, 3e38])
def test_a_constant_is_within_its_range(value):
    histogram = counted(torch.full((7,), value))
    low, high = kl_range(histogram, INT8)
    assert float(low) <= torch.tensor(value) <= float(high)


def test_many_values_are_counted_part_by_part_as_all_at_once():
    x = torch.randn(2**18 + 12345, generator=torch.Generator().manual_seed(0))
    histogram = Histogram.empty().with_values(x)
    assert histogram.counts.sum() == x.numel()
    at = ((x.double() - histogram.low) / (histogram.high - histogram.low) * BINS).long().clamp(max=BINS - 1)
    assert torch.equal(histogram.counts, torch.bincount(at, minlength=BINS).double())
