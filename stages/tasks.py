"""The pieces that a task is made of: its network and its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ecqx import models
from ecqx.data import Split, TensorData
from stages import paths
from stages.parallel import checksum
from stages.settings import TaskSettings

# What a trained network depends on: the progress of a run is forgotten when one of these changes.
TRAINING_CODE = (
    *("ecqx/assignment.py", "ecqx/centroids.py", "ecqx/quantizer.py", "ecqx/training.py"),
    *("ecqx/checkpoint.py", "ecqx/modes.py", "ecqx/relevance", "ecqx/models", "ecqx/data"),
    "constraints.txt",
)


def training_inputs(suite: str) -> list[str]:
    """Checksums of what every training of a suite depends on: its data and the library's code."""
    return [checksum(paths.data(suite)), checksum(*map(Path, TRAINING_CODE))]


def network(task: TaskSettings, seed: int = 0) -> nn.Module:
    """Build a task's network with random weights drawn from ``seed``."""
    torch.manual_seed(seed)
    return models.build(**task.model)


def load_data(suite: str, task: TaskSettings) -> TensorData:
    """The suite's data at the task's size: pixels repeated ``enlarge`` times each way."""
    data = TensorData.load(paths.data(suite))
    if task.enlarge == 1:
        return data
    splits = (data.train, data.validation, data.test)
    return TensorData(*(_enlarged(split, task.enlarge) for split in splits))


def _enlarged(split: Split, times: int) -> Split:
    inputs = split.inputs.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1)
    return replace(split, inputs=inputs)
