"""The stage that compares ECQx with what a user would pick instead, on a suite of seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from stages.comparison_settings import trials_of
from stages.methods import known_methods
from tiny import REPOSITORY, tiny

from ecqx.errors import InputError
from ecqx.training.evaluation import evaluate
from stages import compare, paths, settings, verdict
from stages.tasks import load_data, network
from stages.verify.workplace import prepare, run_stages, working_in


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage ran."""
    place = prepare(tmp_path_factory.mktemp("compare") / "place", REPOSITORY, tiny())
    with working_in(place):
        run_stages("smoke", "download", "pretrain", "compare", "verdict")
    return place


@pytest.fixture
def inside(compared: Path) -> Iterator[Path]:
    with chdir(compared):
        yield compared


def records() -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(paths.compared_metrics("smoke").read_text())
    return content


def test_every_method_has_its_trials_with_every_seed(inside: Path) -> None:
    wanted = settings.load("smoke")
    assert wanted.comparison is not None
    expected = [
        (name, setting.get("lam"), seed)
        for seed in wanted.seeds
        for name, grid in wanted.comparison.tasks["mlp"].methods.items()
        for setting in trials_of(grid)
    ]
    assert [(r["method"], r["lam"], r["seed"]) for r in records()] == expected
    assert len({r["run_id"] for r in records()}) == len(expected)


def test_accuracy_and_bytes_are_those_of_the_file(inside: Path) -> None:
    wanted = settings.load("smoke")
    task = wanted.tasks["mlp"]
    assert wanted.comparison is not None
    trials = {
        trial.run_id: trial.method
        for seed in wanted.seeds
        for job in compare._jobs("smoke", wanted, "mlp", seed)
        for trial in job.trials
    }
    for record in records():
        method = trials[record["run_id"]]
        path = paths.compared("smoke") / f"{record['run_id']}.{method.suffix}"
        model = network(task)
        model.load_state_dict(method.read(path))
        assert evaluate(model, load_data("smoke", task).test) == record["accuracy"]
        assert path.stat().st_size == record["bytes"]
        weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1])
        assert float((weights == 0).double().mean()) == pytest.approx(record["sparsity"])


def test_methods_start_alike_and_are_trained_for_as_long(inside: Path) -> None:
    for seed in (0, 1):
        own = [record for record in records() if record["seed"] == seed]
        for key in ("accuracy_start", "accuracy_fp32", "start", "epochs", "steps", "parameters"):
            assert len({record[key] for record in own}) == 1, key
    costs = {record["method"]: record["cost"] for record in records()}
    assert costs.pop("ECQx") > 1.5
    assert set(costs.values()) == {1.0}


def test_pruned_files_are_as_sparse_as_was_asked(inside: Path) -> None:
    for record in records():
        if record["method"] == "pruning":
            asked = float(record["variant"].removeprefix("sparsity "))
            assert record["sparsity"] >= asked - 1e-3


def test_a_finished_training_is_not_repeated(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = paths.compared_metrics("smoke").read_bytes()
    # The folder of another test's run is left alone.
    shutil.copytree(inside, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(compare.Trainer, "fit", trained)
    monkeypatch.setenv("ECQX_PROCESSES", "1")
    assert compare.main(["smoke"]) == 0
    assert paths.compared_metrics("smoke").read_bytes() == before


def test_the_verdict_shows_all_methods(inside: Path) -> None:
    out = paths.comparison("smoke")
    assert (out / "metrics.json").read_bytes() == paths.compared_metrics("smoke").read_bytes()
    table = (out / "tables" / "comparison.md").read_text()
    assert all(f"| {name} " in table for name in ("ECQ", "ECQx", "pruning", "fp16"))
    assert "MLP_GSC topology: ECQx" in (out / "verdict.md").read_text()


def test_a_suite_that_compares_nothing_says_so(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load(tiny())
    params["suites"]["smoke"]["comparison"] = None
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert compare.main(["smoke"]) == 0
    assert records() == []
    assert verdict.main(["smoke"]) == 0
    assert [path.name for path in paths.comparison("smoke").iterdir()] == ["verdict.md"]
    assert "compares nothing" in (paths.comparison("smoke") / "verdict.md").read_text()


# -- settings --------------------------------------------------------------------------------------


def methods(changes: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(suite: dict[str, Any]) -> None:
        suite["comparison"]["tasks"]["mlp"]["methods"] |= changes

    return change


def of_task(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda suite: suite["comparison"]["tasks"]["mlp"].update(changes)


def another_task(suite: dict[str, Any]) -> None:
    tasks = suite["comparison"]["tasks"]
    tasks["other"] = tasks["mlp"]


REFUSED: dict[str, Callable[[dict[str, Any]], None]] = {
    "methods must be some of ECQ, ECQx": methods({"magic": {}}),
    "LSQ has 3 trials, it needs 2": methods({"LSQ": {"bits": [2, 3, 4]}}),
    "fp16 has 2 trials, it needs 1": methods({"fp16": {"lr": [0.1, 0.2]}}),
    "LSQ: bits must lie between 2 and 8, not 1": methods({"LSQ": {"bits": [1, 2]}}),
    "LSQ: .*unexpected keyword argument 'qp'": methods({"LSQ": {"bits": 4, "qp": [1, 2]}}),
    "LSQ: lr must be a number above 0, not -1": methods({"LSQ": {"bits": 4, "lr": [0.1, -1.0]}}),
    "ECQ: needs lam, and bits": methods({"ECQ": {"lam": [0.1, 0.2]}}),
    "EC2T: needs lam, and bits": methods({"EC2T": {"lam": [0.1, 0.2], "bits": 2}}),
    "ECQ: magic is no setting": methods({"ECQ": {"lam": [0.1, 0.2], "bits": 4, "magic": 1}}),
    "EC2T: lambda_max must be one of": methods({"EC2T": {"lam": [0.1, 1], "lambda_max": "no"}}),
    "ratios must be .low, high.": of_task(ratios=[8.0, 4.0]),
    "comparison.tasks must be some of mlp": another_task,
}


@pytest.mark.parametrize("words", REFUSED)
def test_settings_are_refused_in_one_line(words: str, tmp_path: Path) -> None:
    params = yaml.safe_load(tiny())
    REFUSED[words](params["suites"]["smoke"])
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    with pytest.raises(InputError, match=words) as caught:
        settings.load("smoke", path)
    assert "suites.smoke" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_suites_of_the_repository_compare_all_methods() -> None:
    for suite in ("embedded", "mini"):
        comparison = settings.load(suite, REPOSITORY / "params.yaml").comparison
        assert comparison is not None
        named = {name for task in comparison.tasks.values() for name in task.methods}
        assert named == set(known_methods())
