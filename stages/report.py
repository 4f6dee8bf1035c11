"""Last stage: tables, figures, claims and one page, ``python -m stages.report SUITE``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ecqx.errors import InputError
from ecqx.progress import sign
from ecqx.report.build import build
from ecqx.report.correlations import Relevance
from ecqx.report.page import Origin
from stages import paths, settings
from stages.command import run_command_line, suite_of

CONSTRAINTS = Path("constraints.txt")
# Metadata of the samples: names of the classes by task.
CLASSES = "classes"


@sign("drawing tables, figures and the page")
def main(arguments: Sequence[str]) -> int:
    """Write tables/, figures/, claims.md and report.html into results/SUITE."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    out = paths.results(suite)
    records = json.loads((out / "metrics.json").read_text())
    relevance, _ = _read(paths.relevance(suite))
    samples, metadata = _read(paths.samples(suite))
    build(
        records,
        out,
        suite,
        **_wanted(wanted),
        layers=_read_layers(out / "layers.json", wanted.report.layers.seed),
        relevance=_by_task(relevance, ""),
        decoded=_by_task(relevance, "decoded "),
        samples=samples,
        classes=json.loads(metadata[CLASSES]),
        origin=_origin(wanted, records),
    )
    return 0


def _wanted(wanted: settings.Suite) -> dict[str, Any]:
    """What the settings say about the report."""
    return {
        "tasks": {name: task.title for name, task in wanted.tasks.items()},
        "rules": wanted.comparison.rules() if wanted.comparison else None,
        "published": [setup.model_dump() for setup in wanted.report.published],
        "yardsticks": [yardstick.model_dump() for yardstick in wanted.report.yardsticks],
    }


def _origin(wanted: settings.Suite, records: Sequence[Mapping[str, Any]]) -> Origin:
    """What the results were made from; the order is that of settings and records."""
    described = yaml.safe_dump(wanted.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return Origin(
        settings=described,
        data={record["dataset"]: record["data_checksum"] for record in records},
        constraints=hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest(),
    )


def _read_layers(path: Path, seed: int) -> list[dict[str, Any]]:
    """Records of the layers that are shown, with the seed of their run."""
    return [{**layer, "seed": seed} for layer in json.loads(path.read_text())]


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays of a safetensors file in the order of the file, and its metadata."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: np.asarray(file.get_tensor(name)) for name in names}, file.metadata()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage evaluate") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def _by_task(arrays: Mapping[str, NDArray[Any]], kind: str) -> Relevance:
    """Task → layer → (weight, relevance), the first layer of the network first."""
    found: dict[str, dict[str, tuple[NDArray[Any], NDArray[Any]]]] = {}
    for name, weight in arrays.items():
        task, layer, what = name.split("/")
        if what == f"{kind}weight":
            relevance = arrays[f"{task}/{layer}/{kind}relevance"]
            found.setdefault(task, {})[layer] = (weight, relevance)
    return found


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
