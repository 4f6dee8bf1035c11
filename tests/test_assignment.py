"""ECQ and ECQx against the dense oracle, costs within 4 float32 ulp (DESIGN 3.3)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ecqx.assignment import assign as assignment
from ecqx.assignment import loops
from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid
from ecqx.assignment.envelope import envelope_bounds
from ecqx.assignment.zero_set import (
    RELEVANCE_EPSILON,
    Layer,
    zero_edge,
    zero_set,
    zero_threshold,
)

CPU = torch.device("cpu")
BITS = st.integers(2, 8)
FEW_BITS = st.integers(2, 5)
LAMBDAS = st.sampled_from([0.0, 1e-4, 0.02, 0.1, 0.5, 3.0, 50.0])
POSITIVE_LAMBDAS = st.sampled_from([1e-4, 0.02, 0.1, 0.5, 3.0, 50.0])
PMF = st.sampled_from(["published", "normalized"])
FORMULA = st.sampled_from(["published", "derived"])
FACTORS = st.sampled_from([None, 1, 3, 1000])


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    return min(pair), max(pair)


WIDTHS = st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0])
ANY_BAND = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(_ordered)
BANDS = st.one_of(
    WIDTHS.map(lambda p: (-p, 0.0)), WIDTHS.map(lambda p: (0.0, p)), ANY_BAND, st.just((-1.0, 1.0))
)


@pytest.fixture(params=["loops", "tensors"], scope="module", autouse=True)
def _both_paths(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything by the compiled loops, and as on a device that has none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(assignment, "_has_loops", lambda device: False)
        yield


def float64(tensor: Tensor) -> oracle.Floats:
    return tensor.to(torch.float64).flatten().numpy()


def flat(index: Tensor) -> np.ndarray:
    return index.flatten().numpy()


def normal(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def layer(n: int = 4000, seed: int = 0) -> tuple[Tensor, CentroidGrid, Tensor]:
    """Weights, their 4-bit grid, and a relevance with a heavy tail."""
    weight = normal(n, seed)
    return weight, CentroidGrid.fit(weight, bits=4), (2 * normal(n, seed + 1)).exp()


def dense_costs(
    weight: Tensor,
    grid: CentroidGrid,
    lam: float,
    largest: int | None = None,
    pmf: str = "published",
    formula: str = "published",
) -> tuple[oracle.Floats, oracle.Floats]:
    """The oracle's n x K cost and its information cost (zeros where λ = 0)."""
    w, values = float64(weight), float64(grid.values)
    info_cost = oracle.information_cost(w, values, lam, largest, pmf, formula)
    return oracle.costs(w, values, info_cost), info_cost


# -- ECQ -------------------------------------------------------------------------------------------


def assert_ecq(weight: Tensor, grid: CentroidGrid, index: Tensor, *arguments: Any) -> None:
    cost, _ = dense_costs(weight, grid, *arguments)
    assert index.shape == weight.shape
    assert oracle.within_ulps(cost, flat(index)).all()


@settings(max_examples=200)
@given(oracle.weights(), BITS, LAMBDAS, FACTORS, PMF, FORMULA)
def test_ecq(
    weight: Tensor, bits: int, lam: float, factor: int | None, pmf: Any, formula: Any
) -> None:
    grid = CentroidGrid.fit(weight, bits)
    largest = None if factor is None else factor * weight.numel()
    index = assign(weight, grid, lam, largest_layer_size=largest, pmf=pmf, lambda_max=formula)
    assert_ecq(weight, grid, index, lam, largest, pmf, formula)


@given(oracle.weights(), oracle.weights(), BITS, LAMBDAS)
def test_ecq_on_a_grid_that_was_fitted_before(
    weight: Tensor, before: Tensor, bits: int, lam: float
) -> None:
    """The grid stays while the weights move: any grid has to serve any weights."""
    grid = CentroidGrid.fit(before, bits)
    assert_ecq(weight, grid, assign(weight, grid, lam), lam)


@pytest.mark.parametrize("kind", sorted(oracle.WEIGHTS))
@pytest.mark.parametrize("scale", oracle.SCALES)
def test_ecq_on_every_kind_of_weights(kind: str, scale: float) -> None:
    """Every kind once at every scale, whatever the random examples are."""
    made = oracle.WEIGHTS[kind](np.random.default_rng(5), 1300) * scale
    weight = torch.from_numpy(np.clip(made, -1e30, 1e30).astype(np.float32))
    for bits in (2, 4, 8):
        grid = CentroidGrid.fit(weight, bits)
        for lam in (0.0, 0.05, 2.0):
            assert_ecq(weight, grid, assign(weight, grid, lam), lam)


