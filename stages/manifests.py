"""What a stage leaves for the next ones to read: fingerprints, runs, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ecqx.errors import InputError
from ecqx.files import write_text
from stages import paths

# Training in full precision. As a method it is what every drop refers to; it has no file.
REFERENCE = "fp32"
# Keys of runs.json that are no part of metrics.json: what a run's file is made of.
FILE_KEYS = ("training_id", "form", "form_settings")
# Beside the methods in fingerprints: what counts the cost of a training step.
COUNT = "count of cost"


def read_fingerprint(suite: str, stage: str) -> dict[str, Any]:
    """The fingerprint of a stage; ``InputError`` if it is missing."""
    path = paths.fingerprint(suite, stage)
    if not path.exists():
        raise InputError(f"{path}: missing; `sh stages/run fingerprint {suite}` writes it")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_json(path: Path, content: Any) -> None:
    """Write plain values."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_runs(suite: str) -> list[dict[str, Any]]:
    """The runs, and what their trainings recorded, from the stage quantize."""
    records: list[dict[str, Any]] = json.loads((paths.quantized(suite) / "runs.json").read_text())
    return records


def read_files(suite: str) -> dict[str, dict[str, Any]]:
    """The file of each run by its ``run_id``, from the stage encode."""
    records = json.loads((paths.bitstreams(suite) / "files.json").read_text())
    return {record["run_id"]: record for record in records}
