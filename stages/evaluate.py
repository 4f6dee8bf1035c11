"""Fifth stage: what the decoded networks can do, ``python -m stages.evaluate SUITE``.

Every number is that of the model decoded from its file.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ecqx.coding.bitstream import inspect
from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.forms import build_form
from ecqx.coding.tensor_files import write_tensors
from ecqx.data.tensors import TensorData
from ecqx.errors import InputError
from ecqx.experiment.jobs import SECONDS_TO_START, checksum, key_of, run_all
from ecqx.experiment.score import score_file
from ecqx.experiment.task import Task
from ecqx.files import write_text
from ecqx.training.device import find_device
from ecqx.training.evaluation import evaluate
from ecqx.training.objectives import objective_of
from stages import exhibits, paths
from stages.command import run_command_line, suite_of
from stages.manifests import REFERENCE, read_files, read_runs
from stages.settings.base import load
from stages.settings.evaluate import EvaluateSettings
from stages.settings.report import LayerSettings
from stages.tasks import task_of

# What summary.json and the CSV for `dvc plots` show, means over seeds, of runs that task, method,
# bits and Λ tell apart: no method is in both sweeps.
SUMMARIZED_SWEEPS = ("grid", "trained")
SUMMARIZED = ("accuracy", "accuracy_fp32", "sparsity", "bytes", "compression_ratio")
# Keys of a record for settings of quantizer and relevance, by the names they have there.
SETTINGS = {
    "lam": "lam",
    "p": "p",
    "sparsity_band": "sparsity_band",
    "alpha": "alpha",
    "gradient": "gradient",
    "composite": "composite",
    "canonizer": "canonizer",
    "weight_rule": "weight_rule",
    "lrp_output": "output",
    "relevance_of": "of",
    "relevance_every": "every",
    "relevance_samples": "samples",
    "pmf": "pmf",
    "lambda_max": "lambda_max",
}


# What is measured of each run, in the order of a record.
MEASURES = (
    *("accuracy_validation", "accuracy", "other_metrics", "sparsity", "parameters", "bytes"),
    *("bytes_integers", "bytes_other", "compression_ratio", "entropy_bits_per_weight"),
)


@dataclass(frozen=True)
class Evaluation:
    """One network to evaluate: the file of a run or, without a run, a trained network."""

    task: Task
    path: Path
    device: str
    run: Mapping[str, Any] | None = None


def main(arguments: Sequence[str]) -> int:
    """Write metrics.json, summary.json, curves.csv, layers.json and the relevances."""
    suite = suite_of(arguments)
    settings = load(suite, EvaluateSettings)
    runs, files = read_runs(suite), _checked_files(suite)
    coded = [run for run in runs if run["form"] is not None]
    references = _references(suite, settings, runs)
    work = [
        Evaluation(
            task_of(suite, settings.tasks[run["task"]]),
            paths.bitstreams(suite) / files[run["run_id"]]["file"],
            settings.device,
            run,
        )
        for run in coded
    ]
    measured = run_all(measure, work, "evaluate", alone=SECONDS_TO_START)
    described = {name: _describe(suite, settings, name) for name in settings.tasks}
    records = [
        {
            **_settings(run),
            **described[run["task"]],
            "start": _start_of(suite, settings, run["task"], run["seed"]),
            **references[run["task"], run["seed"]],
            **_measures(result, files[run["run_id"]]),
        }
        for run, result in zip(coded, measured, strict=True)
    ]
    out = paths.results(suite)
    write_text(out / "metrics.json", json.dumps(records, indent=1) + "\n")
    summary = _means(records)
    write_text(out / "summary.json", json.dumps(_nested(summary), indent=1) + "\n")
    write_text(out / "curves.csv", _curves(summary))
    shown = shown_runs(coded, settings.evaluate.layers)
    layers = [layer for run in shown for layer in _layers(run, work[coded.index(run)].path)]
    write_text(out / "layers.json", json.dumps(layers, indent=1) + "\n")
    networks = exhibits.networks(suite, settings, shown, files)
    relevance = settings.quantize.relevance
    write_tensors(paths.relevance(suite), exhibits.relevances(networks, relevance))
    samples, classes = exhibits.samples(networks, relevance.canonizer)
    write_tensors(paths.samples(suite), samples, {"classes": json.dumps(classes)})
    return 0


def _checked_files(suite: str) -> dict[str, dict[str, Any]]:
    """The files, after comparing their checksums with those of the encode stage."""
    files = read_files(suite)
    for file in files.values():
        path = paths.bitstreams(suite) / file["file"]
        if checksum(path) != file["checksum"]:
            raise InputError(f"{path}: not the file that the encode stage wrote; run it again")
    return files


def measure(work: Evaluation) -> dict[str, Any]:
    """Metrics of one file's decoded model, and what its weights are like."""
    assert work.run is not None
    device = find_device(work.device)
    form = build_form(work.run["form"], work.run["form_settings"])
    model, data = work.task.build().to(device), work.task.load_data(device)
    return score_file(work.path, form, model, data, work.run["own"].get("exclude", ()))


