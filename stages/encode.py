"""Fourth stage: one file for every run, ``python -m stages.encode SUITE``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from ecqx.coding.bitstream import inspect
from ecqx.coding.forms import build_form
from ecqx.experiment.jobs import SECONDS_TO_START, checksum, run_all
from ecqx.files import write_text
from stages import paths
from stages.command import run_command_line, suite_of
from stages.manifests import read_runs


def main(arguments: Sequence[str]) -> int:
    """Write bitstreams/SUITE/RUN_ID.* and files.json."""
    suite = suite_of(arguments)
    out = paths.bitstreams(suite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    work = [(suite, run) for run in read_runs(suite) if run["form"] is not None]
    records = run_all(encode, work, "encode", alone=SECONDS_TO_START)
    write_text(out / "files.json", json.dumps(records, indent=1) + "\n")
    return 0


def encode(work: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Encode one run; returns its file's name, checksum and, of the suite's own form, sizes."""
    suite, run = work
    form = build_form(run["form"], run["form_settings"])
    path = paths.bitstreams(suite) / f"{run['run_id']}.{form.suffix}"
    form.write(paths.trained(suite, run["training_id"]), path)
    size = inspect(path, statistics=False).size if run["form"] == "ecqx" else None
    return {
        "run_id": run["run_id"],
        "file": path.name,
        "bytes_integers": None if size is None else size.integers,
        "bytes_other": None if size is None else size.other,
        "checksum": checksum(path),
    }


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
