"""The pieces that a task is made of: its network, its data and the device it runs on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecqx import models
from ecqx.data.tensors import Split, TensorData
from stages import paths
from stages.parallel import checksum
from stages.settings import Suite, TaskSettings

# What a trained network depends on: the progress of a run is forgotten when one of these changes.
TRAINING_CODE = (
    *(
        "ecqx/training/trainer.py",
        "ecqx/training/distributed.py",
        "ecqx/coding/checkpoint.py",
        "ecqx/modules.py",
        "ecqx/training/objectives.py",
    ),
    *("ecqx/data/tensors.py", "ecqx/models"),
)
# And what a quantized one depends on beside that.
QUANTIZER_CODE = (
    *(
        "ecqx/assignment/assign.py",
        "ecqx/assignment/centroids.py",
        "ecqx/assignment/compiled.py",
        "ecqx/assignment/cluster_costs.py",
    ),
    *(
        "ecqx/assignment/envelope.py",
        "ecqx/assignment/information.py",
        "ecqx/assignment/kernels.py",
        "ecqx/quantizers/ecqx.py",
    ),
    *("ecqx/assignment/registers.py", "ecqx/relevance", "ecqx/assignment/thresholds.py"),
    *(
        "ecqx/assignment/codebooks.py",
        "ecqx/quantizers/base.py",
        "ecqx/methods/family.py",
        "ecqx/quantizers/parameters.py",
    ),
    "ecqx/quantizers/trained_centroids.py",
)
# Packages that compute something in a training.
PACKAGES = ("numba", "numpy", "torch", "torchvision", "zennit")


def training_inputs(suite: str, wanted: Suite, task: str, quantized: bool) -> dict[str, Any]:
    """What every training of a task depends on: its data, the device, the code and packages."""
    code = TRAINING_CODE + (QUANTIZER_CODE if quantized else ())
    return {
        "data": checksum(paths.data(suite, wanted.tasks[task].data)),
        "device": wanted.device,
        "code": checksum(*map(Path, code)),
        "packages": {name: version(name) for name in PACKAGES},
    }


def network(task: TaskSettings, seed: int = 0) -> nn.Module:
    """Build a task's network with random weights drawn from ``seed``."""
    torch.manual_seed(seed)
    return models.build(**task.model)


def device(wanted: Suite) -> torch.device:
    """Where a suite's networks run: ``auto`` takes a GPU where there is one."""
    return torch.device("cuda" if wanted.device == "auto" and torch.cuda.is_available() else "cpu")


def load_data(suite: str, task: TaskSettings) -> TensorData:
    """A task's data at the task's size: pixels repeated ``enlarge`` times each way."""
    data = TensorData.load(paths.data(suite, task.data))
    return data if task.enlarge == 1 else data.map(partial(_enlarged, times=task.enlarge))


def _enlarged(split: Split, times: int) -> Split:
    targets = split.targets
    if targets.ndim > 2:  # labels of pixels
        targets = _repeated(targets, times)
    return replace(split, inputs=_repeated(split.inputs, times), targets=targets)


def _repeated(pixels: Tensor, times: int) -> Tensor:
    return pixels.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1)
