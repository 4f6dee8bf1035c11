"""Fourth stage: one file for every quantized network, ``python -m stages.encode SUITE``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ecqx.coding.bitstream import load, save
from ecqx.coding.coded_state import read_coded_state
from ecqx.files import write_text
from stages import paths
from stages.command import run_command_line, suite_of
from stages.parallel import SECONDS_TO_START, run_all
from stages.quantize import load_runs


def main(arguments: Sequence[str]) -> int:
    """Write bitstreams/SUITE/RUN_ID.ecqx and files.json."""
    suite = suite_of(arguments)
    out = paths.bitstreams(suite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    jobs = [
        (paths.quantized(suite) / f"{record['run_id']}.safetensors", out)
        for record in load_runs(suite)
        if record["method"] != "fp32"
    ]
    records = run_all(encode, jobs, "encode", alone=SECONDS_TO_START)
    write_text(out / "files.json", json.dumps(records, indent=1) + "\n")
    return 0


def encode(job: tuple[Path, Path]) -> dict[str, Any]:
    """Encode one network, read the file back and compare; returns its sizes and checksum."""
    checkpoint, out = job
    coded = read_coded_state(checkpoint)
    path = out / f"{checkpoint.stem}.ecqx"
    size = save(path, coded)
    expected, decoded = coded.state, load(path)
    different = [
        name for name, tensor in expected.items() if not torch.equal(tensor, decoded[name])
    ]
    if different or list(expected) != list(decoded):
        raise RuntimeError(f"{path}: decodes to another {different or 'list of tensors'}")
    return {
        "run_id": checkpoint.stem,
        "bytes": size.total,
        "bytes_integers": size.integers,
        "bytes_other": size.other,
        "checksum": file_checksum(path),
    }


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
