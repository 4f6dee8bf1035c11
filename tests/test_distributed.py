"""One training on two processes, connected by gloo, against the same on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from ecqx.data import Split
from ecqx.quantizers.ecqx import ECQx
from ecqx.relevance import LRP
from ecqx.training.distributed import Replicas, connected, is_connected, is_first
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork-free spawn")
PROGRAMS = Path(sys.prefix) / "bin"
# The last batch has three samples, too few for a BatchNorm in each process.
SAMPLES, FEATURES, CLASSES = 99, 12, 5
SETTINGS = FitSettings(epochs=2, lr=0.01, batch_size=32)


def data() -> Split:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, FEATURES, generator=generator)
    y = (x[:, :CLASSES]).argmax(1)
    return Split(x, y)


class WithUnused(nn.Sequential):
    """Has a layer that no output depends on."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.named_children():
            x = x if name == "unused" else module(x)
        return x


def network(batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    first: list[nn.Module] = [nn.Linear(FEATURES, 16)]
    if batch_norm:
        first.append(nn.BatchNorm1d(16))
    kind = WithUnused if batch_norm else nn.Sequential
    return kind(*first, nn.ReLU(), nn.Linear(16, CLASSES))


def trained(relevance: LRP | None, batch_norm: bool, resume: Path | None = None) -> dict[str, Any]:
    """What a training ends with, in this process."""
    model, split = network(batch_norm), data()
    excluded = [name for name, _ in model.named_parameters() if "unused" in name]
    quantizer = ECQx(
        model,
        bits=3,
        lam=0.1,
        relevance=relevance,
        exclude=excluded,
        process_group=distributed.group.WORLD,
    )
    history = Trainer(model, split, split, SETTINGS, 5, quantizer).fit(resume=resume)
    return {
        "state": quantizer.state_dict(),
        "loss": [epoch.loss for epoch in history],
        "accuracy": [epoch.accuracy for epoch in history],
    }


# What is trained: relevance, and whether the network has BatchNorm and a layer without use.
CASES: dict[str, tuple[LRP | None, bool]] = {
    "ECQ": (None, False),
    "ECQx": (LRP(), False),
    "of full precision": (LRP(of="full_precision", every=2), False),
    "BatchNorm": (LRP(), True),
}


def member(rank: int, port: int, folder: str) -> None:
    """Train every case as one of two processes."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with connected():
        assert is_connected()
        assert is_first() == (rank == 0)
        for name, case in CASES.items():
            result = trained(*case, Path(folder) / f"{name}-progress-{rank}.pt")
            torch.save(result, Path(folder) / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, which were started once for all cases."""
    written = tmp_path_factory.mktemp("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(member, args=(port, str(written)), nprocs=2)
    return written


def trained_by_two(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    one, other = (torch.load(folder / f"{name}-{rank}.pt") for rank in range(2))
    return one, other


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("name", ["ECQ", "ECQx", "of full precision"])
def test_two_processes_assign_as_one(folder: Path, name: str) -> None:
    one, other = trained_by_two(folder, name)
    assert_equal(one["state"], other["state"])
    alone = trained(*CASES[name])
    assert one["accuracy"] == alone["accuracy"]
    assert one["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    for name, tensor in alone["state"].items():
        if name.startswith("integers."):
            assert torch.equal(one["state"][name], tensor), name
        else:
            torch.testing.assert_close(one["state"][name], tensor, rtol=1e-3, atol=1e-5)


def test_statistics_of_batch_norm_agree_and_the_first_process_writes(folder: Path) -> None:
    one, other = trained_by_two(folder, "BatchNorm")
    assert_equal(one["state"], other["state"])
    assert one["accuracy"] == other["accuracy"]
    assert (folder / "BatchNorm-progress-0.pt").exists()
    assert not (folder / "BatchNorm-progress-1.pt").exists()


def test_a_process_alone_is_not_connected() -> None:
    with connected():
        assert not is_connected()
        assert is_first()


def test_parts_make_up_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample belongs to one process; weights make the mean of means the batch's mean."""
    x = torch.arange(10.0)
    for size in (1, 2, 3, 5):
        parts = []
        for rank in range(size):
            replicas = Replicas.__new__(Replicas)
            replicas.rank, replicas.size = rank, size
            parts.append(replicas.share(x, x))
        assert sorted(torch.cat([part for part, _, _ in parts]).tolist()) == x.tolist()
        mean = sum(float(part.mean()) * weight for part, _, weight in parts) / size
        assert mean == pytest.approx(float(x.mean()))
        few = [replicas.share(x[:1], x[:1])] if size > 1 else []
        assert all(len(part) == 1 and weight == 1.0 for part, _, weight in few)
    assert not distributed.is_initialized()


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """Two processes, but one summary and one file."""
    command = ["ecqx", "run", "--dataset", "digits", "--model", "mlp_gsc", "--epochs", "1"]
    command += ["--lrp", "--batch_size", "128", "--results", str(tmp_path / "results")]
    command += ["--device", "cpu", "--data_path", str(tmp_path)]
    done = subprocess.run(
        [PROGRAMS / "torchrun", "--nproc_per_node=2", "--no_python", *command],
        env={**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "results").iterdir()}
    assert files == {"mlp_gsc_digits_4bit_lam0.05_lrp.ecqx", "mlp_gsc_digits_4bit_lam0.05_lrp.json"}
    assert done.stdout.count("compression ratio") == 1
