"""Last stage: tables, figures, claims and one page, ``python -m stages.report SUITE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx import report
from ecqx.checkpoint import read_tensors
from stages import paths, settings
from stages.command import run_command_line, suite_of

# Metadata of the samples: names of the classes by task.
CLASSES = "classes"


def main(arguments: Sequence[str]) -> int:
    """Write tables/, figures/, claims.md and report.html into results/SUITE."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    out = paths.results(suite)
    samples, classes = read_tensors(paths.samples(suite), CLASSES)
    report.build(
        runs=json.loads((out / "metrics.json").read_text()),
        relevance=_read_relevance(paths.relevance(suite), list(wanted.tasks)),
        out=out,
        suite=suite,
        tasks={name: task.title for name, task in wanted.tasks.items()},
        layers=_read_layers(out / "layers.json", wanted.report.layers.seed),
        published=[setup.model_dump() for setup in wanted.report.published],
        yardsticks=[yardstick.model_dump() for yardstick in wanted.report.yardsticks],
        samples={name: tensor.numpy() for name, tensor in samples.items()},
        classes=json.loads(classes),
    )
    return 0


def _read_layers(path: Path, seed: int) -> list[dict[str, Any]]:
    """Records of the layers that are shown, with the seed of their run."""
    return [{**layer, "seed": seed} for layer in json.loads(path.read_text())]


def _read_relevance(
    path: Path, tasks: Sequence[str]
) -> dict[str, dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    """Task → layer → (weight, relevance), the first layer of the network first."""
    tensors, _ = read_tensors(path)
    nested: dict[str, dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    for task in tasks:
        layers = [key.split("/")[1] for key in tensors if key.startswith(f"{task}/")]
        nested[task] = {
            layer: (
                tensors[f"{task}/{layer}/weight"].numpy(),
                tensors[f"{task}/{layer}/relevance"].numpy(),
            )
            for layer in dict.fromkeys(layers)
        }
    return nested


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
