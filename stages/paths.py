"""Where the stages' outputs lie, one place for all of them."""

from __future__ import annotations

from pathlib import Path


def data(suite: str) -> Path:
    """The data set, split."""
    return Path("data") / f"{suite}.safetensors"


def checkpoints(suite: str) -> Path:
    """Pre-trained networks, ``TASK-SEED.safetensors``."""
    return Path("checkpoints") / suite


def checkpoint(suite: str, task: str, seed: int) -> Path:
    """One pre-trained network."""
    return checkpoints(suite) / f"{task}-{seed}.safetensors"


def quantized(suite: str) -> Path:
    """Trained networks, ``RUN_ID.safetensors``, and ``runs.json``."""
    return Path("quantized") / suite


def bitstreams(suite: str) -> Path:
    """Coded networks, ``RUN_ID.ecqx``, and ``files.json``."""
    return Path("bitstreams") / suite


def relevance(suite: str) -> Path:
    """Weights and relevances of the pre-trained networks' first and last layers."""
    return Path("relevance") / f"{suite}.safetensors"


def results(suite: str) -> Path:
    """Metrics, tables, figures, claims and the page."""
    return Path("results") / suite