def test_lam_zero_is_the_nearest_centroid_and_ties_go_to_the_lower() -> None:
    grid = CentroidGrid.from_step(1.0, -4, 8, CPU)
    weight = torch.arange(-40, 41) / 8
    nearest = torch.ceil(weight - 0.5).clamp(-4, 3)
    assert torch.equal(assign(weight, grid, lam=0.0) - grid.zero, nearest.to(torch.int32))


@given(st.integers(0, 2**16), FEW_BITS)
def test_lam_zero_ignores_the_relevance(seed: int, bits: int) -> None:
    weight = normal(200, seed)
    grid = CentroidGrid.fit(weight, bits)
    index = assign(weight, grid, lam=0.0, relevance=normal(200, seed + 1), sparsity_band=(-1, 1))
    assert torch.equal(index, assign(weight, grid, lam=0.0))


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-42, -1e25])
@pytest.mark.parametrize("n", [1, 50])
def test_one_element_and_constant_layers(value: float, n: int) -> None:
    weight = torch.full((n,), value)
    grid = CentroidGrid.fit(weight, bits=3)
    nearest = (grid.values.to(torch.float64) - value).abs().argmin()
    for relevance in (None, torch.ones(n), torch.zeros(n)):
        index = assign(weight, grid, lam=1.0, relevance=relevance)
        assert (index == nearest).all()


@pytest.mark.parametrize("relevant", [False, True])
def test_all_zero_layer_goes_to_zero(relevant: bool) -> None:
    weight = torch.zeros(4, 5)
    grid = CentroidGrid.fit(weight, bits=4)
    index = assign(weight, grid, lam=0.1, relevance=torch.rand(4, 5) if relevant else None)
    assert (index == grid.zero).all()


def test_an_empty_cluster_is_never_chosen() -> None:
    """No weight is nearest to −1, so its information is infinite; −0.4 goes to zero."""
    grid = CentroidGrid.from_step(1.0, -2, 4, CPU)
    weight = torch.tensor([-2.0, -2.0, -0.4, 0.0, 0.0, 0.0, 0.0, 1.0])
    for lam in (1e-6, 0.1, 10.0):
        assert (assign(weight, grid, lam) != grid.zero - 1).all()
    relevance = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 1])
    index = assign(weight, grid, 0.1, relevance=relevance, sparsity_band=(-1, 1))
    assert (index != grid.zero - 1).all()


def test_sparsity_grows_with_lam() -> None:
    weight, grid, _ = layer()
    zeros = [int((assign(weight, grid, lam) == grid.zero).sum()) for lam in (0, 0.01, 0.1, 0.5, 9)]
    assert zeros == sorted(set(zeros))


@pytest.mark.parametrize("lam", [1e30, 1e300, 1.7e308])
def test_huge_lam_is_handled(lam: float) -> None:
    """Λ is finite, so the layer is assigned: everything goes to the cheapest information."""
    weight = 1e10 * normal(100)
    grid = CentroidGrid.fit(weight)
    assert (assign(weight, grid, lam) == grid.zero).all()


@given(
    st.lists(
        st.tuples(st.integers(-50, 50), st.one_of(st.floats(0, 200), st.just(math.inf))),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=30),
)
def test_lower_envelope_of_any_centers(parabolas: list[tuple[int, float]], at: list[float]) -> None:
    """Not equidistant, equal ones, infinite ones."""
    assume(any(math.isfinite(offset) for _, offset in parabolas))
    centers, offsets = zip(*sorted(parabolas, key=lambda p: p[0]), strict=True)
    weight = torch.tensor(at, dtype=torch.float32)
    values = torch.tensor([[c / 7 for c in centers]], dtype=torch.float64)
    costs = torch.tensor([offsets], dtype=torch.float64)
    bounds = envelope_bounds(values, costs)
    index = torch.bucketize(weight, bounds[0])
    cost = oracle.costs(float64(weight), np.array(centers) / 7, np.array(offsets))
    assert oracle.within_ulps(cost, flat(index)).all()


