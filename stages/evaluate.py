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

from torch import Tensor

from ecqx.bitstream import FileInfo, inspect, load
from ecqx.checkpoint import write_tensors
from ecqx.errors import InputError
from ecqx.files import write_text
from ecqx.relevance import weight_relevance
from ecqx.training import evaluate
from stages import paths, settings
from stages.command import run_command_line, suite_of
from stages.encode import file_checksum
from stages.parallel import checksum, key_of, run_all
from stages.quantize import load_full_precision, load_runs
from stages.settings import LayerSettings, Suite, TaskSettings
from stages.tasks import load_data, network

METRIC = "top-1 accuracy"
# What summary.json and the CSV for `dvc plots` show, means over seeds.
SUMMARIZED = ("accuracy", "accuracy_fp32", "sparsity", "bytes", "compression_ratio")


@dataclass(frozen=True)
class Job:
    """One network to evaluate: a file of a run, or a checkpoint in full precision."""

    suite: str
    task: TaskSettings
    path: Path


def main(arguments: Sequence[str]) -> int:
    """Write metrics.json, summary.json, curves.csv, layers.json and the relevances."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    runs = load_runs(suite)
    files = _checked_files(suite)
    reference = _reference_accuracies(suite, wanted, runs)
    quantized = [run for run in runs if run["method"] != "fp32"]
    jobs = [
        Job(suite, wanted.tasks[r["task"]], paths.bitstreams(suite) / f"{r['run_id']}.ecqx")
        for r in quantized
    ]
    measured = run_all(measure, jobs, "evaluate", chunk=32)
    records = [
        _record(run, result, files[run["run_id"]], suite, wanted, reference)
        for run, result in zip(quantized, measured, strict=True)
    ]
    out = paths.results(suite)
    write_text(out / "metrics.json", json.dumps(records, indent=1) + "\n")
    summary = _means(records)
    write_text(out / "summary.json", json.dumps(_nested(summary), indent=1) + "\n")
    write_text(out / "curves.csv", _curves(summary))
    layers = _layers(quantized, measured, wanted.report.layers)
    write_text(out / "layers.json", json.dumps(layers, indent=1) + "\n")
    write_tensors(paths.relevance(suite), _relevances(suite, wanted))
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
    """Accuracies of one file's decoded model, and what its tensors are like."""
    model = network(job.task)
    model.load_state_dict(load(job.path))
    data = load_data(job.suite, job.task)
    return {
        "accuracy_validation": evaluate(model, data.validation),
        "accuracy": evaluate(model, data.test),
        "info": inspect(job.path),
    }


def measure_full_precision(job: Job) -> float:
    """Test accuracy of one checkpoint."""
    model = load_full_precision(job.suite, job.task, job.path)
    return evaluate(model, load_data(job.suite, job.task).test)


def _reference_accuracies(
    suite: str, wanted: Suite, runs: Sequence[dict[str, Any]]
) -> dict[tuple[str, int], tuple[float, float]]:
    """Test accuracies by task and seed: of the start, and of the start trained on."""
    further = [run for run in runs if run["method"] == "fp32"]
    jobs = []
    for run in further:
        task = wanted.tasks[run["task"]]
        start = paths.checkpoint(suite, run["task"], run["seed"])
        trained_on = paths.quantized(suite) / f"{run['run_id']}.safetensors"
        jobs += [Job(suite, task, start), Job(suite, task, trained_on)]
    accuracies = run_all(measure_full_precision, jobs, "full precision", chunk=32)
    pairs = zip(accuracies[::2], accuracies[1::2], strict=True)
    return {(run["task"], run["seed"]): pair for run, pair in zip(further, pairs, strict=True)}


def _record(
    run: dict[str, Any],
    result: dict[str, Any],
    file: dict[str, Any],
    suite: str,
    wanted: Suite,
    reference: dict[tuple[str, int], tuple[float, float]],
) -> dict[str, Any]:
    """One entry of metrics.json, with the names of the contract."""
    info: FileInfo = result["info"]
    start, fp32 = reference[run["task"], run["seed"]]
    relevance = run["relevance"] or defaultdict(lambda: None)
    sparsity, entropy = _weighted_means(info)
    return {
        "run_id": run["run_id"],
        "task": run["task"],
        "dataset": wanted.data.label,
        "model": wanted.tasks[run["task"]].model["name"],
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
        "pmf": run["quantizer"]["pmf"],
        "lambda_max": run["quantizer"]["lambda_max"],
        "seed": run["seed"],
        "epochs": len(run["history"]),
        "steps": sum(epoch["steps"] for epoch in run["history"]),
        "train_samples": len(load_data(suite, wanted.tasks[run["task"]]).train),
        "parameters": info.float_elements,
        "data_checksum": checksum(paths.data(suite)),
        "start": _start(wanted, run),
        "metric": METRIC,
        "accuracy_start": start,
        "accuracy_fp32": fp32,
        "accuracy_validation": result["accuracy_validation"],
        "accuracy": result["accuracy"],
        "sparsity": sparsity,
        "bytes": file["bytes"],
        "bytes_integers": file["bytes_integers"],
        "bytes_other": file["bytes_other"],
        "compression_ratio": info.compression_ratio,
        "entropy_bits_per_weight": entropy,
    }


def _start(wanted: Suite, run: dict[str, Any]) -> str:
    """What the run started from: a pre-training by its settings, whose bits vary by machine."""
    task = run["task"]
    return "pretrain " + key_of(
        task=wanted.tasks[task].model_dump(),
        fit=wanted.pretrain[task].model_dump(),
        seed=run["seed"],
    )


def _weighted_means(info: FileInfo) -> tuple[float, float]:
    """Sparsity and first-order entropy over all quantized weights of a file."""
    layers = [record for record in info.tensors if record.kind == "quantized"]
    elements = sum(layer.elements for layer in layers)
    sparsity = sum((layer.sparsity or 0.0) * layer.elements for layer in layers) / elements
    entropy = sum((layer.entropy or 0.0) * layer.elements for layer in layers) / elements
    return sparsity, entropy


def _means(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of the grid's runs, one record a setting."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["sweep"] == "grid":
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
    """Sparsity and entropy of each layer of the runs that the settings name."""
    return [
        {
            **{key: run[key] for key in ("task", "method", "bits", "lam")},
            "layer": record.name,
            "elements": record.elements,
            "sparsity": record.sparsity,
            "entropy_bits_per_weight": record.entropy,
        }
        for run, result in zip(runs, measured, strict=True)
        if run["sweep"] == "grid" and all(run[k] == v for k, v in shown.model_dump().items())
        for record in result["info"].tensors
        if record.kind == "quantized"
    ]


def _relevances(suite: str, wanted: Suite) -> dict[str, Tensor]:
    """Weights and relevances of first and last layer, start of the first seed, validation split."""
    lrp = wanted.quantize.relevance.build()
    tensors: dict[str, Tensor] = {}
    for name, task in wanted.tasks.items():
        model = load_full_precision(suite, task, paths.checkpoint(suite, name, wanted.seeds[0]))
        split = load_data(suite, task).validation
        relevance = weight_relevance(
            model,
            split.inputs,
            split.targets,
            *(lrp.composite, lrp.canonizer, lrp.output, lrp.weight_rule),
        )
        weights = dict(model.named_parameters())
        for layer in (list(relevance)[0], list(relevance)[-1]):  # noqa: RUF015
            tensors[f"{name}/{layer}/weight"] = weights[layer]
            tensors[f"{name}/{layer}/relevance"] = relevance[layer]
    return tensors


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
