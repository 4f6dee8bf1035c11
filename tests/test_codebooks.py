"""Codebooks: their centroids, assignment to any centroids, and where training starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import cycle, product
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecqx.assignment import assign as assignment
from ecqx.assignment.assign import assign
from ecqx.assignment.bits import FORMS, Form, bits_of
from ecqx.assignment.centroids import CentroidGrid
from ecqx.assignment.codebooks import Codebook, binary_basis, codebooks, ternary

LAMBDAS = st.sampled_from([0.0, 1e-4, 0.02, 0.1, 0.5, 3.0, 50.0])
FORMULA = st.sampled_from(["published", "derived"])
BANDS = st.sampled_from([(-0.1, 0.0), (0.0, 0.1), (-1.0, 1.0), (-0.02, 0.02)])
# Numbers that make equal sums are as likely as others.
NUMBERS = st.one_of(
    st.lists(st.integers(-3, 3).map(lambda k: k / 4), min_size=1, max_size=4),
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=4),
)


@pytest.fixture(params=["loops", "tensors"], scope="module", autouse=True)
def _both_paths(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything by the compiled loops, and as on a device that has none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tensors":
            patch.setattr(assignment, "_has_loops", lambda device: False)
        yield


def exact_centroids(form: str, numbers: list[float]) -> list[float]:
    """All of them, ascending, from exact sums."""
    exact = [Fraction(number) for number in numbers]
    if form == "values":
        sums = [Fraction(0), *exact]
    else:
        chosen = product([0, 1], repeat=len(exact))
        sums = [sum((c * n for c, n in zip(s, exact, strict=True)), Fraction(0)) for s in chosen]
    return [float(s) for s in sorted(sums)]


# -- centroids -------------------------------------------------------------------------------------


@given(st.sampled_from(FORMS), NUMBERS)
def test_centroids_are_the_sums(form: Form, numbers: list[float]) -> None:
    codebook = Codebook.of(form, torch.tensor(numbers))
    exact = np.array(exact_centroids(form, numbers))
    # Beside one rounding to float32, sums in float64 have their own, relative to what is summed.
    unit = sum(map(abs, numbers)) * 2.0**-50
    got = codebook.values.double().numpy()
    assert (np.abs(got - exact) <= oracle.ulp32(exact) / 2 + unit).all()
    summed = codebook.members @ torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(summed.float(), codebook.values, rtol=1e-6, atol=unit)
    assert len(codebook) == len(exact)


@given(st.sampled_from(FORMS), NUMBERS)
def test_zero_is_the_empty_sum_and_the_first_of_its_equals(
    form: Form, numbers: list[float]
) -> None:
    codebook = Codebook.of(form, torch.tensor(numbers))
    values = codebook.values
    assert values[codebook.zero] == 0
    assert not codebook.members[codebook.zero].any()
    assert (values[: codebook.zero] < 0).all()
    assert (values.diff() >= 0).all()


def test_layers_do_not_touch_each_other() -> None:
    numbers = torch.tensor([[-1.0, 2.0, 4.0, 0.5], [3.0, -3.0, 0.0, 1.0], [-0.1, -0.2, -0.4, -0.8]])
    together = codebooks("sums", numbers)
    for row, codebook in zip(numbers, together, strict=True):
        alone = Codebook.of("sums", row)
        assert torch.equal(codebook.values, alone.values)
        assert torch.equal(codebook.members, alone.members)
        assert codebook.zero == alone.zero
    # What an optimizer does to the numbers in place afterwards is none of the codebook's business.
    numbers.zero_()
    assert together[0].numbers.tolist() == [-1.0, 2.0, 4.0, 0.5]


def test_bits() -> None:
    assert [bits_of("values", m) for m in (1, 2, 3, 4, 7, 8, 15, 255)] == [2, 2, 2, 3, 3, 4, 4, 8]
    assert [bits_of("sums", m) for m in (1, 2, 4, 8)] == [1, 2, 4, 8]
    for form, m in (("values", 0), ("values", 256), ("sums", 0), ("sums", 9)):
        with pytest.raises(ValueError, match=r"a codebook of .* has 1 to"):
            Codebook.of(form, torch.zeros(m))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form must be one of values, sums, not 'products'"):
        Codebook.of("products", torch.zeros(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [[1.0, math.nan], [math.inf, 1.0], [3e38, 3e38]])
def test_centroids_that_are_not_finite_are_refused(numbers: list[float]) -> None:
    with pytest.raises(ValueError, match="the codebook holds NaN or infinite values"):
        Codebook.of("sums", torch.tensor(numbers))


# -- assignment ------------------------------------------------------------------------------------


def merged(codebook: Codebook) -> tuple[oracle.Floats, np.ndarray, int]:
    """Different centroids, the place of the first of each in the codebook, and the place of 0."""
    values, first = np.unique(codebook.values.double().numpy(), return_index=True)
    return values, first, int(np.flatnonzero(values == 0)[0])


def dense(
    weight: Tensor, values: oracle.Floats, lam: float, formula: str
) -> tuple[oracle.Floats, oracle.Floats]:
    """The oracle's n x K cost, and its information cost."""
    w = weight.double().flatten().numpy()
    info = oracle.information_cost(w, values, lam, None, "published", formula)
    return oracle.costs(w, values, info), info


