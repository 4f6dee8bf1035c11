"""Fifth stage: what the decoded networks can do, ``python -m stages.evaluate SUITE``.

Every number is that of the model decoded from its file.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ecqx.coding.bitstream import FileInfo, inspect, load
from ecqx.coding.tensor_files import write_tensors
from ecqx.errors import InputError
from ecqx.files import write_text
from ecqx.training.evaluation import evaluate, scores
from ecqx.training.objectives import objective_of
from stages import exhibits, paths, settings
from stages.command import run_command_line, suite_of
from stages.encode import file_checksum
from stages.parallel import SECONDS_TO_START, run_all
from stages.quantize import load_full_precision, load_runs
from stages.records import about, start_of
from stages.runs import MEASURED_EVERYWHERE
from stages.settings import LayerSettings, Suite, TaskSettings
from stages.tasks import device, load_data, network

# What summary.json and the CSV for `dvc plots` show, means over seeds, of runs that task, method,
# bits and Λ tell apart: no method is in both sweeps.
SUMMARIZED_SWEEPS = ("grid", "trained")
SUMMARIZED = ("accuracy", "accuracy_fp32", "sparsity", "bytes", "compression_ratio")


@dataclass(frozen=True)
class Job:
    """One network to evaluate: a file of a run, or a checkpoint in full precision."""

    suite: str
    task: TaskSettings
    path: Path
    device: torch.device


def main(arguments: Sequence[str]) -> int:
    """Write metrics.json, summary.json, curves.csv, layers.json and the relevances."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    runs = load_runs(suite)
    files = _checked_files(suite)
    reference = _reference_accuracies(suite, wanted, runs)
    quantized = [run for run in runs if run["method"] != "fp32"]
    jobs = [
        Job(suite, wanted.tasks[r["task"]], paths.bitstream(suite, r["run_id"]), device(wanted))
        for r in quantized
    ]
    measured = run_all(measure, jobs, "evaluate", alone=SECONDS_TO_START)
    described = {name: about(suite, wanted, name) for name in wanted.tasks}
    records = [
        {
            **_settings(run),
            **described[run["task"]],
            "start": start_of(suite, wanted, run["task"], run["seed"]),
            **_measures(result, files[run["run_id"]]),
            **reference[run["task"], run["seed"]],
        }
        for run, result in zip(quantized, measured, strict=True)
    ]
    out = paths.results(suite)
    write_text(out / "metrics.json", json.dumps(records, indent=1) + "\n")
    summary = _means(records)
    write_text(out / "summary.json", json.dumps(_nested(summary), indent=1) + "\n")
    write_text(out / "curves.csv", _curves(summary))
    layers = _layers(quantized, measured, wanted.report.layers)
    write_text(out / "layers.json", json.dumps(layers, indent=1) + "\n")
    write_tensors(paths.relevance(suite), exhibits.relevances(suite, wanted, quantized))
    samples, classes = exhibits.samples(suite, wanted, quantized)
    write_tensors(paths.samples(suite), samples, {"classes": json.dumps(classes)})
    return 0


def _checked_files(suite: str) -> dict[str, dict[str, Any]]:
    """Sizes of the files, after comparing their checksums with those of the encode stage."""
    folder = paths.bitstreams(suite)
    records = json.loads((folder / "files.json").read_text())
    for record in records:
        path = folder / f"{record['run_id']}.ecqx"
        if file_checksum(path) != record["checksum"]:
            raise InputError(f"{path}: not the file that the encode stage wrote; run it again")
    return {record["run_id"]: record for record in records}


def measure(job: Job) -> dict[str, Any]:
    """Metrics of one file's decoded model, and what its tensors are like."""
    model = network(job.task)
    model.load_state_dict(load(job.path))
    model.to(job.device)
    data = load_data(job.suite, job.task)
    validation = scores(model, data.validation.to(job.device))
    test = scores(model, data.test.to(job.device))
    metric, *others = objective_of(data.test.targets).metrics
    return {
        "accuracy_validation": validation[metric],
        "accuracy": test[metric],
        "other_metrics": {name: test[name] for name in others},
        "info": inspect(job.path),
    }


