"""Intervals of differences of accuracy: over seeds, over test samples, and pooled deviations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from ecqx.report.contrasts import (
    Contrast,
    Network,
    contrast,
    difference,
    interval,
    intervals,
    is_fair_to_pool,
    pooled_spread,
)
from ecqx.report.statistics import Estimate

Bits = NDArray[np.bool_]


def network(bits: Bits) -> Network:
    return Network(float(bits.mean()), bits)


def known(one: Contrast | None) -> Estimate:
    found = interval(one)
    assert found is not None
    return found


def ends(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


@given(st.integers(0, 2**16), st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_a_contrast_is_the_weighted_sum_of_accuracies(seed: int, weights: list[float]) -> None:
    noise = np.random.default_rng(seed)
    networks = {s: [network(noise.random(40) < 0.7) for _ in weights] for s in range(3)}
    found = contrast({s: list(zip(weights, own, strict=True)) for s, own in networks.items()})
    assert found is not None
    expected = [np.dot(weights, [one.correct.mean() for one in networks[s]]) for s in range(3)]
    assert found.values == pytest.approx(expected)
    assert found.by_sample is not None
    assert found.by_sample.mean() == pytest.approx(found.mean)


def test_without_samples_the_interval_is_the_paired_t_test_of_scipy() -> None:
    first = {0: 0.91, 1: 0.95, 2: 0.93, 3: 0.99, 9: 0.1}
    second = {3: 0.97, 2: 0.94, 1: 0.92, 0: 0.90, 7: 0.2}
    one, two = ({s: Network(a, None) for s, a in own.items()} for own in (first, second))
    found = known(difference(one, two))
    seeds = (0, 1, 2, 3)
    oracle = stats.ttest_rel([first[s] for s in seeds], [second[s] for s in seeds])
    wanted = oracle.confidence_interval(0.95)
    assert ends(found) == pytest.approx((wanted.low, wanted.high))
    assert found.n == 4
    assert difference({0: one[0]}, {1: two[1]}) is None


def test_seeds_that_agree_leave_the_chance_of_the_samples() -> None:
    """Three seeds that lose the same 3 of 450 samples: as certain as 3 of 450 of one network."""
    right = np.ones(450, bool)
    lost = right.copy()
    lost[[4, 44, 311]] = False
    seeds = range(3)
    found = known(difference({s: network(right) for s in seeds}, {s: network(lost) for s in seeds}))
    assert found.mean == pytest.approx(3 / 450)
    low, high = ends(found)
    # A binomial proportion of 3 of 450 has a standard error of 0.38 points; one sample is 0.22.
    error = math.sqrt(3 / 450 * (1 - 3 / 450) / 450 + (1 / 450) ** 2 / 3)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.02)


def test_equal_networks_differ_by_about_a_sample() -> None:
    right = np.arange(450) % 9 > 0
    same = {s: network(right) for s in range(3)}
    low, high = ends(known(difference(same, same)))
    assert (low, high) == pytest.approx((-1.13 / 450, 1.13 / 450), rel=0.01)


def made(noise: np.random.Generator, seeds: int, n: int, gap: float) -> Contrast:
    """Two networks a seed: samples differ in difficulty and seeds in luck, as in trainings."""
    hard, luck = noise.normal(1.2, 1.5, n), noise.normal(0, 0.1, (2, seeds, 1))
    chance = stats.norm.cdf(hard + luck + np.array([0.0, gap]).reshape(2, 1, 1))
    first, second = noise.random((2, seeds, n)) < chance
    rows = range(seeds)
    found = difference({s: network(first[s]) for s in rows}, {s: network(second[s]) for s in rows})
    assert found is not None
    return found


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("n", [100, 1000])
def test_intervals_hold_the_true_difference(seeds: int, n: int) -> None:
    """Over made trainings and test sets: at least as often as they say, and not much too wide."""
    noise, gap = np.random.default_rng([seeds, n]), 0.3
    truth = np.mean([made(noise, 10, 20_000, gap).mean for _ in range(20)])
    found = [known(made(noise, seeds, n, gap)) for _ in range(400)]
    held = np.mean([low <= truth <= high for low, high in map(ends, found)])
    assert held > 0.93
    true_error = np.std([one.mean for one in found])
    halves = [(high - low) / 2 for low, high in map(ends, found)]
    assert np.median(halves) < 2.2 * 1.96 * true_error


def test_pooling_gives_each_contrast_the_common_deviation() -> None:
    groups = [(0.1, 0.2, 0.3), (0.0, 0.15, 0.1), (0.5, 0.62, 0.7)]
    found = pooled_spread([Contrast(own) for own in groups])
    assert found is not None
    variance = np.mean([np.var(own, ddof=1) for own in groups])
    assert found.deviation == pytest.approx(math.sqrt(variance))
    assert 2 < found.freedom < 6
    # One of fewer seeds is of other seeds, so that it does not take part.
    one, *_, other = intervals([Contrast(own) for own in (*groups, (0.3, 0.35))])
    assert one is not None
    assert other is not None
    half = stats.t.ppf(0.975, found.freedom) * math.sqrt(variance / 3)
    assert ends(one.value) == pytest.approx((0.2 - half, 0.2 + half))
    assert other.value == interval(Contrast((0.3, 0.35)))


def test_contrasts_that_move_together_are_as_good_as_one() -> None:
    noise = np.random.default_rng(2)
    seeds = noise.normal(0, 1, 5)
    together = pooled_spread([Contrast(tuple(seeds + k)) for k in range(6)])
    apart = pooled_spread([Contrast(tuple(noise.normal(0, 1, 20))) for _ in range(40)])
    assert together is not None
    assert apart is not None
    assert together.freedom == pytest.approx(4)
    assert apart.freedom == pytest.approx(19 * 40, rel=0.1)


@pytest.mark.parametrize("own", [0.2, 1.0, 3.0])
def test_pooled_intervals_hold_though_all_share_a_network(own: float) -> None:
    """Settings of the same seeds are compared with one network of each seed."""
    noise, held = np.random.default_rng(3), []
    for _ in range(600):
        shared = noise.normal(0, 1, 3)
        found = intervals([Contrast(tuple(shared + noise.normal(0, own, 3))) for _ in range(8)])
        held += [low <= 0 <= high for one in found if one for low, high in [ends(one.value)]]
    assert np.mean(held) > 0.92


def test_deviations_are_not_pooled_where_they_differ() -> None:
    noise = np.random.default_rng(0)
    calm, wild = (tuple(noise.normal(0, sd, 10)) for sd in (0.001, 0.1))
    assert pooled_spread([Contrast(calm), Contrast(wild)]) is None
    alone, together = interval(Contrast(calm)), intervals([Contrast(calm), Contrast(wild)])[0]
    assert together is not None
    assert alone is not None
    assert ends(together.value) == pytest.approx(ends(alone))


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.75), (10, 0.92)])
def test_the_test_of_fairness_seldom_rejects_what_is_fair(seeds: int, least: float) -> None:
    noise = np.random.default_rng(1)
    trials = [[tuple(noise.normal(0, 1, seeds)) for _ in range(4)] for _ in range(500)]
    assert np.mean([is_fair_to_pool(groups) for groups in trials]) > least
    wild = [[tuple(noise.normal(0, sd, seeds)) for sd in (1, 1, 1, 30)] for _ in range(500)]
    assert np.mean([is_fair_to_pool(groups) for groups in wild]) < 0.1


def test_only_what_is_alike_shares_a_deviation() -> None:
    noise = np.random.default_rng(0)
    one, two, far = (Contrast(tuple(noise.normal(mean, 0.01, 4))) for mean in (0.0, 0.0, 1.0))
    found = intervals([one, far, two], alike=lambda contrast: contrast.mean < 0.5)
    assert [found[0], found[2]] == intervals([one, two])
    assert found[1] == intervals([far])[0]


@pytest.mark.filterwarnings("error")
def test_pairs_of_seeds_are_not_pooled() -> None:
    assert not is_fair_to_pool([(0.1, 0.2), (0.3, 0.35)])


def test_there_is_no_interval_without_a_spread() -> None:
    for own in ((0.1,), (0.1, 0.1 + 1e-12, 0.1)):
        found = known(Contrast(own))
        assert (found.low, found.high) == (None, None)
    assert interval(None) is None


@pytest.mark.parametrize("seeds", [3, 10])
def test_what_would_have_decided_does(seeds: int) -> None:
    """With as many seeds, or test samples, as named, a difference of this size is decided."""
    noise, kinds = np.random.default_rng(5), set()
    for _ in range(60):
        one = made(noise, seeds, 400, 0.08)
        (found,) = intervals([one])
        assert found is not None
        low, high = ends(found.value)
        if not low < 0 < high:
            continue
        assert found.would_take is not None
        assert one.by_sample is not None
        spread, samples = max(np.std(one.values, ddof=1), 1 / 400), one.by_sample.var(ddof=1)
        if found.would_take.endswith("test samples, and more seeds"):
            kinds.add("samples")
            n = int(found.would_take.split()[0].replace(",", ""))
            assert n > 400
            error = 1.96 * math.sqrt(spread**2 / 1000 + samples / n)
        elif found.would_take.startswith("more than"):
            continue
        else:
            kinds.add("seeds")
            count = int(found.would_take.split()[0])
            assert count > seeds
            quantile = stats.t.ppf(0.975, count - 1)
            error = quantile * math.sqrt(spread**2 / count + samples / 400)
        assert error <= abs(one.mean) * 1.0001
    assert kinds == {"seeds", "samples"}
