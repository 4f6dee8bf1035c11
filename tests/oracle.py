"""Dense, slow oracle of grid, information and assignment, straight from DESIGN 3.1 to 3.3.

Everything is float64 numpy, probabilities are exact fractions, and the n x K cost tensor is built.
Nothing here is shared with the code under test. The made tensors that both are compared on stand
at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EPSILON = 1e-12
ULPS = 4


def ulp32(value: Floats) -> Floats:
    """Distance of neighbouring float32 at ``value``, as if the exponent had no bounds."""
    _, exponent = np.frexp(value)
    return np.ldexp(1.0, exponent - 24)


# -- grid ------------------------------------------------------------------------------------------


def step_of(weight: Floats, bits: int) -> float:
    """Δ before it is rounded to float32."""
    magnitude = np.abs(weight)
    denominator = 2 ** (bits - 1) - 1 if (weight < 0).any() else 2**bits - 1
    step = float(np.quantile(magnitude, 0.999)) / denominator
    if step == 0:
        step = float(magnitude.max()) / denominator
    return step or 1.0


def votes_for_positive(weight: Floats) -> int:
    """How many of the five statistics are larger on the positive side; ties count as lost."""
    positive, negative = weight[weight > 0], -weight[weight < 0]
    if positive.size == 0:
        return 0
    pairs = [(f(positive), f(negative)) for f in (np.max, np.mean, np.size, math.fsum)]
    if positive.size > 1:
        pairs.append(
            (np.std(positive, ddof=1), np.std(negative, ddof=1) if negative.size > 1 else 0.0)
        )
    return sum(bool(p > n) for p, n in pairs)


def integers(weight: Floats, bits: int) -> NDArray[np.int64]:
    """The integers k of the grid."""
    half = 2 ** (bits - 1)
    if not (weight < 0).any():
        return np.arange(2 * half)
    first = 1 - half if votes_for_positive(weight) >= 3 else -half
    return np.arange(first, first + 2 * half)


# -- information -----------------------------------------------------------------------------------


def nearest_counts(weight: Floats, values: Floats) -> list[int]:
    """How many weights have each centroid as their nearest; ties go to the lower one.

    Middles of neighbours are exact in float64; distances of weights far outside the grid are not.
    """
    nearest = np.searchsorted((values[:-1] + values[1:]) / 2, weight, side="left")
    return [int((nearest == c).sum()) for c in range(len(values))]


def probabilities(counts: list[int], zero: int, pmf: str) -> list[Fraction]:
    """P_c with the zero cluster raised to one half, exactly."""
    P = [Fraction(count, sum(counts)) for count in counts]
    half, p_zero = Fraction(1, 2), P[zero]
    if p_zero >= half:
        return P
    r = (half - p_zero) / (1 - p_zero)
    above = 1 - r / (1 - p_zero) if pmf == "published" else 1 - r
    shrunk = [P[c] * ((1 - r) if c < zero else above) for c in range(len(P))]
    shrunk[zero] = half
    return shrunk


def information(probability: list[Fraction]) -> Floats:
    """I_c = −log2 P_c, infinite for an empty cluster."""
    return np.array([-math.log2(p) if p else math.inf for p in probability])


def lambda_max(
    weight: Floats, values: Floats, counts: list[int], P: list[Fraction], formula: str
) -> float:
    """λ_max; whether I_e ≤ I_0 is decided on the exact probabilities."""
    zero, I = int(np.flatnonzero(values == 0)[0]), information(P)  # noqa: E741
    occupied = [c for c, count in enumerate(counts) if count]
    best = 0.0
    for e, w_e in ((occupied[0], weight.min()), (occupied[-1], weight.max())):
        if e == zero or P[e] >= P[zero]:
            continue
        rounding = (values[e] - w_e) ** 2
        cost = (rounding - (0 - w_e)) ** 2 if formula == "published" else w_e**2 - rounding
        best = max(best, float(cost / (I[e] - I[zero])))
    return best


def information_cost(
    weight: Floats,
    values: Floats,
    lam: float,
    largest_layer_size: int | None,
    pmf: str,
    formula: str,
) -> Floats:
    """λ·I_c; zeros where λ = 0, so that distances alone decide."""
    zero = int(np.flatnonzero(values == 0)[0])
    counts = nearest_counts(weight, values)
    P = probabilities(counts, zero, pmf)
    share = weight.size / (weight.size if largest_layer_size is None else largest_layer_size)
    lambda_ = (
        lam * lambda_max(weight, values, counts, P, formula) * (share + 0.05) / (1 + 0.05)
        if lam
        else 0.0
    )
    return lambda_ * information(P) if lambda_ > 0 else np.zeros(len(values))


# -- assignment ------------------------------------------------------------------------------------


def costs(weight: Floats, values: Floats, info_cost: Floats) -> Floats:
    """The n x K tensor (w − w_c)² + λI_c."""
    return (weight[:, None] - values) ** 2 + info_cost


def within_ulps(cost: Floats, index: NDArray[np.int64], ulps: int = ULPS) -> Bools:
    """Whether each chosen cluster's cost is at most ``ulps`` float32 ulp above the lowest one."""
    best = cost.min(axis=1)
    chosen = cost[np.arange(len(cost)), index]
    return chosen <= best + ulps * ulp32(best)


