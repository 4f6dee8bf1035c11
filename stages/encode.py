"""Fifth stage: one file for every run, bitstreams/SUITE/RUN_ID.*, and their list files.json."""

from __future__ import annotations

from typing import Any

from ecqx.coding.forms import build_form
from ecqx.coding.inspection import inspect
from ecqx.experiment.jobs import SECONDS_TO_START, checksum, run_all
from stages import paths
from stages.command import command, run_command_line, suite_argument
from stages.manifests import read_runs, write_json


@command
@suite_argument
def main(suite: str) -> None:
    """Write the files."""
    work = [(suite, run) for run in read_runs(suite) if run["form"] is not None]
    out = paths.emptied(paths.bitstreams(suite))
    records = run_all(encode, work, "encode", alone=SECONDS_TO_START)
    write_json(out / "files.json", records)


def encode(work: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Encode one run; returns its file's name and checksum and, of an .ecqx file, sizes."""
    suite, run = work
    form = build_form(run["form"], run["form_settings"])
    path = paths.bitstreams(suite) / f"{run['run_id']}.{form.suffix}"
    form.write(paths.trained(suite, run["training_id"]), path)
    size = inspect(path, statistics=False).size if run["form"] == "ecqx" else None
    return {
        "run_id": run["run_id"],
        "file": path.name,
        "bytes_integers": size and size.integers,
        "bytes_other": size and size.other,
        "checksum": checksum(path),
    }


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
