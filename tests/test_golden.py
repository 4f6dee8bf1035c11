"""The published code's assignments, element by element (shared/golden)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from layers import information_cost

from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid

NAMES = [
    "conv_2bit",
    "conv_4bit",
    "conv_magnitude_4bit",
    "fc_3bit",
    "fc_5bit",
    "fc_skew_4bit",
    "fc_small_layer_4bit",
    "fc_wide_band_4bit",
]

Vector = dict[str, Any]


@pytest.fixture(params=NAMES)
def vector(request: pytest.FixtureRequest, shared: Path) -> Vector:
    path = shared / "golden" / f"{request.param}.npz"
    if not path.is_file():
        pytest.skip(f"shared/golden/{path.name} is absent")
    with np.load(path) as file:
        return {key: file[key] if file[key].ndim else file[key].item() for key in file.files}


def fitted(vector: Vector) -> tuple[torch.Tensor, CentroidGrid]:
    weight = torch.from_numpy(vector["weight"])
    return weight, CentroidGrid.fit(weight, bits=vector["bits"])


def assigned(vector: Vector, **settings: Any) -> torch.Tensor:
    weight, grid = fitted(vector)
    size = vector["largest_layer_size"]
    return assign(weight, grid, lam=vector["Lambda"], largest_layer_size=size, **settings)


def assert_same(index: torch.Tensor, expected: np.ndarray) -> None:
    """At most one index in 10,000 may differ; none in a smaller tensor."""
    different = int((index.numpy() != expected).sum())
    assert different * 10_000 <= expected.size, f"{different} of {expected.size} indices differ"


def test_grid(vector: Vector) -> None:
    _, grid = fitted(vector)
    assert grid.step == pytest.approx(vector["step"], rel=2**-23)
    np.testing.assert_allclose(grid.values, vector["centroids"], rtol=2**-22, atol=0)
    assert vector["centroids"][grid.zero] == 0


def test_information_cost(vector: Vector) -> None:
    weight, grid = fitted(vector)
    cost = information_cost(weight, grid, vector["Lambda"], vector["largest_layer_size"])
    np.testing.assert_allclose(cost, vector["lambda_times_information"], rtol=0, atol=1e-7)


def test_ecq(vector: Vector) -> None:
    index = assigned(vector)
    assert_same(index, vector["ecq_index"])


def test_ecqx_by_the_published_search(vector: Vector) -> None:
    relevance = torch.from_numpy(vector["relevance"])
    index = assigned(vector, relevance=relevance, p=vector["p"], beta="published")
    assert_same(index, vector["ecqx_index"])


def test_ecqx_in_band(vector: Vector) -> None:
    if not vector["neutral_in_band"]:
        pytest.skip("the nearest β differs from the published one outside the band")
    index = assigned(vector, relevance=torch.from_numpy(vector["relevance"]), p=vector["p"])
    assert_same(index, vector["ecqx_index"])


def test_ecqx_out_of_band(vector: Vector) -> None:
    """The number of zeros is the band's edge that is nearest to the neutral number."""
    if vector["neutral_in_band"]:
        pytest.skip("the neutral β lies in the band")
    index = assigned(vector, relevance=torch.from_numpy(vector["relevance"]), p=vector["p"])
    n, zero = index.numel(), int(np.flatnonzero(vector["centroids"] == 0)[0])
    zeros = int((index == zero).sum())
    s = vector["ecq_sparsity"]
    high, low = round(s * n), (s - vector["p"]) * n
    assert low <= zeros <= high
    if vector["neutral_sparsity"] > s:
        assert zeros == high
    else:
        assert zeros - low < 1


def test_ecqx_moves_weights_only_between_zero_and_their_best_cluster(vector: Vector) -> None:
    relevance = torch.from_numpy(vector["relevance"])
    index = assigned(vector, relevance=relevance, p=vector["p"]).numpy().ravel()
    zero = int(np.flatnonzero(vector["centroids"] == 0)[0])
    cost = dense_cost(vector)
    cost[:, zero] = np.inf
    kept = index != zero
    assert oracle.within_ulps(cost[kept], index[kept]).all()


def dense_cost(vector: Vector) -> oracle.Floats:
    weight = vector["weight"].astype(np.float64).ravel()
    values = vector["centroids"].astype(np.float64)
    info_cost = oracle.information_cost(
        weight, values, vector["Lambda"], vector["largest_layer_size"], "published", "published"
    )
    return oracle.costs(weight, values, info_cost)


def test_oracle_agrees_with_the_published_code(vector: Vector) -> None:
    """The dense oracle that the other tests rely on is itself held against the golden vectors."""
    weight = vector["weight"].astype(np.float64).ravel()
    k = oracle.integers(weight, vector["bits"])
    step = oracle.step_of(weight, vector["bits"])
    np.testing.assert_allclose(k * step, vector["centroids"], rtol=1e-6)
    cost = dense_cost(vector)
    zero = int(np.flatnonzero(k == 0)[0])
    assert_same(torch.from_numpy(cost.argmin(axis=1)), vector["ecq_index"].ravel())
    R = oracle.normalized_relevance(vector["relevance"].astype(np.float64).ravel())
    beta = oracle.neutral_beta(R)
    assert beta == pytest.approx(vector["neutral_beta"], rel=1e-5)
    sparsity = oracle.zero_set(cost, zero, R, beta).mean()
    assert sparsity == pytest.approx(vector["neutral_sparsity"], abs=1e-4)