@dataclass(frozen=True)
class Choice:
    """What the band rule asks for: the β, the zero-set it gives, and the dense cost at that β."""

    beta: float
    zeros: Bools
    cost: Floats


def normalized_relevance(relevance: Floats) -> Floats:
    """R = |r| / (max|r| + 1e-12), in float32, where the largest R of most layers is one."""
    magnitude = np.abs(relevance).astype(np.float32)
    return (magnitude / (magnitude.max() + np.float32(EPSILON))).astype(np.float64)


def neutral_beta(R: Floats) -> float:
    """β₀ = ln ½ / ln mean(R)."""
    return math.log(0.5) / math.log(float(R.mean()))


def weighted_costs(cost: Floats, zero: int, R: Floats, beta: float) -> Floats:
    """Costs with the zero column multiplied by 2(R + 1e-12)^β."""
    weighted = cost.copy()
    weighted[:, zero] *= 2 * np.minimum(R + EPSILON, 1.0) ** beta
    return weighted


def zero_set(cost: Floats, zero: int, R: Floats, beta: float) -> Bools:
    """Weights whose zero cluster is strictly cheapest at ``beta``."""
    weighted = weighted_costs(cost, zero, R, beta)
    others = np.delete(weighted, zero, axis=1).min(axis=1)
    return weighted[:, zero] < others


def published_zero_set(
    cost: Floats, zero: int, relevance: Floats, ecq_zeros: int, p: float
) -> Bools:
    """The zero set of the published search, by assigning all weights anew for every β."""
    R, n = normalized_relevance(relevance), len(cost)
    low, high = ecq_zeros - p * n - 1e-6, ecq_zeros + 1e-6
    beta, zeros = neutral_beta(R), cost.argmin(axis=1) == zero
    if low <= 0:
        return zeros
    for share in [0.1] * 20 + [0.5] * 20 + [0.75] * 11:
        zeros = zero_set(cost, zero, R, beta)
        if low <= zeros.sum() <= high:
            break
        beta = min(1.0, beta * (1 + share if zeros.sum() < low else 1 - share))
    return zeros


def betas(cost: Floats, zero: int, R: Floats) -> list[float]:
    """One β in [0, 1] for every attainable zero-set."""
    others = np.delete(cost, zero, axis=1).min(axis=1)
    base = np.minimum(R + EPSILON, 1.0)
    moves = base < 1
    with np.errstate(all="ignore"):
        t = np.log(others[moves] / (2 * cost[moves, zero])) / np.log(base[moves])
    inner = np.unique(np.concatenate([[0.0, 1.0], t[(t > 0) & (t < 1)]]))
    middles = (inner[:-1] + inner[1:]) / 2
    return [0.0, *middles.tolist(), 1.0]