# -- ECQx ------------------------------------------------------------------------------------------


def says_nothing(relevance: Tensor) -> bool:
    """All weights are equally relevant: then mean(R) is 0 or 1."""
    magnitude = relevance.abs()
    return bool((magnitude == magnitude.max()).all())


def assert_ecqx(
    weight: Tensor,
    grid: CentroidGrid,
    relevance: Tensor,
    band: tuple[float, float],
    index: Tensor,
    dense: tuple[oracle.Floats, oracle.Floats],
) -> None:
    cost, info_cost = dense
    zero, chosen = grid.zero, flat(index)
    if not info_cost.any() or says_nothing(relevance):
        assert oracle.within_ulps(cost, chosen).all()
        return
    others = np.delete(cost, zero, axis=1).min(axis=1)
    ecq_zeros = int((cost.argmin(axis=1) == zero).sum())
    choice = oracle.choose(cost, zero, float64(relevance), ecq_zeros, band)
    assert oracle.within_ulps(choice.cost, chosen).all()
    assert_best_nonzero(cost, zero, chosen)
    undecided = np.abs(choice.cost[:, zero] - others) <= oracle.ULPS * oracle.ulp32(others)
    count, expected = int((chosen == zero).sum()), int(choice.zeros.sum())
    assert abs(count - expected) <= undecided.sum(), f"{count} zeros, {expected} expected"


def assert_best_nonzero(cost: oracle.Floats, zero: int, chosen: np.ndarray) -> None:
    """Each weight outside the zero cluster is in its cheapest other cluster."""
    nonzero = cost.copy()
    nonzero[:, zero] = np.inf
    kept = chosen != zero
    assert oracle.within_ulps(nonzero[kept], chosen[kept]).all()


@settings(max_examples=250)
@given(st.data(), oracle.weights(), BITS, LAMBDAS, BANDS, PMF, FORMULA)
def test_ecqx(
    data: st.DataObject,
    weight: Tensor,
    bits: int,
    lam: float,
    band: tuple[float, float],
    pmf: Any,
    formula: Any,
) -> None:
    relevance = data.draw(oracle.relevances(weight.numel()))
    assume(weight.numel() <= 150 or bits <= 4)
    grid = CentroidGrid.fit(weight, bits)
    index = assign(weight, grid, lam, relevance, sparsity_band=band, pmf=pmf, lambda_max=formula)
    dense = dense_costs(weight, grid, lam, None, pmf, formula)
    assert_ecqx(weight, grid, relevance, band, index, dense)


@given(st.data(), oracle.weights(), oracle.weights(), FEW_BITS, POSITIVE_LAMBDAS, BANDS)
def test_ecqx_on_a_grid_that_was_fitted_before(
    data: st.DataObject,
    weight: Tensor,
    before: Tensor,
    bits: int,
    lam: float,
    band: tuple[float, float],
) -> None:
    assume(weight.numel() <= 150)
    relevance = data.draw(oracle.relevances(weight.numel()))
    grid = CentroidGrid.fit(before, bits)
    index = assign(weight, grid, lam, relevance, sparsity_band=band)
    assert_ecqx(weight, grid, relevance, band, index, dense_costs(weight, grid, lam))


@pytest.mark.parametrize("kind", sorted(oracle.RELEVANCES))
@pytest.mark.parametrize("band", [(-0.1, 0.0), (0.0, 0.1), (-0.02, 0.02), (0.3, 0.4), (-0.3, -0.2)])
def test_ecqx_on_every_kind_of_relevance(kind: str, band: tuple[float, float]) -> None:
    weight, grid, _ = layer(400)
    made = oracle.RELEVANCES[kind](np.random.default_rng(3), 400)
    relevance = torch.from_numpy(made.astype(np.float32))
    for lam in (0.01, 0.2):
        index = assign(weight, grid, lam, relevance, sparsity_band=band)
        assert_ecqx(weight, grid, relevance, band, index, dense_costs(weight, grid, lam))


@given(st.integers(0, 2**16), POSITIVE_LAMBDAS, st.floats(0.0, 1.0))
def test_the_published_search(seed: int, lam: float, p: float) -> None:
    weight, grid, relevance = layer(300, seed)
    index = assign(weight, grid, lam, relevance, p, beta="published")
    ecq = assign(weight, grid, lam) == grid.zero
    cost, _ = dense_costs(weight, grid, lam)
    zeros = oracle.published_zero_set(cost, grid.zero, float64(relevance), int(ecq.sum()), p)
    assert torch.equal(index == grid.zero, torch.from_numpy(zeros))


