"""Lists that a stage leaves for the next ones."""

from __future__ import annotations

import json
from typing import Any

from stages import paths

# The method of the training in full precision that every drop refers to; it has no file.
REFERENCE = "fp32"


def read_runs(suite: str) -> list[dict[str, Any]]:
    """The runs, and what their trainings recorded, from the stage quantize."""
    records: list[dict[str, Any]] = json.loads((paths.quantized(suite) / "runs.json").read_text())
    return records


def read_files(suite: str) -> dict[str, dict[str, Any]]:
    """The file of each run by its ``run_id``, from the stage encode."""
    records = json.loads((paths.bitstreams(suite) / "files.json").read_text())
    return {record["run_id"]: record for record in records}
