"""The records behind the page's centre piece, accuracy against size, exactly as they are."""

from __future__ import annotations

from typing import Any

from ecqx.report.evidence import Evidence
from ecqx.report.records import CONFIGURATION, GRID_METHODS, Record, Setting
from ecqx.report.selection import flat, over_seeds
from ecqx.report.tables import in_words

# What each record shows, under the names of metrics.json.
SHOWN = (
    *("run_id", "seed", "accuracy", "accuracy_validation", "accuracy_fp32", "sparsity", "bytes"),
    *("compression_ratio", "entropy_bits_per_weight"),
)


def tradeoff(evidence: Evidence) -> list[dict[str, Any]]:
    """The settings of the grid, task by task.

    Returns
    -------
    list of dict
        For each task with a grid its ``title``, ``data``, ``metric``, ``model`` and size in full
        precision, the mean accuracy there with its deviation, what the records of each method
        share, and the settings with their records.
    """
    return [_task(evidence, task) for task in evidence.tasks if evidence.of(task)]


def _task(evidence: Evidence, task: str) -> dict[str, Any]:
    settings = evidence.of(task)
    full = over_seeds(flat(settings), "accuracy_fp32")
    return {
        "key": task,
        "title": evidence.tasks[task],
        "data": evidence.data(task),
        "metric": evidence.metric(task),
        "bytes": max(run.bytes_fp32 for run in flat(settings)),
        "accuracy": full.mean,
        "deviation": full.sd,
        "configurations": {
            method: _configuration(flat(s for s in settings if s.method == method))
            for method in GRID_METHODS
        },
        "settings": [_setting(setting) for setting in settings],
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "method": setting.method,
        "bits": setting.bits,
        "lam": setting.lam,
        "p": setting.p,
        "runs": [{name: getattr(run, name) for name in SHOWN} for run in setting.records],
    }


def _configuration(records: list[Record]) -> dict[str, str]:
    """What all records of a method share beside bits and Λ; what does not apply is left out."""
    every = [
        {
            "epochs": record.epochs,
            "batch size": record.batch_size,
            **dict(zip(CONFIGURATION, record.configuration, strict=True)),
        }
        for record in records
    ]
    return {
        name.replace("_", " "): in_words(value)
        for name, value in (every[0] if every else {}).items()
        if value is not None and all(other[name] == value for other in every)
    }