def choose(
    cost: Floats, zero: int, relevance: Floats, ecq_zeros: int, band: tuple[float, float]
) -> Choice:
    """Exhaustive search of the attainable zero-sets for the one that the band rule asks for."""
    R, n = normalized_relevance(relevance), len(cost)
    low, high = ecq_zeros + band[0] * n - 1e-6, ecq_zeros + band[1] * n + 1e-6
    beta = neutral_beta(R)
    neutral = int(zero_set(cost, zero, R, beta).sum())
    if not low <= neutral <= high:
        found = [(int(zero_set(cost, zero, R, b).sum()), b) for b in betas(cost, zero, R)]
        inside = [f for f in found if low <= f[0] <= high]
        below = [f for f in found if f[0] <= high]
        if inside:
            beta = min(inside, key=lambda f: abs(f[0] - neutral))[1]
        elif below:
            beta = max(below)[1]
        else:
            beta = min(found)[1]
    return Choice(beta, zero_set(cost, zero, R, beta), weighted_costs(cost, zero, R, beta))


# -- made tensors ----------------------------------------------------------------------------------

Maker = Callable[[np.random.Generator, int], Floats]
Made = Callable[[int], Floats]


def _sparse(rng: np.random.Generator, n: int) -> Floats:
    """Fewer than one weight in a thousand is not zero: the percentile is 0 from 1,001 on."""
    weight = np.zeros(n)
    weight[rng.integers(n)] = rng.normal()
    return weight


WEIGHTS: dict[str, Maker] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "heavy": lambda rng, n: rng.standard_cauchy(n),
    "skew": lambda rng, n: rng.exponential(size=n) - 0.3,
    "few": lambda rng, n: rng.choice(rng.normal(size=5), n),
    "halves": lambda rng, n: rng.integers(-9, 10, n) / 2,
    "magnitudes": lambda rng, n: rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-12, 0, n),
    "sorted": lambda rng, n: np.sort(rng.normal(size=n)),
    "positive": lambda rng, n: np.abs(rng.normal(size=n)),
    "negative": lambda rng, n: -np.abs(rng.normal(size=n)),
    "two values": lambda rng, n: rng.choice(rng.normal(size=2), n),
    "zero and one value": lambda rng, n: rng.choice([0.0, rng.normal()], n),
    "constant": lambda rng, n: np.full(n, rng.normal()),
    "sparse": _sparse,
    "zeros": lambda rng, n: np.zeros(n),
}
SCALES = [1.0, 0.05, 1e10, 1e-20, 1e-42]  # the last one: subnormal in float32

RELEVANCES: dict[str, Maker] = {
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "heavy": lambda rng, n: np.exp(4 * rng.normal(size=n)),
    "half zero": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "few": lambda rng, n: rng.choice([0.0, 0.1, 0.4, 1.0], n),
    "one": lambda rng, n: np.eye(1, n, int(rng.integers(n)))[0],
    "all but one": lambda rng, n: 1 - np.eye(1, n, int(rng.integers(n)))[0],
    "high": lambda rng, n: rng.uniform(0.9, 1, n),
    "zeros": lambda rng, n: np.zeros(n),
}
RELEVANCE_SCALES = [1.0, 1e-3, 1e-9, 1e7]


def _made(makers: dict[str, Maker], scales: list[float]) -> st.SearchStrategy[Made]:
    def build(kind: str, scale: float, seed: int) -> Made:
        return lambda n: makers[kind](np.random.default_rng(seed), n) * scale

    return st.builds(
        build, st.sampled_from(sorted(makers)), st.sampled_from(scales), st.integers(0, 2**20)
    )


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(np.clip(values, -1e30, 1e30).astype(np.float32))


SIZES = st.one_of(st.integers(1, 12), st.integers(13, 150), st.sampled_from([1001, 1500]))
LISTS = st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=12)


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    """Flat float32 weights: mostly of the made kinds, now and then any float32 values."""
    if draw(st.integers(0, 4)) == 0:
        return _tensor(np.array(draw(LISTS)))
    return _tensor(draw(_made(WEIGHTS, SCALES))(draw(SIZES)))


def relevances(n: int) -> st.SearchStrategy[torch.Tensor]:
    """Relevance of ``n`` weights, float32, any sign."""
    return _made(RELEVANCES, RELEVANCE_SCALES).map(lambda make: _tensor(make(n)))