@given(st.integers(0, 2**16), POSITIVE_LAMBDAS, st.floats(0.0, 1.0))
def test_relevance_in_layers_above_p_alone(seed: int, lam: float, p: float) -> None:
    weight, grid, relevance = layer(300, seed)
    ecq = assign(weight, grid, lam)
    is_left_out = int((ecq == grid.zero).sum()) <= 300 * p
    expected = ecq if is_left_out else assign(weight, grid, lam, relevance, p)
    index = assign(weight, grid, lam, relevance, p, beta="nearest_above_p")
    assert torch.equal(index, expected)


@given(st.integers(0, 2**16), POSITIVE_LAMBDAS, BANDS)
def test_number_of_zeros_lies_in_the_band_where_it_can(
    seed: int, lam: float, band: tuple[float, float]
) -> None:
    """Distinct weights and relevances: every number between those of β = 0 and β = 1 exists."""
    weight, grid, relevance = layer(300, seed)
    index = assign(weight, grid, lam, relevance, sparsity_band=band)
    cost, _ = dense_costs(weight, grid, lam)
    R = oracle.normalized_relevance(float64(relevance))
    ecq_zeros = int((assign(weight, grid, lam) == grid.zero).sum())
    least, most = (int(oracle.zero_set(cost, grid.zero, R, b).sum()) for b in (0.0, 1.0))
    low, high = ecq_zeros + 300 * band[0] - 1e-6, ecq_zeros + 300 * band[1] + 1e-6
    count = int((index == grid.zero).sum())
    reachable = [k for k in range(least, most + 1) if low <= k <= high]
    assert not reachable or low <= count <= high


@given(st.integers(0, 2**16), POSITIVE_LAMBDAS, st.lists(BANDS, min_size=2, max_size=5))
def test_zero_sets_of_all_bands_are_nested(
    seed: int, lam: float, bands: list[tuple[float, float]]
) -> None:
    """All of them are {t < β} for one t: more zeros mean a superset."""
    weight, grid, relevance = layer(200, seed)
    sets = [assign(weight, grid, lam, relevance, sparsity_band=b) == grid.zero for b in bands]
    sets.sort(key=lambda zeros: int(zeros.sum()))
    for smaller, larger in pairwise(sets):
        assert (larger | ~smaller).all()


@pytest.mark.parametrize("extra", [0.0104, 0.03, 0.0666])
def test_edges_between_two_numbers_of_zeros_are_rounded_inwards(extra: float) -> None:
    """Neutral lies below the lower edge, or above the upper one; neither edge is a whole number."""
    weight, grid, relevance = layer(301)

    def zeros(band: tuple[float, float] | None = None) -> int:
        r = None if band is None else relevance
        return int((assign(weight, grid, 0.05, r, sparsity_band=band) == grid.zero).sum())

    s, neutral = zeros(), zeros((-1.0, 1.0))
    shift = (neutral - s) / 301
    assert zeros((shift + extra, 1.0)) == neutral + math.ceil(301 * extra)
    assert zeros((-1.0, shift - extra)) == neutral - math.ceil(301 * extra)


def test_p_is_short_for_a_band_below() -> None:
    weight, grid, relevance = layer()
    for p in (0.0, 0.05, 1.0):
        short = assign(weight, grid, 0.1, relevance, p=p)
        assert torch.equal(short, assign(weight, grid, 0.1, relevance, sparsity_band=(-p, 0.0)))
    overridden = assign(weight, grid, 0.1, relevance, p=0.0, sparsity_band=(-1, 1))
    assert torch.equal(overridden, assign(weight, grid, 0.1, relevance, sparsity_band=(-1, 1)))


def test_p_has_no_influence_below_but_above() -> None:
    """Neutral sparsity lies above ECQ's: [−p, 0] ends at exactly s, [0, +p] follows p."""
    weight, grid, relevance = layer()

    def zeros(**settings: Any) -> int:
        return int((assign(weight, grid, 0.05, **settings) == grid.zero).sum())

    s = zeros()
    assert zeros(relevance=relevance, sparsity_band=(-1, 1)) > s + 200
    assert [zeros(relevance=relevance, p=p) for p in (0.0, 0.1, 0.5)] == [s, s, s]
    added = [zeros(relevance=relevance, sparsity_band=(0.0, p)) - s for p in (0.0, 0.02, 0.05)]
    assert added == [0, 80, 200]