def places(index: Tensor, first: np.ndarray) -> np.ndarray:
    """Places among the different centroids; each weight has the first of equal ones."""
    found = np.searchsorted(first, index.flatten().numpy())
    np.testing.assert_array_equal(first[found], index.flatten().numpy())
    return found


@settings(max_examples=150)
@given(oracle.weights(), st.sampled_from(FORMS), NUMBERS, LAMBDAS, FORMULA)
def test_assignment_to_any_centroids(
    weight: Tensor, form: Form, numbers: list[float], lam: float, formula: Any
) -> None:
    codebook = Codebook.of(form, torch.tensor(numbers))
    values, first, _ = merged(codebook)
    index = assign(weight, codebook, lam, lambda_max=formula)
    cost, _ = dense(weight, values, lam, formula)
    assert oracle.within_ulps(cost, places(index, first)).all()


@settings(max_examples=100)
@given(st.data(), st.sampled_from(FORMS), NUMBERS, LAMBDAS, BANDS, FORMULA)
def test_assignment_to_any_centroids_with_relevance(
    data: st.DataObject,
    form: Form,
    numbers: list[float],
    lam: float,
    band: tuple[float, float],
    formula: Any,
) -> None:
    n = data.draw(st.integers(1, 120))
    weight = torch.from_numpy(np.random.default_rng(n).normal(size=n).astype(np.float32))
    relevance = data.draw(oracle.relevances(n))
    magnitude = relevance.abs()
    assume(not bool((magnitude == magnitude.max()).all()))  # or it says nothing
    codebook = Codebook.of(form, torch.tensor(numbers))
    values, first, zero = merged(codebook)
    assume(len(values) > 1)
    index = assign(weight, codebook, lam, relevance, sparsity_band=band, lambda_max=formula)
    chosen = places(index, first)
    cost, info = dense(weight, values, lam, formula)
    if not info.any():
        assert oracle.within_ulps(cost, chosen).all()
        return
    ecq_zeros = int((cost.argmin(axis=1) == zero).sum())
    choice = oracle.choose(cost, zero, relevance.double().numpy(), ecq_zeros, band)
    assert oracle.within_ulps(choice.cost, chosen).all()


def test_clusters_that_coincide_share_their_information() -> None:
    """A codebook with equal sums assigns as one without the copies."""
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    twice, once = torch.tensor([-1.0, 0.5, 0.5, 0.0]), torch.tensor([-1.0, -0.5, 0.5, 1.0])
    copies, plain = Codebook.of("sums", twice), Codebook.of("values", once)
    assert torch.equal(copies.values.unique(), plain.values)
    a, b = (assign(weight, c, 0.02, lambda_max="derived") for c in (copies, plain))
    assert torch.equal(copies.values[a.long()], plain.values[b.long()])
    assert len(a.unique()) == 5


# -- where training starts -------------------------------------------------------------------------


# Each kind of weights with one of all scales and widths.
SCALED = zip(sorted(oracle.WEIGHTS), cycle(product([1.0, 1e10, 1e-20], [2, 4])), strict=False)


@pytest.mark.parametrize(("kind", "scale", "bits"), [(kind, *pair) for kind, pair in SCALED])
def test_sums_of_the_binary_basis_are_the_grid_of_ecq(kind: str, scale: float, bits: int) -> None:
    made = oracle.WEIGHTS[kind](np.random.default_rng(7), 600) * scale
    weight = torch.from_numpy(np.clip(made, -1e30, 1e30).astype(np.float32))
    grid = CentroidGrid.fit(weight, bits)
    codebook = Codebook.of("sums", binary_basis(weight, bits))
    assert torch.equal(codebook.values, grid.values)
    assert codebook.zero == grid.zero


@given(oracle.weights())
def test_ternary_centroids_are_means_of_what_is_nearest(weight: Tensor) -> None:
    low, high = ternary(weight).tolist()
    w = weight.double().numpy()
    for centre, side in ((-low, -w[w < 0]), (high, w[w > 0])):
        if side.size == 0:
            assert centre == 0
            continue
        assert centre > 0
        means = [side[side > half].mean() for half in (centre / 2, np.nextafter(centre / 2, 0))]
        assert centre == pytest.approx(means[0], rel=1e-5) or centre == pytest.approx(means[1])


def test_ternary_centroids_of_two_heaps() -> None:
    weight = torch.tensor([0.01, -0.02, 0.0, 0.9, 1.0, 1.1, -1.9, -2.1])
    assert ternary(weight).tolist() == pytest.approx([-2.0, 1.0])
