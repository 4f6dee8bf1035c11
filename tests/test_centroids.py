"""Grid, occupancy, information and λ against the dense oracle (DESIGN 3.1, 3.2)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import information_cost, lambda_max, occupancy, probabilities
from torch import Tensor

from ecqx.assignment.centroids import CentroidGrid, percentile, round_down
from ecqx.assignment.information import information

BITS = range(2, 9)
LAMBDAS = st.sampled_from([0.0, 1e-3, 0.05, 0.5, 5.0, 100.0])
PMF = st.sampled_from(["published", "normalized"])
FORMULA = st.sampled_from(["published", "derived"])


def float64(tensor: Tensor) -> oracle.Floats:
    return tensor.to(torch.float64).flatten().numpy()


def normal(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


# -- grid ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sign", ["both", "positive", "negative"])
def test_values_are_integer_multiples_of_the_step(bits: int, sign: str) -> None:
    weight = {
        "both": normal(3000),
        "positive": normal(3000).abs(),
        "negative": -normal(3000).abs(),
    }[sign]
    grid = CentroidGrid.fit(weight, bits=bits)
    assert len(grid) == 2**bits
    assert grid.values.dtype == torch.float32
    assert (grid.values.diff() > 0).all()
    assert grid.values[grid.zero] == 0
    k = np.arange(2**bits) - grid.zero
    assert float(np.float32(grid.step)) == grid.step
    np.testing.assert_array_equal(grid.values, k.astype(np.float32) * np.float32(grid.step))


@given(oracle.weights(), st.sampled_from(BITS))
def test_grid_of_any_weights(weight: Tensor, bits: int) -> None:
    grid = CentroidGrid.fit(weight, bits=bits)
    assert len(grid) == 2**bits
    assert (grid.values.diff() > 0).all()
    assert torch.isfinite(grid.values).all()
    assert grid.values[grid.zero] == 0
    expected = np.float32(oracle.step_of(float64(weight), bits))
    if expected > 0:  # a step below the smallest float32 has no agreed value
        assert abs(grid.step - expected) <= 2 * np.spacing(expected)


@given(st.integers(1, 4000), st.integers(0, 2**16), st.sampled_from(BITS), st.booleans())
def test_step_is_the_percentile_over_the_largest_integer(
    n: int, seed: int, bits: int, signed: bool
) -> None:
    weight = normal(n, seed) if signed else normal(n, seed).abs()
    step = CentroidGrid.fit(weight, bits=bits).step
    assert step == pytest.approx(oracle.step_of(float64(weight), bits), rel=2**-22)


def test_step_falls_back_to_the_maximum() -> None:
    """More than 99.9 % zeros: the percentile is 0."""
    weight = torch.zeros(5000)
    weight[[7, 99, 3000]] = torch.tensor([-0.7, 0.2, 1.4])
    assert CentroidGrid.fit(weight, bits=4).step == pytest.approx(1.4 / 7, rel=1e-6)
    assert CentroidGrid.fit(weight.abs(), bits=4).step == pytest.approx(1.4 / 15, rel=1e-6)


@pytest.mark.parametrize("n", [1, 1000])
def test_all_zero_layer_has_step_one(n: int) -> None:
    grid = CentroidGrid.fit(torch.zeros(n), bits=3)
    assert (grid.step, grid.zero) == (1.0, 0)
    assert grid.values.tolist() == list(range(8))


@pytest.mark.parametrize("n", [1, 2, 999, 1000, 1001, 1002, 2001])
def test_percentile_is_numpys(n: int) -> None:
    values = normal(n).abs()
    expected = np.quantile(float64(values), 0.999)
    assert float(percentile(values, 0.999)) == pytest.approx(expected, rel=2**-23)


def test_percentile_beyond_the_limit_of_torch_quantile() -> None:
    values = torch.arange(2**24 + 2, dtype=torch.float32)
    assert float(percentile(values, 0.999)) == pytest.approx(0.999 * (2**24 + 1), abs=2)


@given(st.integers(4, 400), st.integers(0, 2**16), st.sampled_from(BITS), st.floats(0.2, 5))
def test_integers_follow_the_vote(n: int, seed: int, bits: int, skew: float) -> None:
    weight = normal(n, seed)
    weight = torch.where(weight > 0, skew * weight, weight)
    first = int(oracle.integers(float64(weight), bits)[0])
    assert CentroidGrid.fit(weight, bits=bits).zero == -first


@pytest.mark.parametrize(
    ("positive", "negative", "extra"),
    [
        ([5.0, 1.0, 1.0, 1.0], [2.0, 2.1, 2.2], "positive"),  # all but the mean
        ([2.0, 2.1, 2.2], [5.0, 1.0, 1.0, 1.0], "negative"),  # the mean only
        ([1.0, 2.0], [1.0, 2.0], "negative"),  # five ties
        ([2.0, 2.0], [1.0, 1.0], "positive"),  # maximum, mean, sum
        ([2.0, 2.0], [1.0, 1.0, 1.0, 1.0], "negative"),  # maximum, mean
        ([3.0, 0.5, 0.5, 0.5, 0.5], [3.1, 1.8], "positive"),  # count, sum, deviation
        ([3.0, 0.5, 0.5, 0.5, 0.5], [3.5, 1.3], "negative"),  # count, sum
        ([2.0], [1.0], "positive"),  # maximum, mean, sum; no deviation
    ],
)
def test_side_of_the_extra_centroid(
    positive: list[float], negative: list[float], extra: str
) -> None:
    weight = torch.tensor(positive + [-value for value in negative])
    grid = CentroidGrid.fit(weight, bits=3)
    assert grid.zero == {"positive": 3, "negative": 4}[extra]


def test_only_negatives_get_the_signed_grid() -> None:
    grid = CentroidGrid.fit(-normal(500).abs(), bits=4)
    assert (grid.zero, len(grid)) == (8, 16)


def test_negative_zero_is_not_negative() -> None:
    assert CentroidGrid.fit(torch.tensor([-0.0, 1.0]), bits=4).zero == 0


def _tied_sums(seed: int) -> Tensor:
    """Positive side wins maximum and deviation; count, sum and mean are tied, exactly."""
    rng = np.random.default_rng(seed)
    negative = rng.integers(2**10, 2**23, 1000)
    positive = rng.permutation(negative)
    low, high = positive.argmin(), positive.argmax()
    positive[high] += 2**19
    positive[low] -= 2**19
    assert positive.sum() == negative.sum()
    return torch.from_numpy(np.concatenate([positive, -negative]).astype(np.float32))


def test_exactly_tied_sums_count_for_the_negative_side() -> None:
    wrong = [seed for seed in range(60) if CentroidGrid.fit(_tied_sums(seed), bits=4).zero != 8]
    assert not wrong, f"seeds {wrong}: rounding of the sums decided the vote"


@given(oracle.weights(), st.sampled_from(BITS), st.randoms(use_true_random=False))
def test_grid_does_not_depend_on_the_order(weight: Tensor, bits: int, random: Any) -> None:
    order = list(range(weight.numel()))
    random.shuffle(order)
    grid, shuffled = CentroidGrid.fit(weight, bits), CentroidGrid.fit(weight[order], bits)
    assert torch.equal(grid.values, shuffled.values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(dtype: torch.dtype) -> None:
    weight = normal(600).to(dtype)
    grid, same = CentroidGrid.fit(weight), CentroidGrid.fit(weight.to(torch.float32))
    assert grid.values.dtype == torch.float32
    assert torch.equal(grid.values, same.values)


def test_shape_and_layout_do_not_matter() -> None:
    weight = normal(600)
    expected = CentroidGrid.fit(weight).values
    parameter = torch.nn.Parameter(weight.reshape(20, 30).t())
    grid = CentroidGrid.fit(parameter)
    assert torch.equal(grid.values, expected)
    assert not grid.values.requires_grad
    assert torch.equal(CentroidGrid.fit(weight.repeat_interleave(2)[::2]).values, expected)


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 2.5, 4.0, True, "4", None])
def test_bits_out_of_range(bits: Any) -> None:
    with pytest.raises(ValueError, match=r"^bits must be an integer from 2 to 8, not .+$") as error:
        CentroidGrid.fit(normal(10), bits=bits)
    assert "\n" not in str(error.value)


BAD_WEIGHTS: list[tuple[Any, str]] = [
    (torch.tensor([1.0, math.nan]), r"^weight holds NaN or infinite values$"),
    (torch.tensor([1.0, math.inf]), r"^weight holds NaN or infinite values$"),
    (torch.tensor([1.0, -math.inf]), r"^weight holds NaN or infinite values$"),
    (torch.tensor([1e300], dtype=torch.float64), r"^weight holds NaN or infinite values$"),
    (torch.empty(0), r"^weight has no elements$"),
    (torch.empty(3, 0, 2), r"^weight has no elements$"),
    (torch.tensor([1, 2]), r"^weight must be a floating-point tensor$"),
    (torch.tensor([True]), r"^weight must be a floating-point tensor$"),
    (torch.tensor([1j]), r"^weight must be a floating-point tensor$"),
    ([0.5, 1.0], r"^weight must be a floating-point tensor$"),
]


@pytest.mark.parametrize(("weight", "message"), BAD_WEIGHTS)
def test_unusable_weights(weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CentroidGrid.fit(weight)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_weights_whose_grid_leaves_float32(bits: int, side: float) -> None:
    """The outermost centroid would be infinite in float32."""
    weight = side * torch.tensor([3.4e38, 3.4e38, -3.3e38])
    with pytest.raises(ValueError, match=r"^weight is too large for a float32 grid"):
        CentroidGrid.fit(weight, bits=bits)


# -- information -----------------------------------------------------------------------------------


@given(oracle.weights(), st.sampled_from(BITS))
def test_occupancy(weight: Tensor, bits: int) -> None:
    grid = CentroidGrid.fit(weight, bits)
    expected = oracle.nearest_counts(float64(weight), float64(grid.values))
    assert occupancy(weight, grid).tolist() == expected


def test_a_weight_half_way_belongs_to_the_lower_centroid() -> None:
    grid = CentroidGrid.from_step(1.0, -2, 4, torch.device("cpu"))
    weight = torch.tensor([-1.5, -0.5, 0.5, 9.0, -9.0])
    assert occupancy(weight, grid).tolist() == [2, 1, 1, 1]


def test_occupancy_keeps_the_empty_clusters_at_the_end() -> None:
    grid = CentroidGrid.from_step(1.0, -2, 4, torch.device("cpu"))
    assert occupancy(torch.tensor([-2.0]), grid).tolist() == [1, 0, 0, 0]


counts_and_zero = st.lists(st.integers(0, 60), min_size=4, max_size=16).flatmap(
    lambda counts: st.tuples(st.just(counts), st.integers(0, len(counts) - 1))
)


@given(counts_and_zero, PMF)
def test_probabilities(drawn: tuple[list[int], int], pmf: Any) -> None:
    counts, zero = drawn
    if not any(counts):
        return
    P = probabilities(torch.tensor(counts, dtype=torch.float64), zero, pmf)
    expected = oracle.probabilities(counts, zero, pmf)
    np.testing.assert_allclose(P, [float(p) for p in expected], rtol=1e-14)
    assert P[zero] >= 0.5
    if pmf == "normalized":
        assert float(P.sum()) == pytest.approx(1)


def test_published_probabilities_do_not_sum_to_one() -> None:
    """P_0 = ¼: r = ⅓; below zero 1 − r = ⅔, above zero 1 − r/(1 − P_0) = 5/9."""
    counts = torch.tensor([3.0, 2.0, 3.0], dtype=torch.float64)
    published = probabilities(counts, 1).tolist()
    assert published == pytest.approx([3 / 8 * 2 / 3, 1 / 2, 3 / 8 * 5 / 9])
    normalized = probabilities(counts, 1, "normalized").tolist()
    assert normalized == pytest.approx([1 / 4, 1 / 2, 1 / 4])


@pytest.mark.parametrize("pmf", ["published", "normalized"])
def test_large_zero_cluster_is_left_alone(pmf: Any) -> None:
    counts = torch.tensor([1.0, 6.0, 3.0], dtype=torch.float64)
    assert probabilities(counts, 1, pmf).tolist() == pytest.approx([0.1, 0.6, 0.3])


def test_information_of_an_empty_cluster_is_infinite() -> None:
    P = torch.tensor([0.0, 0.5, 0.25, 1.0], dtype=torch.float64)
    assert information(P).tolist() == [math.inf, 1.0, 2.0, 0.0]


@given(
    oracle.weights(),
    st.sampled_from(BITS),
    LAMBDAS,
    st.sampled_from([None, 1, 7, 10_000]),
    PMF,
    FORMULA,
)
def test_information_cost(
    weight: Tensor, bits: int, lam: float, factor: int | None, pmf: Any, formula: Any
) -> None:
    grid = CentroidGrid.fit(weight, bits)
    largest = None if factor is None else factor * weight.numel()
    cost = information_cost(weight, grid, lam, largest, pmf, formula)
    expected = oracle.information_cost(
        float64(weight), float64(grid.values), lam, largest, pmf, formula
    )
    np.testing.assert_allclose(cost, expected, rtol=1e-9, atol=0)


def test_lambda_max_by_hand() -> None:
    """P = (1/8, ¾, 1/8) on the clusters −1, 0, 1, extremes −1.25 and 1: I_e − I_0 = log2 6."""
    grid = CentroidGrid.from_step(1.0, -2, 4, torch.device("cpu"))
    weight = torch.tensor([-1.25, 1.0, 0, 0, 0, 0, 0, 0])
    published = max((0.25**2 - 1.25) ** 2, 1.0**2) / math.log2(6)
    assert lambda_max(weight, grid, "published") == pytest.approx(published)
    derived = max(1.25**2 - 0.25**2, 1.0) / math.log2(6)
    assert lambda_max(weight, grid, "derived") == pytest.approx(derived)


def test_derived_lambda_is_where_an_extreme_weight_changes_to_zero() -> None:
    weight = normal(2000)
    grid = CentroidGrid.fit(weight, bits=4)
    info = information(probabilities(occupancy(weight, grid), grid.zero))
    lambda_ = lambda_max(weight, grid, "derived")
    gaps = []
    for e, w in ((0, float(weight.min())), (len(grid) - 1, float(weight.max()))):
        at_zero = w**2 + lambda_ * float(info[grid.zero])
        gaps.append((w - float(grid.values[e])) ** 2 + lambda_ * float(info[e]) - at_zero)
    assert min(gaps, key=abs) == pytest.approx(0, abs=1e-9)


def test_side_with_no_more_information_than_zero_is_left_out() -> None:
    """Half of the weights at 0, half at 1: I_e = I_0."""
    grid = CentroidGrid.from_step(1.0, 0, 4, torch.device("cpu"))
    assert lambda_max(torch.tensor([0.0, 0.0, 1.0, 1.0]), grid, "published") == 0
    assert lambda_max(torch.tensor([0.0, 0.0, 1.0]), grid, "published") > 0


def test_extreme_weight_in_the_zero_cluster_is_left_out() -> None:
    grid = CentroidGrid.from_step(1.0, -2, 4, torch.device("cpu"))
    one_side = torch.tensor([-0.3, 0, 0, 0, 1.0])
    assert lambda_max(one_side, grid, "derived") == pytest.approx(1 / math.log2(4))
    assert lambda_max(torch.tensor([-0.3, 0.2]), grid, "published") == 0


@pytest.mark.parametrize("pmf", ["published", "normalized"])
def test_equal_information_is_recognized_in_spite_of_rounding(pmf: Any) -> None:
    """Below zero the one other cluster always shrinks to P_e = ½ = P_0: λ = 0, no side counts."""
    for zeros in range(1, 30):
        weight = -torch.ones(61)
        weight[:zeros] = 0
        grid = CentroidGrid.fit(weight, bits=4)
        assert not information_cost(weight, grid, 0.05, pmf=pmf).any(), f"{zeros} zeros"


@pytest.mark.parametrize(
    "weight", [torch.zeros(9), torch.full((9,), 0.3), torch.full((9,), -2.0), torch.ones(1)]
)
def test_no_information_cost_without_two_clusters(weight: Tensor) -> None:
    assert not information_cost(weight, CentroidGrid.fit(weight), lam=5.0).any()


def test_small_layers_are_constrained_less() -> None:
    weight = normal(500)
    grid = CentroidGrid.fit(weight)
    alone = information_cost(weight, grid, 0.1)
    beside = information_cost(weight, grid, 0.1, largest_layer_size=5000)
    finite = torch.isfinite(alone)
    ratio = beside[finite] / alone[finite]
    np.testing.assert_allclose(ratio, (0.1 + 0.05) / 1.05, rtol=1e-12)


# -- rounding --------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
def test_round_down_decides_exactly(bounds: list[float]) -> None:
    """w <= rounded and w <= bound are the same for every float32 w."""
    rounded = round_down(torch.tensor(bounds, dtype=torch.float64))
    assert rounded.dtype == torch.float32
    above = torch.nextafter(rounded, torch.tensor(math.inf))
    for bound, down, up in zip(bounds, rounded.tolist(), above.tolist(), strict=True):
        assert down <= bound < up
