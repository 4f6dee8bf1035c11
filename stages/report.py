"""Last stage: tables, figures, claims and one page, ``python -m stages.report SUITE``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ecqx import report
from ecqx.coding.tensor_files import read_tensors
from ecqx.progress import sign
from ecqx.report.correlations import Relevance
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
    samples, classes = read_tensors(paths.samples(suite), CLASSES)
    runs = json.loads((out / "metrics.json").read_text())
    report.build(
        runs=runs,
        relevance=_read_relevance(paths.relevance(suite), list(wanted.tasks)),
        decoded=_read_relevance(paths.relevance(suite), list(wanted.tasks), "decoded "),
        origin=origin_of(wanted, runs),
        out=out,
        suite=suite,
        tasks={name: task.title for name, task in wanted.tasks.items()},
        layers=_read_layers(out / "layers.json", wanted.report.layers.seed),
        published=[setup.model_dump() for setup in wanted.report.published],
        yardsticks=[yardstick.model_dump() for yardstick in wanted.report.yardsticks],
        samples={name: tensor.numpy() for name, tensor in samples.items()},
        classes=json.loads(classes),
        pages={"Other methods": "comparison/report.html"} if wanted.comparison else {},
    )
    return 0


def _read_layers(path: Path, seed: int) -> list[dict[str, Any]]:
    """Records of the layers that are shown, with the seed of their run."""
    return [{**layer, "seed": seed} for layer in json.loads(path.read_text())]


def _read_relevance(path: Path, tasks: Sequence[str], kind: str = "") -> Relevance:
    """Task → layer → (weight, relevance), the first layer of the network first."""
    tensors, _ = read_tensors(path)
    found = {
        task: [key.split("/") for key in tensors if key.startswith(f"{task}/")] for task in tasks
    }
    return {
        task: {
            layer: (
                tensors[f"{task}/{layer}/{kind}weight"].numpy(),
                tensors[f"{task}/{layer}/{kind}relevance"].numpy(),
            )
            for _, layer, what in keys
            if what == f"{kind}weight"
        }
        for task, keys in found.items()
    }


def origin_of(wanted: settings.Suite, runs: Sequence[Mapping[str, Any]]) -> report.Origin:
    """What the results were made from; the order is that of settings and runs."""
    described = yaml.safe_dump(wanted.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return report.Origin(
        settings=described,
        data={run["dataset"]: run["data_checksum"] for run in runs},
        constraints=hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest(),
    )


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
