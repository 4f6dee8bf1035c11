"""Where the outputs of the stages lie: functions of names, that of the suite first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def emptied(folder: Path) -> Path:
    """The folder, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _of(template: str) -> Callable[..., Path]:
    """A function that puts names into a template."""
    return lambda *names: Path(template.format(*names))


# Of each stage: digests of the modules and versions of the packages that it runs.
fingerprint = _of("fingerprints/{}/{}.json")
# Each data set, with its training, validation and test split.
data = _of("data/{}/{}.safetensors")
# The checkpoint that the pre-training of a task starts from; missing if it starts at random.
start = _of("data/{}/starts/{}.safetensors")
# Networks of the stage pretrain, by task and seed.
checkpoints = _of("checkpoints/{}")
checkpoint = _of("checkpoints/{}/{}-{}.safetensors")
# Networks of the stage quantize, by training_id, and all runs, `runs.json`. Runs that differ only
# in their file share a training.
quantized = _of("quantized/{}")
trained = _of("quantized/{}/{}.safetensors")
# Coded networks, one file a run, and their list, `files.json`.
bitstreams = _of("bitstreams/{}")
# Metrics, tables, figures, claims and the page.
results = _of("results/{}")
# Weights and relevances of first and last layers, in full precision and decoded.
relevance = _of("results/{}/relevance.safetensors")
# Test samples with the relevance of their inputs, and masks of the segmentation tasks.
samples = _of("results/{}/samples.safetensors")
# Which test samples each network classifies correctly (`stages.correct`).
correct = _of("results/{}/correct.safetensors")