def test_a_layer_with_sparsity_below_p_uses_its_relevance() -> None:
    """The published search starts at sparsity 0 and gives such a layer none; not reproduced."""
    weight, grid, relevance = layer()
    plain = assign(weight, grid, 1e-3)
    index = assign(weight, grid, 1e-3, relevance, p=0.4)
    assert (plain == grid.zero).float().mean() < 0.4
    assert not torch.equal(index, plain)
    left, entered = (index != plain) & (plain == grid.zero), (index != plain) & (index == grid.zero)
    assert relevance[left].median() > relevance[entered].median()


def test_only_the_magnitude_and_not_the_scale_of_relevance_counts() -> None:
    weight, grid, relevance = layer()
    expected = assign(weight, grid, 0.1, relevance, sparsity_band=(0, 0.1))
    signs = torch.where(normal(4000, 9) > 0, 1.0, -1.0)
    for same in (signs * relevance, 1024 * relevance, relevance.to(torch.float64)):
        assert torch.equal(assign(weight, grid, 0.1, same, sparsity_band=(0, 0.1)), expected)


@pytest.mark.parametrize("zeros", [1, 2, 3, 5, 9])
def test_two_clusters_of_equal_information_ignore_the_relevance(zeros: int) -> None:
    """P_e is shrunk to ½ = P_0, so no side counts, λ = 0, and distances alone decide."""
    weight = -torch.ones(31)
    weight[:zeros] = 0
    grid = CentroidGrid.fit(weight, bits=4)
    index = assign(weight, grid, 0.05, torch.arange(31.0), sparsity_band=(-1, 1))
    assert torch.equal(grid.values[index.long()] == 0, weight == 0)


@pytest.mark.parametrize("value", [0.0, 1e-6, 1e-3, 0.1, 1.0, 7.3, 100.0, 1e6, -1.0])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_constant_relevance_says_nothing(value: float, p: float) -> None:
    """R is the same for all weights, mean(R) is 0 or 1: ECQ."""
    weight, grid, _ = layer(1000)
    index = assign(weight, grid, 0.1, torch.full((1000,), value), p=p)
    assert torch.equal(index, assign(weight, grid, 0.1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 0.3, 3.0, 1e7])
def test_the_most_relevant_weight_stays_at_zero_only_if_twice_as_cheap_there(scale: float) -> None:
    """R = 1: the factor is 2, whatever β, however max|r| + 1e-12 is rounded."""
    grid = CentroidGrid.from_step(1.0, -2, 4, CPU)
    others = torch.tensor([-1.0, 1.0, -0.9, 1.1] + [0.05] * 20)
    rest = scale * torch.linspace(0.01, 0.3, 24)
    for w in np.linspace(0.02, 0.6, 30):
        weight = torch.cat([torch.tensor([w], dtype=torch.float32), others])
        relevance = torch.cat([torch.tensor([scale]), rest])
        cost, _ = dense_costs(weight, grid, 0.3)
        twice, elsewhere = 2 * cost[0, grid.zero], np.delete(cost[0], grid.zero).min()
        assert abs(twice - elsewhere) > 1e-4
        index = assign(weight, grid, 0.3, relevance, sparsity_band=(-1, 1))
        assert bool(index[0] == grid.zero) == bool(twice < elsewhere)


def thresholds_of(
    weight: Tensor, grid: CentroidGrid, info_cost: oracle.Floats, R: oracle.Floats, path: str
) -> tuple[oracle.Floats, oracle.Floats]:
    """t of each weight, and its lowest cost elsewhere, by the loops or the tensor operations."""
    cost = oracle.costs(float64(weight), float64(grid.values), info_cost)
    cost[:, grid.zero] = np.inf
    best, values = cost.argmin(axis=1).astype(np.int32), grid.values.double()
    if path == "tensors":
        bounds = torch.empty(0)
        clusters = (values, torch.from_numpy(info_cost), torch.tensor([grid.zero]))
        made = Layer(*clusters, bounds, bounds, torch.tensor(1.0))
        t = zero_threshold(weight, made, torch.from_numpy(best), torch.from_numpy(R)).numpy()
    else:
        t, histogram = np.empty(len(R)), np.empty(loops.BINS + 2, np.int64)
        loops.zero_thresholds(
            *(weight.numpy(), R.astype(np.float32), np.float32(1), RELEVANCE_EPSILON, best),
            *(values.numpy(), info_cost, grid.zero, t, histogram),
        )
        assert histogram.sum() == len(R)
    return t, cost.min(axis=1)


