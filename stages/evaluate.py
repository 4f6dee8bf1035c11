"""Sixth stage: what the networks can do, each decoded from its file.

Writes into results/SUITE everything that the report reads, so that it can be drawn again from the
committed results: metrics.json, layers.json, which test samples each network classifies correctly
(`correct`), and what is shown of single networks (`stages.exhibits`). Beside them summary.json and
curves.csv, for DVC.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.container import read_contents
from ecqx.coding.forms import build_form
from ecqx.coding.quantized import first_order_entropy
from ecqx.coding.tensor_files import write_tensors
from ecqx.data.tensors import TensorData
from ecqx.errors import InputError
from ecqx.experiment.jobs import SECONDS_TO_START, checksum, key_of, run_all
from ecqx.experiment.score import score_file
from ecqx.experiment.task import Task
from ecqx.files import write_text
from ecqx.relevance.settings import LRP
from ecqx.training.device import find_device
from ecqx.training.evaluation import evaluate, scores_and_correct
from ecqx.training.objectives import objective_of
from stages import exhibits, paths
from stages.command import command, run_command_line, suite_argument
from stages.correct import Bits, write_correct
from stages.manifests import FILE_KEYS, REFERENCE, read_files, read_runs, write_json
from stages.settings.base import Evaluate, Settings, load
from stages.settings.tasks import PretrainSettings
from stages.tasks import task_of

# Sweeps whose means over seeds stand in summary.json and curves.csv. No method is in both, so that
# task, method, bits and Λ identify a setting.
SUMMARIZED_SWEEPS = ("grid", "trained")
SETTING = ("task", "method", "bits", "lam")
SUMMARIZED = ("accuracy", "accuracy_fp32", "sparsity", "bytes", "compression_ratio")
Record = dict[str, Any]


class Relevance(Settings):
    """How relevance is measured: the part of the section ``quantize`` that is needed here."""

    model_config = ConfigDict(extra="ignore")

    relevance: LRP


@dataclass(frozen=True)
class FullPrecision:
    """Validation and test accuracy of a network, and `scores_and_correct` of the test split."""

    validation: float
    test: float
    correct: Tensor | None


@dataclass(frozen=True)
class References:
    """The networks in full precision that runs of a task and seed are compared with.

    ``start`` is what they started from, ``trained`` that network trained on by their schedule.
    """

    start: FullPrecision
    trained: FullPrecision


class EvaluateSettings(PretrainSettings):
    """What describes all runs, and which runs are shown layer by layer."""

    quantize: Relevance
    evaluate: Evaluate


@command
@suite_argument
def main(suite: str) -> None:
    """Evaluate all files, and write what was measured."""
    settings = load(suite, EvaluateSettings)
    runs, files = read_runs(suite), _checked_files(suite)
    coded = [
        (run, paths.bitstreams(suite) / files[run["run_id"]]["file"])
        for run in runs
        if run["form"] is not None
    ]
    tasks = {name: task_of(suite, task) for name, task in settings.tasks.items()}
    references = _references(suite, settings, runs, tasks)
    work = [(tasks[run["task"]], path, settings.device, run) for run, path in coded]
    measured = run_all(measure, work, "evaluate", alone=SECONDS_TO_START)
    scored = [scores for scores, _ in measured]
    records = _records(suite, settings, tasks, coded, scored, references, files)
    out = paths.results(suite)
    write_json(out / "metrics.json", records)
    summary = _means(records)
    write_json(out / "summary.json", _nested(summary))
    write_text(out / "curves.csv", _curves(summary))
    wanted = settings.evaluate.layers
    shown = [
        (run, path)
        for run, path in coded
        if run["sweep"] == "grid"
        and (run["bits"], run["lam"], run["seed"]) == (wanted.bits, wanted.lam, wanted.seed)
    ]
    layers = [layer for run, path in shown for layer in _layers(run, path)]
    write_json(out / "layers.json", layers)
    of_files = {
        f"{run['task']}/{run['run_id']}": None if correct is None else correct.numpy()
        for (run, _), (_, correct) in zip(coded, measured, strict=True)
    }
    write_correct(paths.correct(suite), of_files | _correct_of_references(references))
    # The decoded network that the report shows is that of ECQx.
    decoded = {run["task"]: (run, path) for run, path in shown if run["method"] == "ECQx"}
    seeds = {name: (task.seeds or settings.seeds)[0] for name, task in settings.tasks.items()}
    networks = exhibits.networks(suite, tasks, seeds, decoded)
    relevance, wanted_samples = settings.quantize.relevance, settings.evaluate.samples
    write_tensors(paths.relevance(suite), exhibits.relevances(networks, relevance))
    samples, classes = exhibits.samples(networks, relevance.canonizer, wanted_samples)
    write_tensors(paths.samples(suite), samples, {"classes": json.dumps(classes)})


def _checked_files(suite: str) -> dict[str, Record]:
    """The files, after comparing their checksums with those of the encode stage."""
    files = read_files(suite)
    for file in files.values():
        path = paths.bitstreams(suite) / file["file"]
        if checksum(path) != file["checksum"]:
            raise InputError(f"{path}: not the file that the encode stage wrote; run it again")
    return files


def _records(
    suite: str,
    settings: EvaluateSettings,
    tasks: Mapping[str, Task],
    coded: Sequence[tuple[Record, Path]],
    scored: Sequence[Record],
    references: Mapping[tuple[str, int], References],
    files: Mapping[str, Record],
) -> list[Record]:
    """The entries of metrics.json."""
    described = {name: _describe(task) for name, task in tasks.items()}
    return [
        {
            **{key: value for key, value in run.items() if key not in FILE_KEYS},
            **described[run["task"]],
            "start": _start_of(suite, settings, run["task"], run["seed"]),
            "accuracy_start": references[run["task"], run["seed"]].start.test,
            "accuracy_fp32": references[run["task"], run["seed"]].trained.test,
            "accuracy_fp32_validation": references[run["task"], run["seed"]].trained.validation,
            **result,
            **{key: files[run["run_id"]][key] for key in ("bytes_integers", "bytes_other")},
        }
        for (run, _), result in zip(coded, scored, strict=True)
    ]


def measure(work: tuple[Task, Path, str, Record]) -> tuple[Record, Tensor | None]:
    """Metrics of one file's decoded model, statistics of its weights, and `score_file`'s rest."""
    task, path, device_name, run = work
    device = find_device(device_name)
    form = build_form(run["form"], run["form_settings"])
    model, data = task.build().to(device), task.load_data(device)
    names = {key: run["settings"].get(key, ()) for key in ("exclude", "include")}
    return score_file(path, form, model, data, **names)


def measure_full_precision(work: tuple[Task, Path, str]) -> FullPrecision:
    """Accuracies of one trained network."""
    task, path, device_name = work
    device = find_device(device_name)
    model, data = task.build(), task.load_data(device)
    model.load_state_dict(read_coded_state(path).state)
    model.to(device)
    test, correct = scores_and_correct(model, data.test)
    metric = objective_of(data.test.targets).metric
    return FullPrecision(evaluate(model, data.validation), test[metric], correct)


def _references(
    suite: str, settings: EvaluateSettings, runs: Sequence[Record], tasks: Mapping[str, Task]
) -> dict[tuple[str, int], References]:
    """The networks in full precision by task and seed."""
    references = [run for run in runs if run["method"] == REFERENCE]
    work = [
        (tasks[run["task"]], path, settings.device)
        for run in references
        for path in (
            paths.checkpoint(suite, run["task"], run["seed"]),
            paths.trained(suite, run["training_id"]),
        )
    ]
    measured = run_all(measure_full_precision, work, "full precision", alone=SECONDS_TO_START)
    return {
        (run["task"], run["seed"]): References(start, trained)
        for run, start, trained in zip(references, measured[::2], measured[1::2], strict=True)
    }


def _correct_of_references(
    references: Mapping[tuple[str, int], References],
) -> dict[str, Bits | None]:
    """The networks in full precision by the names under which `write_correct` keeps them."""
    return {
        f"{task}/{kind}/{seed}": None if network.correct is None else network.correct.numpy()
        for (task, seed), found in references.items()
        for kind, network in (("start", found.start), ("trained", found.trained))
    }


def _describe(task: Task) -> Record:
    """A task's data, network and metric."""
    data = task.load_data(find_device("cpu"))
    return {
        "dataset": data.label,
        "model": task.network["name"],
        "metric": objective_of(data.test.targets).metric,
        "train_samples": len(data.train),
        "data_checksum": TensorData.load(task.data).checksum(),
    }


