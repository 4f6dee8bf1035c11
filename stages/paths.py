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
    """One data set, with its training, validation and test split."""
    return Path("data") / suite / f"{name}.safetensors"


def start(suite: str, task: str) -> Path:
    """The given checkpoint that a pre-training starts from; missing if it starts at random."""
    return Path("data") / suite / "starts" / f"{task}.safetensors"


def checkpoints(suite: str) -> Path:
    """Networks that the stage pretrain trained, ``TASK-SEED.safetensors``."""
    return Path("checkpoints") / suite


def checkpoint(suite: str, task: str, seed: int) -> Path:
    """One pre-trained network."""
    return checkpoints(suite) / f"{task}-{seed}.safetensors"


def quantized(suite: str) -> Path:
    """Networks of the stage quantize, ``TRAINING_ID.safetensors``, and all runs, ``runs.json``."""
    return Path("quantized") / suite


def trained(suite: str, training_id: str) -> Path:
    """What one training left, uncoded; runs that differ only in their file share it."""
    return quantized(suite) / f"{training_id}.safetensors"


def bitstreams(suite: str) -> Path:
    """Coded networks, one file a run, and their list ``files.json``."""
    return Path("bitstreams") / suite


def relevance(suite: str) -> Path:
    """Weights and relevances of first and last layers, in full precision and decoded."""
    return Path("relevance") / f"{suite}.safetensors"


def samples(suite: str) -> Path:
    """Test samples with the relevance of their inputs, and masks of the segmentation tasks."""
    return Path("samples") / f"{suite}.safetensors"


def fingerprint(suite: str, stage: str) -> Path:
    """Digests of the modules and versions of the packages that a stage runs."""
    return Path("fingerprints") / suite / f"{stage}.json"


def results(suite: str) -> Path:
    """Metrics, tables, figures, claims and the page."""
    return Path("results") / suite