PATHS = pytest.mark.parametrize("path", ["loops", "tensors"])


@PATHS
def test_zero_threshold_where_relevance_is_one(path: str) -> None:
    """Beyond any β: below if 2c₀ < c₊, else above."""
    grid = CentroidGrid.from_step(1.0, -2, 4, CPU)
    weight, cost = torch.tensor([0.1, 0.9, 0.8]), np.array([np.inf, 1.0, 0.1, 0.3])
    t, _ = thresholds_of(weight, grid, cost, np.ones(3), path)
    assert np.sign(t).tolist() == [-1, 1, 1]
    assert (np.abs(t) > 1e290).all()


@PATHS
def test_zero_threshold_is_where_both_costs_are_equal(path: str) -> None:
    weight, grid, relevance = layer(700)
    w, values = float64(weight), float64(grid.values)
    info_cost = oracle.information_cost(w, values, 0.1, None, "published", "published")
    R = oracle.normalized_relevance(float64(relevance))
    t, elsewhere = thresholds_of(weight, grid, info_cost, R, path)
    inner = R < 0.999
    at_zero = 2 * (w**2 + info_cost[grid.zero]) * (R + 1e-12) ** t
    np.testing.assert_allclose(at_zero[inner], elsewhere[inner], rtol=1e-8)


# -- band rule on made thresholds ------------------------------------------------------------------

THRESHOLDS = st.lists(
    st.one_of(
        st.sampled_from([-math.inf, -1.0, 0.0, 0.25, 0.5, 1.0, 2.0, math.inf]), st.floats(-1, 2)
    ),
    min_size=1,
    max_size=20,
)


def histogram_of(t: oracle.Floats) -> np.ndarray:
    """As `loops.zero_thresholds` writes it."""
    inner = (t >= 0) & (t < 1)
    counts, _ = np.histogram(t[inner], bins=loops.BINS, range=(0, 1))
    return np.concatenate([[(t < 0).sum()], counts, [(t >= 1).sum()]])


def zeros_of(t: list[float], beta: float, fewest: int, most: int) -> list[bool]:
    """The zero set, the same by tensor operations and by the loops."""
    thresholds = torch.tensor(t, dtype=torch.float64)
    arguments = (torch.tensor(x, dtype=torch.float64) for x in (beta, fewest, most))
    zeros = zero_set(thresholds, *arguments).tolist()
    edge = zero_edge(thresholds.numpy(), histogram_of(thresholds.numpy()), beta, fewest, most)
    index = np.ones(len(t), np.int32)
    loops.move_to_zero(thresholds.numpy(), edge, 0, index)
    assert zeros == (index == 0).tolist()
    return zeros


def expected_zeros(t: list[float], beta: float, fewest: int, most: int) -> int:
    """The band rule, over all β in [0, 1]."""
    neutral = sum(x < beta for x in t)
    if fewest <= neutral <= most:
        return neutral
    inside = sorted({0.0, 1.0, *(math.nextafter(x, 2) for x in t if 0 <= x < 1)})
    counts = [sum(x < b for x in t) for b in inside]
    fitting = [c for c in counts if fewest <= c <= most]
    if fitting:
        return min(fitting, key=lambda c: abs(c - neutral))
    return max((c for c in counts if c <= most), default=min(counts))


@settings(max_examples=300)
@given(THRESHOLDS, st.floats(0.01, 3), st.integers(-5, 25), st.integers(0, 25))
def test_band_rule(t: list[float], beta: float, fewest: int, width: int) -> None:
    zeros = zeros_of(t, beta, fewest, fewest + width)
    assert sum(zeros) == expected_zeros(t, beta, fewest, fewest + width)
    outside = [x for x, zero in zip(t, zeros, strict=True) if not zero]
    inside = [x for x, zero in zip(t, zeros, strict=True) if zero]
    assert max(inside, default=-math.inf) < min(outside, default=math.inf) or not inside


