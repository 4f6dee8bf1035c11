"""The jobs of a suite, trainings and counts of their cost, and the keys of their results."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecqx.data.tensors import TensorData
from ecqx.experiment.cost import Cost
from ecqx.experiment.jobs import checksum, key_of
from ecqx.experiment.train import Training
from ecqx.training.device import find_device
from ecqx.training.settings import FitSettings

if TYPE_CHECKING:
    from ecqx.experiment.task import Task
    from ecqx.methods.interface import Method


def training_of(
    task: Task,
    fit: FitSettings,
    seed: int,
    start: Path | None,
    device: str,
    code: str,
    method: Method | None = None,
    method_name: str = "",
) -> Training:
    """A training with its key: a hash of its settings, data, start, device and code."""
    key = key_of(
        **_common(task, code, method, method_name),
        fit=asdict(fit),
        seed=seed,
        start=None if start is None else _checksum(*_version(start)),
        device=find_device(device).type,
    )
    return Training(task, fit, seed, method, start, device, key)


def cost_of(training: Training, code: str, method_name: str) -> Cost:
    """The count of a training's cost, with its key."""
    common = _common(training.task, code, training.method, method_name)
    return Cost(training, key_of(**common, batch_size=training.fit.batch_size))


def _common(task: Task, code: str, method: Method | None, method_name: str) -> dict[str, Any]:
    """What both kinds of job depend on."""
    return {
        "task": [dict(task.network), task.enlarge],
        "data": _checksum(*_version(task.data), is_data=True),
        "code": code,
        "method": method_name,
        "settings": {} if method is None else method.settings(),
    }


def _version(path: Path) -> tuple[Path, int]:
    """Distinguishes a file from others and from earlier versions, without reading it."""
    return path.resolve(), path.stat().st_mtime_ns


@cache
def _checksum(path: Path, changed: int, is_data: bool = False) -> str:
    return TensorData.load(path).checksum() if is_data else checksum(path)