def _start_of(suite: str, settings: EvaluateSettings, task: str, seed: int) -> str:
    """What a run started from: the settings of its pre-training, whose weights vary by machine."""
    network = settings.tasks[task].network
    pretraining = "pretrain " + key_of(task=network, fit=asdict(settings.pretrain[task]), seed=seed)
    given = paths.start(suite, task)
    return f"{pretraining} of {checksum(given)}" if given.exists() else pretraining


def _means(records: Iterable[Record]) -> list[Record]:
    """Means over seeds, one record a setting."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record["sweep"] in SUMMARIZED_SWEEPS:
            groups[tuple(record[key] for key in SETTING)].append(record)
    return [
        {
            **dict(zip(SETTING, setting, strict=True)),
            **{name: fmean(record[name] for record in group) for name in SUMMARIZED},
        }
        for setting, group in groups.items()
    ]


def _nested(summary: Iterable[Record]) -> Record:
    """Task, method, bits and Λ as levels: the form that ``dvc metrics`` shows."""
    nested: Record = {}
    for row in summary:
        by_method = nested.setdefault(row["task"], {}).setdefault(row["method"], {})
        by_bits = by_method.setdefault(f"{row['bits']}bit", {})
        by_bits[f"lam{row['lam']:g}"] = {name: row[name] for name in SUMMARIZED}
    return nested


def _curves(summary: Sequence[Record]) -> str:
    """The same as CSV, for ``dvc plots``; ``curve`` names task, method and bits."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["curve", "lam", *SUMMARIZED], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    for row in summary:
        writer.writerow({**row, "curve": f"{row['task']} {row['method']} {row['bits']} bit"})
    return text.getvalue()


def _layers(run: Mapping[str, Any], path: Path) -> list[Record]:
    """Sparsity, entropy and size of each layer of a run."""
    return [
        {
            **{key: run[key] for key in SETTING},
            "layer": name,
            "elements": math.prod(entry.shape),
            "sparsity": 1 - int(integers.count_nonzero()) / integers.numel(),
            "entropy_bits_per_weight": first_order_entropy(integers),
            "bytes": len(entry.payload),
        }
        for name, entry in read_contents(path).entries.items()
        if entry.kind == "quantized"
        for integers in [torch.from_numpy(entry.integers())]
    ]


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