def measure_full_precision(job: Job) -> float:
    """Test accuracy of one checkpoint."""
    model = load_full_precision(job.suite, job.task, job.path).to(job.device)
    return evaluate(model, load_data(job.suite, job.task).test.to(job.device))


def _reference_accuracies(
    suite: str, wanted: Suite, runs: Sequence[dict[str, Any]]
) -> dict[tuple[str, int], dict[str, float]]:
    """Test accuracies by task and seed: of the start, and of the start trained on."""
    further = [run for run in runs if run["method"] == "fp32"]
    jobs = []
    for run in further:
        task, where = wanted.tasks[run["task"]], device(wanted)
        start = paths.checkpoint(suite, run["task"], run["seed"])
        trained_on = paths.quantized(suite) / f"{run['run_id']}.safetensors"
        jobs += [Job(suite, task, start, where), Job(suite, task, trained_on, where)]
    accuracies = run_all(measure_full_precision, jobs, "full precision", alone=SECONDS_TO_START)
    return {
        (run["task"], run["seed"]): {"accuracy_start": start, "accuracy_fp32": fp32}
        for run, start, fp32 in zip(further, accuracies[::2], accuracies[1::2], strict=True)
    }


# An entry of metrics.json has the names of the contract; its parts follow.


def _settings(run: dict[str, Any]) -> dict[str, Any]:
    """What one run was told, and how long it took in steps."""
    relevance: dict[str, Any] = defaultdict(lambda: None)
    if run["relevance"] is not None:
        relevance |= {**MEASURED_EVERYWHERE, **run["relevance"]}
    return {
        "run_id": run["run_id"],
        "task": run["task"],
        "method": run["method"],
        "sweep": run["sweep"],
        "variant": run["variant"],
        "bits": run["bits"],
        "lam": run["lam"],
        "p": run["p"],
        "sparsity_band": run["sparsity_band"],
        "alpha": relevance["alpha"],
        "gradient": run["quantizer"]["gradient"],
        "composite": relevance["composite"],
        "canonizer": relevance["canonizer"],
        "weight_rule": relevance["weight_rule"],
        "lrp_output": relevance["output"],
        "relevance_of": relevance["of"],
        "relevance_every": relevance["every"],
        "relevance_samples": relevance["samples"],
        "pmf": run["quantizer"]["pmf"],
        "lambda_max": run["quantizer"]["lambda_max"],
        "seed": run["seed"],
        "epochs": len(run["history"]),
        "steps": sum(epoch["steps"] for epoch in run["history"]),
        "batch_size": run["fit"]["batch_size"],
    }


def _measures(result: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """What one run gave."""
    info: FileInfo = result["info"]
    return {
        "accuracy_validation": result["accuracy_validation"],
        "accuracy": result["accuracy"],
        "other_metrics": result["other_metrics"],
        "sparsity": info.sparsity,
        "parameters": info.float_elements,
        "bytes": file["bytes"],
        "bytes_integers": file["bytes_integers"],
        "bytes_other": file["bytes_other"],
        "compression_ratio": info.compression_ratio,
        "entropy_bits_per_weight": info.entropy,
    }


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


def _layers(
    runs: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]], shown: LayerSettings
) -> list[dict[str, Any]]:
    """Sparsity, entropy and size of each layer of the runs that the settings name."""
    return [
        {
            **{key: run[key] for key in ("task", "method", "bits", "lam")},
            "layer": record.name,
            "elements": record.elements,
            "sparsity": record.sparsity,
            "entropy_bits_per_weight": record.entropy,
            "bytes": record.coded_bytes,
        }
        for run, result in zip(runs, measured, strict=True)
        if run["sweep"] == "grid" and all(run[k] == v for k, v in shown.model_dump().items())
        for record in result["info"].tensors
        if record.kind == "quantized"
    ]


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
