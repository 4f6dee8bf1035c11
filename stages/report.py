"""Last stage: tables, figures, claims and one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from numpy.typing import NDArray

from ecqx.progress import announced
from ecqx.report.build import build
from ecqx.report.correlations import Relevance
from ecqx.report.page import Origin
from stages import paths, suites
from stages.command import command, run_command_line, suite_argument
from stages.correct import read_arrays, read_correct
from stages.settings.base import load
from stages.settings.report import ReportSettings

# What the page shows of the settings; the stage depends on these sections.
SECTIONS = ("seeds", "device", "data", "tasks", "pretrain", "quantize", "evaluate", "report")
# Metadata of the samples: names of the classes by task.
CLASSES = "classes"


@command
@suite_argument
@announced("drawing tables, figures and the page")
def main(suite: str) -> None:
    """Write tables/, figures/, claims.md and report.html into results/SUITE."""
    given = contents(suite)
    build(**given, out=paths.results(suite), suite=suite, origin=_origin(suite, given["records"]))


def contents(suite: str) -> dict[str, Any]:
    """What a suite's report is made from, as `ecqx.report.build.build` takes it."""
    settings = load(suite, ReportSettings)
    out = paths.results(suite)
    layers = json.loads((out / "layers.json").read_text())
    relevance, _ = read_arrays(paths.relevance(suite))
    samples, metadata = read_arrays(paths.samples(suite))
    return {
        "records": json.loads((out / "metrics.json").read_text()),
        "tasks": settings.report.titles,
        "paper": settings.report.paper,
        "rules": settings.report.comparison,
        "published": [setup.model_dump() for setup in settings.report.published],
        "yardsticks": [yardstick.model_dump() for yardstick in settings.report.yardsticks],
        "layers": [{**layer, "seed": settings.evaluate.layers.seed} for layer in layers],
        "relevance": _by_task(relevance, ""),
        "decoded": _by_task(relevance, "decoded "),
        "samples": samples,
        "classes": json.loads(metadata[CLASSES]),
        "correct": read_correct(paths.correct(suite)),
    }


def _origin(suite: str, records: Sequence[Mapping[str, Any]]) -> Origin:
    """What the results were made from: the settings of params.yaml, and checksums of the data."""
    content = suites.read_params(suites.params_path(suite))
    shown = {name: content[name] for name in SECTIONS if name in content}
    data = content.get("data")
    if isinstance(data, dict):
        # The folder of the data is no part of a result.
        shown["data"] = {"sets": data.get("sets")}
    return Origin(
        settings=yaml.safe_dump(shown, sort_keys=False, allow_unicode=True),
        data={record["dataset"]: record["data_checksum"] for record in records},
    )


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