@given(THRESHOLDS, st.floats(0.01, 3), st.floats(0.01, 3))
def test_zero_set_grows_with_beta(t: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    smaller, larger = (zeros_of(t, beta, 0, len(t)) for beta in (low, high))
    assert all(more or not fewer for fewer, more in zip(smaller, larger, strict=True))


def test_equal_thresholds_stay_together() -> None:
    """Four weights share t; a band of three zeros cannot be met, so one zero is left."""
    t = [0.1, 0.4, 0.4, 0.4, 0.4, 0.8]
    for beta in (0.05, 0.9):
        assert zeros_of(t, beta, 3, 3) == [True] + [False] * 5


def test_lower_edge_out_of_reach() -> None:
    assert zeros_of([-1.0, 0.5, 1.5, math.inf], 0.2, 3, 4) == [True, True, False, False]


def test_neutral_beta_above_one_is_kept_in_the_band() -> None:
    t = [-1.0, 0.5, 1.5, math.inf]
    assert zeros_of(t, 1.7, 3, 4) == [True, True, True, False]
    assert zeros_of(t, 1.7, 0, 2) == [True, True, False, False]


@given(st.integers(1, 5000), st.floats(0.01, 0.99), st.integers(0, 2**16))
def test_rank_among_many_thresholds(n: int, share: float, seed: int) -> None:
    """The histogram finds the t of a rank, also at the edge of a bin."""
    rng = np.random.default_rng(seed)
    t = np.concatenate([rng.uniform(0, 1, n), rng.integers(0, loops.BINS, n) / loops.BINS])
    t = np.concatenate([t, np.nextafter(t, -1), rng.normal(size=n)])
    inner, least = np.sort(t[(t >= 0) & (t < 1)]), int((t < 0).sum())
    rank = least + 1 + int(share * (len(inner) - 1))
    edge = zero_edge(t, histogram_of(t), 9.0, 0, rank)
    cut = inner[rank - least - 1]
    assert edge == (np.nextafter(cut, 1) if (t <= cut).sum() <= rank else cut)


def test_equal_weights_of_equal_relevance_go_together() -> None:
    """Whatever the position in the tensor, the vector lane or the tail of a loop."""
    weight, _, relevance = layer(7)
    order = torch.randint(7, (1237,), generator=torch.Generator().manual_seed(1))
    grid = CentroidGrid.fit(weight[order], bits=3)
    for band in ((-0.1, 0.0), (0.0, 0.1), (0.1, 0.3), (-0.5, -0.2), (-1.0, 1.0)):
        index = assign(weight[order], grid, 0.1, relevance[order], sparsity_band=band)
        for value in range(7):
            assert index[order == value].unique().numel() <= 1


# -- any tensor ------------------------------------------------------------------------------------


@given(st.data(), oracle.weights(), BITS, LAMBDAS, BANDS)
def test_order_does_not_matter(
    data: st.DataObject, weight: Tensor, bits: int, lam: float, band: tuple[float, float]
) -> None:
    n = weight.numel()
    relevance = data.draw(oracle.relevances(n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    grid = CentroidGrid.fit(weight, bits)
    for r in (None, relevance):
        index = assign(weight, grid, lam, r, sparsity_band=band)
        moved = None if r is None else r[order]
        assert torch.equal(
            assign(weight[order], grid, lam, moved, sparsity_band=band), index[order]
        )


@pytest.mark.parametrize("shape", [(1,), (), (24,), (4, 6), (2, 3, 4), (2, 3, 2, 2)])
def test_shape_is_kept(shape: tuple[int, ...]) -> None:
    weight, relevance = normal(math.prod(shape)).reshape(shape), torch.rand(shape)
    grid = CentroidGrid.fit(weight, bits=3)
    for r in (None, relevance):
        index = assign(weight, grid, 0.1, relevance=r)
        assert index.shape == shape
        assert not index.is_floating_point()


def test_strided_input_gives_the_same_without_a_warning() -> None:
    weight, grid, relevance = layer(1200)
    expected = assign(weight, grid, 0.1, relevance).reshape(30, 40).t()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = assign(weight.reshape(30, 40).t(), grid, 0.1, relevance.reshape(30, 40).t())
    assert torch.equal(index, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    weight = normal(900).to(dtype)
    grid = CentroidGrid.fit(weight)
    relevance = torch.rand(900, generator=torch.Generator().manual_seed(0)).to(dtype)
    for r in (None, relevance):
        same = None if r is None else r.to(torch.float32)
        expected = assign(weight.to(torch.float32), grid, 0.1, same)
        assert torch.equal(assign(weight, grid, 0.1, r), expected)


def test_parameters_are_read_only() -> None:
    weight, grid, relevance = layer(300)
    parameter = torch.nn.Parameter(weight.clone())
    index = assign(parameter, grid, 0.1, relevance.clone().requires_grad_())
    assert not index.requires_grad
    assert torch.equal(parameter.detach(), weight)
    assert torch.equal(index, assign(weight, grid, 0.1, relevance))


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("relevant", [False, True])
def test_no_tensor_of_weights_times_clusters(relevant: bool) -> None:
    n, bits = 2_000_000, 8
    weight = normal(n)
    relevance = normal(n, 1) if relevant else None
    with LargestTensor() as largest:
        grid = CentroidGrid.fit(weight, bits)
        assign(weight, grid, 0.05, relevance)
    assert 4 * n <= largest.bytes <= 2 * 8 * n < 4 * n * 2**bits


# -- bad input -------------------------------------------------------------------------------------

BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"lam": -0.1}, r"^lam \(Lambda\) must be a finite number, at least 0, not -0.1$"),
    ({"lam": math.nan}, r"^lam \(Lambda\) must be .*, not nan$"),
    ({"lam": math.inf}, r"^lam \(Lambda\) must be .*, not inf$"),
    ({"p": -0.01}, r"^p must lie in \[0, 1\], not -0.01$"),
    ({"p": 1.5}, r"^p must lie in \[0, 1\], not 1.5$"),
    ({"p": math.nan}, r"^p must lie in \[0, 1\], not nan$"),
    ({"sparsity_band": (0.1, -0.1)}, r"^sparsity_band must be \(low, high\) .*not \(0.1, -0.1\)$"),
    ({"sparsity_band": (-1.1, 0.0)}, r"^sparsity_band must be \(low, high\) "),
    ({"sparsity_band": (0.0, 1.1)}, r"^sparsity_band must be \(low, high\) "),
    ({"sparsity_band": (math.nan, 0.0)}, r"^sparsity_band must be \(low, high\) "),
    ({"sparsity_band": (0.0, math.nan)}, r"^sparsity_band must be \(low, high\) "),
    ({"largest_layer_size": 11}, r"^largest_layer_size must be at least .* 12 elements, not 11$"),
    ({"largest_layer_size": 0}, r"^largest_layer_size must be at least .* 12 elements, not 0$"),
    ({"pmf": "other"}, r"^pmf must be one of published, normalized, not 'other'$"),
    ({"lambda_max": "other"}, r"^lambda_max must be one of published, derived, not 'other'$"),
    ({"relevance": torch.ones(3, 4)}, r"^relevance has shape \(3, 4\), weight has \(4, 3\)$"),
    ({"relevance": torch.ones(1)}, r"^relevance has shape \(1,\), weight has \(4, 3\)$"),
    ({"relevance": torch.full((4, 3), math.nan)}, r"^relevance holds NaN or infinite values$"),
    ({"relevance": torch.full((4, 3), math.inf)}, r"^relevance holds NaN or infinite values$"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_SETTINGS)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    weight = normal(12).reshape(4, 3)
    with pytest.raises(ValueError, match=message) as error:
        assign(weight, CentroidGrid.fit(weight), **changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lam", [0.0, 0.05])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_relevance_is_found_even_where_it_is_not_used(lam: float, value: float) -> None:
    """A setting of Λ must not hide a broken relevance."""
    weight = normal(12)
    with pytest.raises(ValueError, match=r"^relevance holds NaN or infinite values$"):
        assign(weight, CentroidGrid.fit(weight), lam, torch.full((12,), value))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, math.nan]), r"^weight holds NaN or infinite values$"),
        (torch.tensor([1.0, -math.inf]), r"^weight holds NaN or infinite values$"),
        (torch.empty(0), r"^weight has no elements$"),
        (torch.tensor([1, 2]), r"^weight must be a floating-point tensor$"),
        ([1.0], r"^weight must be a floating-point tensor$"),
    ],
)
def test_unusable_weights(weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(weight, CentroidGrid.fit(normal(10)))
