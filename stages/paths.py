"""Where the outputs of the stages lie."""

from __future__ import annotations

import shutil
from pathlib import Path


def emptied(folder: Path) -> Path:
    """The folder, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def data(suite: str, name: str) -> Path:
    """One data set, split."""
    return Path("data") / suite / f"{name}.safetensors"


def start(suite: str, task: str) -> Path:
    """The checkpoint that a task starts from; missing if it starts at random."""
    return Path("data") / suite / "starts" / f"{task}.safetensors"


def checkpoints(suite: str) -> Path:
    """Pre-trained networks, ``TASK-SEED.safetensors``."""
    return Path("checkpoints") / suite


def checkpoint(suite: str, task: str, seed: int) -> Path:
    """One pre-trained network."""
    return checkpoints(suite) / f"{task}-{seed}.safetensors"


def quantized(suite: str) -> Path:
    """Trained networks, ``TRAINING_ID.safetensors``, and ``runs.json``."""
    return Path("quantized") / suite


def trained(suite: str, training_id: str) -> Path:
    """What one training left, uncoded."""
    return quantized(suite) / f"{training_id}.safetensors"


def bitstreams(suite: str) -> Path:
    """Coded networks, one file a run, and ``files.json``."""
    return Path("bitstreams") / suite


def relevance(suite: str) -> Path:
    """Weights and relevances of the networks' first and last layers, before and after."""
    return Path("relevance") / f"{suite}.safetensors"


def samples(suite: str) -> Path:
    """Test samples with the relevance of their inputs, and masks of the segmentation tasks."""
    return Path("samples") / f"{suite}.safetensors"


def fingerprint(suite: str, stage: str) -> Path:
    """Fingerprint of the code that a stage runs."""
    return Path("fingerprints") / suite / f"{stage}.json"


def results(suite: str) -> Path:
    """Metrics, tables, figures, claims and the page."""
    return Path("results") / suite
