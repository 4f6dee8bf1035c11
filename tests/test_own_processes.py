"""A training loop of one's own on two processes: what they decide in common."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from promise import assert_file_is_model
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

import ecqx
from ecqx.relevance import LRP

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork-free spawn")
X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
Y = X[:, :5].argmax(1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
    return nn.Sequential(*layers)


def train(
    q: Any, forward: nn.Module, attached: bool = False, steps: int = 8, parts: int = 1
) -> None:
    """Each process on its own half of the samples; unequal halves in every second step."""
    rank = distributed.get_rank()
    parameters = forward.parameters() if attached else q.parameter_groups()
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    if attached:
        q.attach(optimizer)
    for step in range(steps):
        cut = 32 if step % 2 else 24
        x, y = (X[:cut], Y[:cut]) if rank == 0 else (X[cut:], Y[cut:])
        optimizer.zero_grad()
        for i, (part, labels) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
            last = i == parts - 1
            with contextlib.nullcontext() if last else forward.no_sync():
                (F.cross_entropy(forward(part), labels) / parts).backward()
        if attached:
            q.targets(labels)
        else:
            q.transfer_gradients()
        optimizer.step()
        if not attached:
            q.update(part, labels)


def of_a_wrapped_model(attached: bool = False) -> Any:
    """Wrapping gives all processes the values of the first."""
    wrapped = DistributedDataParallel(
        network(distributed.get_rank()), gradient_as_bucket_view=attached
    )
    q = ecqx.ECQx(wrapped, lam=0.2, relevance=LRP())
    train(q, wrapped, attached)
    return q


def with_a_group_before_wrapping(attached: bool = False) -> Any:
    model = network(distributed.get_rank())
    group = distributed.group.WORLD
    q = ecqx.ECQx(model, lam=0.2, relevance=LRP(of="quantized", every=2), process_group=group)
    train(q, DistributedDataParallel(model), attached)
    return q


def of_trained_centroids(attached: bool = False) -> Any:
    wrapped = DistributedDataParallel(network())
    q = ecqx.EC2T(wrapped, relevance=LRP())
    train(q, wrapped, attached)
    return q


def without_relevance(attached: bool = False) -> Any:
    wrapped = DistributedDataParallel(network())
    q = ecqx.ECQx(wrapped, lam=0.2)
    train(q, wrapped, attached)
    return q


def in_micro_batches(attached: bool = False) -> Any:
    wrapped = DistributedDataParallel(network())
    q = ecqx.ECQx(wrapped, lam=0.2, relevance=LRP(of="full_precision"))
    train(q, wrapped, attached, parts=2)
    return q


def of_a_copy(attached: bool = False) -> Any:
    q = of_a_wrapped_model(attached)
    other = copy.deepcopy(q)
    train(other, DistributedDataParallel(other.model), attached)
    return other


COMMON: list[Callable[..., Any]] = [
    of_a_wrapped_model,
    with_a_group_before_wrapping,
    of_trained_centroids,
    without_relevance,
    in_micro_batches,
    of_a_copy,
]


def refused(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def twice() -> None:
    """Gradients passed on before they are averaged."""
    wrapped = DistributedDataParallel(network())
    q = ecqx.ECQx(wrapped)
    for sync in (False, True):
        with contextlib.nullcontext() if sync else wrapped.no_sync():
            F.cross_entropy(wrapped(X), Y).backward()
        q.transfer_gradients()


def unpickled() -> None:
    wrapped = DistributedDataParallel(network())
    q = pickle.loads(pickle.dumps(ecqx.ECQx(wrapped, relevance=LRP())))
    train(q, DistributedDataParallel(q.model), steps=1)


def member(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found: dict[str, Any] = {}
    for make in COMMON:
        q = make()
        found[make.__name__] = {n: t.clone() for n, t in q.state_dict().items()}
        assert_file_is_model(q, network(), X, Path(folder) / f"{make.__name__}-{rank}.ecqx")
        found[f"{make.__name__}, attached"] = make(attached=True).state_dict()
    found["without a group"] = refused(lambda: ecqx.ECQx(network(), relevance=LRP()))
    found["EC2T without a group"] = refused(lambda: ecqx.EC2T(network()))
    found["twice"] = refused(twice)
    found["unpickled"] = refused(unpickled)
    alone = ecqx.ECQx(network(rank), relevance=LRP(), process_group=None)
    alone.update(X, Y)
    found["alone"] = alone.integers()
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; they are started once."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(member, args=(port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("make", COMMON, ids=lambda make: make.__name__)
def test_processes_decide_alike(ranks: list[dict[str, Any]], make: Callable[..., Any]) -> None:
    one, other = (rank[make.__name__] for rank in ranks)
    assert one.keys() == other.keys()
    shared = {name for name in one if "running" not in name}
    assert any(name.startswith("integers.") for name in shared)
    for name in shared:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("make", COMMON, ids=lambda make: make.__name__)
def test_attached_to_the_optimizer(ranks: list[dict[str, Any]], make: Callable[..., Any]) -> None:
    """As by the explicit calls, to the last bit; gradients may be views of those that are sent."""
    for rank in ranks:
        attached, explicit = rank[f"{make.__name__}, attached"], rank[make.__name__]
        assert attached.keys() == explicit.keys()
        for name, tensor in explicit.items():
            assert torch.equal(attached[name], tensor), name


@pytest.mark.parametrize("kind", ["without a group", "EC2T without a group"])
def test_processes_without_a_group_are_refused(ranks: list[dict[str, Any]], kind: str) -> None:
    for rank in ranks:
        assert "give process_group (torch.distributed.group.WORLD" in rank[kind]
        assert "\n" not in rank[kind]


def test_gradients_that_are_not_averaged_are_refused(ranks: list[dict[str, Any]]) -> None:
    assert all("call transfer_gradients once for all micro-batches" in r["twice"] for r in ranks)


def test_a_pickled_quantizer_has_lost_its_processes(ranks: list[dict[str, Any]]) -> None:
    assert all("make a new one with process_group" in r["unpickled"] for r in ranks)


def test_each_process_on_its_own(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["alone"] for rank in ranks)
    assert any(not torch.equal(k, other[name]) for name, k in one.items())


def test_one_process_needs_no_group() -> None:
    model: Tensor | nn.Module = network()
    for group in ("model", None, distributed.group.WORLD):
        q = ecqx.ECQx(copy.deepcopy(model), relevance=LRP(), process_group=group)
        assert q.processes is None
