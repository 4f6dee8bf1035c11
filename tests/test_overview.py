"""The report over all published suites: which suites are parts of one, and that it is fresh."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from made_runs import make_grid, make_p_sweep, make_run
from workplace import REPOSITORY

from ecqx.errors import InputError
from ecqx.report.evidence import Evidence
from ecqx.report.rules import Fairness, Rules
from stages import overview, paths


def contents(records: Sequence[Mapping[str, Any]], rules: Rules | None = None) -> dict[str, Any]:
    """What a suite's report is made from."""
    return {
        **{"records": records, "rules": rules, "published": [], "yardsticks": []},
        **{"tasks": {"mlp": "MLP"}, "paper": ["mlp"], "relevance": {}},
        "correct": {f"mlp/{record['run_id']}": np.ones(3, bool) for record in records},
    }


def test_names_that_begin_alike_are_a_family() -> None:
    names = ["embedded", "speech", "speech-p", "speechless", "speech-p-more"]
    assert [overview.family(name, names) for name in names] == [
        *("embedded", "speech", "speech", "speechless", "speech"),
    ]


def test_parts_are_one_task_and_a_common_run_is_taken_once() -> None:
    grid, swept = make_grid("mlp"), make_p_sweep("mlp")
    parts = {
        "digits": contents(grid),
        "speech": contents(grid),
        "speech-p": contents([*grid[:3], *swept]),
    }
    found = overview.merged(parts)
    tasks = [record["task"] for record in found["records"]]
    assert tasks.count("speech_mlp") == len(grid) + len(swept)
    assert tasks.count("digits_mlp") == len(grid)
    assert found["tasks"] == {"digits_mlp": "MLP", "speech_mlp": "MLP"}
    of_records = {f"{record['task']}/{record['run_id']}" for record in found["records"]}
    assert of_records == found["correct"].keys()
    assert found["rules"] is None


def test_rules_are_those_of_all_tasks() -> None:
    fair = Fairness((8.0, 64.0), 8)
    one, other = (contents(make_grid("mlp"), Rules(loss, {"mlp": fair})) for loss in (0.005, 0.01))
    renamed = {**one, "records": [r | {"run_id": f"b{r['run_id']}"} for r in one["records"]]}
    found = overview.merged({"a": one, "b": renamed})["rules"]
    assert found == Rules(0.005, {"a_mlp": fair, "b_mlp": fair})
    with pytest.raises(InputError, match=r"loss: must be one of \[0\.005, 0\.01\]"):
        overview.merged({"a": one, "b": other})


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("data_checksum", "data of different checksums"),
        ("accuracy_start", "different pre-trained networks"),
        ("accuracy_fp32", "different networks in full precision"),
    ],
)
def test_parts_measured_on_different_networks_are_refused(key: str, what: str) -> None:
    swept = make_p_sweep("mlp")
    other = [*swept[:-1], swept[-1] | {key: 0}]
    with pytest.raises(InputError, match=rf"^speech_mlp, seed {swept[-1]['seed']}: .* {what}"):
        overview.merged({"speech": contents(make_grid("mlp")), "speech-p": contents(other)})


def test_the_committed_report_is_that_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    recorded = json.loads((paths.results(overview.NAME) / "sources.json").read_text())
    assert recorded == overview.sources(), "run make overview"


def test_tasks_of_one_title_are_told_apart_by_their_data() -> None:
    runs = [
        make_run(task, "ECQ", 4, 0.1, 0) | {"run_id": task, "task": task, "dataset": data}
        for task, data in (("a", "digits"), ("b", "cifar10"), ("c", "digits"))
    ]
    evidence = Evidence.collect("made", {"a": "ResNet20", "b": "ResNet20", "c": "MLP"}, runs)
    assert evidence.tasks == {"a": "ResNet20 on digits", "b": "ResNet20 on cifar10", "c": "MLP"}
    assert evidence.name("b") == evidence.tasks["b"]