def measure_full_precision(work: Evaluation) -> tuple[float, float]:
    """Validation and test accuracy of one trained network."""
    device = find_device(work.device)
    model, data = work.task.build(), work.task.load_data(device)
    model.load_state_dict(read_coded_state(work.path).state)
    model.to(device)
    return evaluate(model, data.validation), evaluate(model, data.test)


def _references(
    suite: str, settings: EvaluateSettings, runs: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, int], dict[str, float]]:
    """Accuracies by task and seed: of the start, and of the start trained on."""
    references = [run for run in runs if run["method"] == REFERENCE]
    work = []
    for run in references:
        task = task_of(suite, settings.tasks[run["task"]])
        start = paths.checkpoint(suite, run["task"], run["seed"])
        trained_on = paths.trained(suite, run["training_id"])
        work += [Evaluation(task, path, settings.device) for path in (start, trained_on)]
    accuracies = run_all(measure_full_precision, work, "full precision", alone=SECONDS_TO_START)
    return {
        (run["task"], run["seed"]): {
            "accuracy_start": start[1],
            "accuracy_fp32": trained_on[1],
            "accuracy_fp32_validation": trained_on[0],
        }
        for run, start, trained_on in zip(
            references, accuracies[::2], accuracies[1::2], strict=True
        )
    }


# An entry of metrics.json has the names of the contract; its parts follow.


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one run, and how long it trained in steps."""
    return {
        "run_id": run["run_id"],
        "task": run["task"],
        "method": run["method"],
        "sweep": run["sweep"],
        "variant": run["variant"],
        "bits": run["bits"],
        **{key: run["settings"][name] for key, name in SETTINGS.items()},
        "floats": run["form_settings"].get("floats"),
        "settings": run["own"],
        "lr": run["fit"]["lr"],
        "batch_size": run["fit"]["batch_size"],
        "seed": run["seed"],
        "epochs": len(run["history"]),
        "steps": sum(epoch["steps"] for epoch in run["history"]),
        "cost": run["cost"],
    }


def _describe(suite: str, settings: EvaluateSettings, name: str) -> dict[str, Any]:
    """A task's data, network and metric."""
    task = task_of(suite, settings.tasks[name])
    data = task.load_data(find_device("cpu"))
    return {
        "dataset": data.label,
        "model": task.network["name"],
        "metric": objective_of(data.test.targets).metric,
        "train_samples": len(data.train),
        "data_checksum": TensorData.load(task.data).checksum(),
    }


def _start_of(suite: str, settings: EvaluateSettings, task: str, seed: int) -> str:
    """What a run started from: a pre-training by its settings, whose bits vary by machine."""
    network = settings.tasks[task].model_dump()
    pretraining = "pretrain " + key_of(task=network, fit=asdict(settings.pretrain[task]), seed=seed)
    given = paths.start(suite, task)
    return f"{pretraining} of {checksum(given)}" if given.exists() else pretraining


def _measures(result: dict[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """What a run gave, with the parts of its file's size behind the whole."""
    measures = result | {name: file[name] for name in ("bytes_integers", "bytes_other")}
    return {name: measures[name] for name in MEASURES}


def _means(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, one record a setting."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["sweep"] in SUMMARIZED_SWEEPS:
            setting = tuple(record[key] for key in ("task", "method", "bits", "lam"))
            groups[setting].append(record)
    return [
        {
            **dict(zip(("task", "method", "bits", "lam"), setting, strict=True)),
            **{name: fmean(record[name] for record in group) for name in SUMMARIZED},
        }
        for setting, group in groups.items()
    ]


def _nested(summary: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Task, method, bits and Λ as levels: the form that ``dvc metrics`` shows."""
    nested: dict[str, Any] = {}
    for row in summary:
        by_method = nested.setdefault(row["task"], {}).setdefault(row["method"], {})
        by_bits = by_method.setdefault(f"{row['bits']}bit", {})
        by_bits[f"lam{row['lam']:g}"] = {name: row[name] for name in SUMMARIZED}
    return nested


def _curves(summary: Sequence[dict[str, Any]]) -> str:
    """The same as CSV, for ``dvc plots``; ``curve`` names task, method and bits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["curve", "lam", *SUMMARIZED], lineterminator="\n")
    writer.writeheader()
    for row in summary:
        curve = f"{row['task']} {row['method']} {row['bits']} bit"
        writer.writerow({"curve": curve, **{k: row[k] for k in ("lam", *SUMMARIZED)}})
    return text.getvalue()


def shown_runs(runs: Sequence[dict[str, Any]], shown: LayerSettings) -> list[dict[str, Any]]:
    """The runs of the grid that are looked at layer by layer."""
    return [
        run
        for run in runs
        if run["sweep"] == "grid"
        and (run["bits"], run["settings"]["lam"], run["seed"])
        == (shown.bits, shown.lam, shown.seed)
    ]


def _layers(run: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Sparsity, entropy and size of each layer of a run."""
    return [
        {
            **{key: run[key] for key in ("task", "method", "bits")},
            "lam": run["settings"]["lam"],
            "layer": record.name,
            "elements": record.elements,
            "sparsity": record.sparsity,
            "entropy_bits_per_weight": record.entropy,
            "bytes": record.coded_bytes,
        }
        for record in inspect(path).tensors
        if record.kind == "quantized"
    ]


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
