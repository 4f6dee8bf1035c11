"""`ecqx search`: what it chooses, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import Run, in_this_process
from scipy import stats
from torch import nn

import ecqx
from ecqx.coding.checkpoint import read_state
from ecqx.coding.inspection import inspect
from ecqx.data import TensorData, digits
from ecqx.errors import InputError, InputWarning
from ecqx.experiment import search as searching
from ecqx.experiment.search_result import Candidate, SearchResult
from ecqx.experiment.search_settings import SearchSettings
from ecqx.experiment.study import Study, is_hopeless
from ecqx.experiment.trial import drop_with_bound

place = running.place
SMALL: dict[str, Any] = {"pretrain_epochs": 8, "epochs": 2, "max_drop": 8.0, "max_batches": 8}


def build(hidden: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


@pytest.fixture(scope="module")
def data() -> TensorData:
    return digits().map(lambda split: split.take(300))


@pytest.fixture
def search(data: TensorData, tmp_path: Path) -> Callable[..., SearchResult]:
    """A search of seconds."""
    pytest.importorskip("optuna")
    return lambda folder="a", **more: ecqx.search(build, data, tmp_path / folder, **SMALL | more)


# -- the bound -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "lost", "won"), [(200, 7, 2), (500, 3, 3), (90, 0, 4), (1000, 60, 1)]
)
def test_the_bound_is_that_of_a_paired_bootstrap(n: int, lost: int, won: int) -> None:
    before, after = np.ones(n, bool), np.ones(n, bool)
    after[:lost] = False
    before[lost : lost + won] = False
    found = drop_with_bound(before, after)
    assert found["drop"] == pytest.approx(100 * (lost - won) / n)
    oracle = stats.bootstrap(
        (before, after),
        lambda a, b, axis: 100 * (a.mean(axis) - b.mean(axis)),
        paired=True,
        n_resamples=20_000,
        confidence_level=0.9,
        method="percentile",
        random_state=1,
    )
    # Both are simulated, and take values at distances of one sample.
    assert found["bound"] == pytest.approx(oracle.confidence_interval.high, abs=100 / n)
    assert found["bound"] >= found["drop"]
    assert drop_with_bound(before, before) == {"drop": 0.0, "bound": 0.0}


@given(st.lists(st.floats(0, 30), min_size=1, max_size=4), st.floats(0, 5))
def test_hopeless_is_what_no_gain_of_others_would_save(
    losses: list[float], max_drop: float
) -> None:
    curves = ([19.0, 16.0, 12.0], [8.0, 2.0], [7.0, 7.0, 0.0], [1.0], [3.0, 2.0, 2.0])
    finished = [dict(enumerate(curve)) for curve in curves]
    # Of the first three curves, after the first and the second epoch.
    gain = [7.0, 7.0, 0.0, 0.0][len(losses) - 1]
    assert is_hopeless(losses, finished, max_drop) == (losses[-1] - gain > max_drop)
    assert not is_hopeless(losses, finished[:4], max_drop)


# -- the choice ------------------------------------------------------------------------------------


def candidate(number: int, size: int, accuracy: float, bound: float) -> Candidate:
    setting = {"method": "ECQ", "bits": 4, "lam": 0.1, "lr": 1e-3}
    drop = 100 * (0.9 - accuracy)
    return Candidate(number, setting, size, accuracy, drop, bound, 0.5, 3)


def result(*candidates: Candidate, max_drop: float = 1.0) -> SearchResult:
    test = {"accuracy": 0.88, "accuracy_full_precision": 0.9, "drop": 2.0, "bound": 3.0}
    return SearchResult(
        SearchSettings(max_drop=max_drop),
        Path("smallest.ecqx"),
        "made",
        4000,
        0.9,
        candidates,
        test=test,
    )


def test_the_smallest_within_the_allowed_loss_is_chosen() -> None:
    found = result(
        candidate(1, 900, 0.90, 0.4), candidate(2, 500, 0.895, 1.0), candidate(3, 300, 0.89, 1.5)
    )
    assert found.chosen.number == 2
    assert [one.number for one in found.front] == [3, 2, 1]
    assert "loses at most 1 points: 500 bytes, loses 0.50 points, at most 1.00" in found.summary
    # The second is smaller and as accurate, but its loss is less certain.
    off_front = result(candidate(1, 900, 0.90, 0.4), candidate(2, 300, 0.90, 1.5))
    assert [one.number for one in off_front.front] == [2]
    assert [row[:2] for row in off_front.rows] == [("", "2"), ("→", "1")]
    none = result(*found.candidates, max_drop=0.3)
    assert none.chosen.number == 1
    assert "no file loses at most 0.3 points; the one with the smallest bound: 900" in none.summary
    assert not none.record["within_max_drop"]


# -- a search --------------------------------------------------------------------------------------


def files(result: SearchResult) -> dict[str, bytes]:
    names = ("smallest.ecqx", "search.json", "search.html")
    return {name: (result.path.parent / name).read_bytes() for name in names}


def test_a_search_ends_with_front_file_and_page(
    search: Callable[..., SearchResult], data: TensorData, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    evaluate = searching.classified_correctly

    def counted(model: nn.Module, split: Any) -> Any:
        looked.append(split.targets is data.test.targets)
        return evaluate(model, split)

    monkeypatch.setattr(searching, "classified_correctly", counted)
    lines: list[str] = []
    found = search(trials=7, say=lines.append)
    assert len(lines) == 7
    # Full precision and the chosen file, in the end.
    assert sum(looked) == 2
    assert looked[-2:] == [True, True]
    front = found.front
    assert [one.bytes for one in front] == sorted(one.bytes for one in front)
    assert all(a.accuracy_validation < b.accuracy_validation for a, b in pairwise(front))
    assert found.chosen.bound <= 8
    assert found.path.read_bytes() == found.file(found.chosen).read_bytes()
    assert found.path.stat().st_size == found.chosen.bytes
    network = build()
    network.load_state_dict(ecqx.load(found.path))
    with torch.no_grad():
        x, y = next(data.test.batches(len(data.test)))
        accuracy = float((network(x).argmax(1) == y).double().mean())
    assert found.test["accuracy"] == pytest.approx(accuracy)
    record = json.loads(files(found)["search.json"])
    assert record["chosen"] == found.chosen.number
    page = files(found)["search.html"].decode()
    assert page.count("<svg") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert f"{found.chosen.bytes:,}" in page


def test_a_stopped_search_ends_like_an_uninterrupted_one(
    search: Callable[..., SearchResult], tmp_path: Path
) -> None:
    whole = files(search("whole", trials=12))
    assert files(search("again", trials=12)) == whole

    calls, stops = 0, [2, 5, 9]

    class StoppedError(KeyboardInterrupt):
        pass

    report = Study.report

    def interrupted(self: Study, trial: Any, losses: Any) -> None:
        nonlocal calls
        calls += 1
        report(self, trial, losses)
        if stops and calls >= stops[0]:
            del stops[0]
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "report", interrupted)
        for _ in range(3):
            with pytest.raises(StoppedError):
                search("stopped", trials=12)
        found = search("stopped", trials=12)
    assert files(found) == whole
    # More trials go on from those that there are.
    search("more", trials=5)
    assert files(search("more", trials=12)) == whole


def test_bits_of_parts_are_given_or_searched(search: Callable[..., SearchResult]) -> None:
    found = search(trials=4, methods=("ECQ",), bits_of=("1", "3=7"), bits=(3, 5), lr=(1e-3, 1e-3))
    bits = [one.setting["bits"] for one in found.candidates]
    assert {one["3"] for one in bits} == {7}
    assert len({one["1"] for one in bits}) > 1
    assert {one.setting["lr"] for one in found.candidates} == {1e-3}
    stored = {t.name: t.bits for t in inspect(found.path).tensors if t.bits}
    chosen = found.chosen.setting["bits"]
    assert stored == {"1.weight": chosen["1"], "3.weight": 7}


def test_several_processes_share_a_search(
    search: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECQX_PROCESSES", "2")
    found = search(trials=4, processes=2, methods=("ECQ", "EC2T"))
    assert len(found.candidates) + len(found.pruned) == 4
    assert "2 processes: another search may find other files" in found.summary


def test_the_file_describes_itself(
    search: Callable[..., SearchResult], data: TensorData, tmp_path: Path
) -> None:
    about = {"model": "tiny", "sizes": (24, 10)}
    search(trials=1, metadata=about)
    found = search(trials=1, metadata=about)
    stored = inspect(found.path).metadata
    assert (stored["model"], stored["sizes"]) == ("tiny", [24, 10])
    assert stored["classes"] == list(data.classes)
    assert stored["input"]["shape"] == [1, 8, 8]
    # A network can start another search as it is.
    network = build()
    network.load_state_dict(read_state(tmp_path / "a" / "full_precision.safetensors"))
    settings = {**SMALL, "pretrain_epochs": 0, "trials": 1, "metadata": about}
    again = ecqx.search(network, data, tmp_path / "b", **settings)
    assert files(again)["smallest.ecqx"] == files(found)["smallest.ecqx"]


def test_what_a_person_should_look_at_is_remarked(data: TensorData, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    tiny = data.map(lambda split: split.take(12))
    with pytest.warns(InputWarning) as remarks:
        found = ecqx.search(build, tiny, tmp_path / "a", trials=1, epochs=1)
    for line in (
        "only 12 samples validate",
        "an epoch has only 1 training steps",
        "one validation sample is 8.33 points, more than max_drop 0.5",
        "full precision: top-1 accuracy .* on 12 validation samples is at chance",
    ):
        assert any(re.match(line, str(one.message)) for one in remarks), line
        assert any(re.match(line, one) for one in found.remarks)


def test_what_lrp_has_no_rule_for_is_a_remark(data: TensorData, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.LogSoftmax(1), nn.Linear(24, 10))
    settings = {"trials": 1, "epochs": 1, "max_batches": 2, "methods": ("ECQx",)}
    with pytest.warns(InputWarning, match="LRP has no rule for LogSoftmax"):
        found = ecqx.search(network, data, tmp_path / "a", **settings)
    assert "LogSoftmax" in found.remarks[0]


def test_minutes_end_a_search_which_goes_on(search: Callable[..., SearchResult]) -> None:
    with pytest.raises(InputError, match="no trial has ended yet; the same search goes on"):
        search("timed", trials=3, minutes=1e-9)
    assert files(search("timed", trials=3)) == files(search("untimed", trials=3))


def test_a_training_that_fails_is_one_trial(
    search: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = searching.run_trial

    def failing(path: Path, network: nn.Module, data: Any, setting: Any, *more: Any) -> Any:
        if setting["method"] == "EC2T":
            raise ValueError("1.weight: weight holds NaN or infinite values")
        return run(path, network, data, setting, *more)

    monkeypatch.setattr(searching, "run_trial", failing)
    found = search(trials=6, methods=("ECQ", "EC2T"))
    assert found.failures
    assert len(found.candidates) + len(found.pruned) + len(found.failures) == 6
    assert "failed (1.weight: weight holds NaN or infinite values)" in found.summary


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": -1}, "max_drop must be"),
        ({"trials": 0}, "trials must be a whole number above 0, not 0"),
        ({"minutes": 0}, "minutes must be a number above 0"),
        ({"methods": ("LSQ",)}, "methods must be some of ECQ, .*, not 'LSQ'"),
        ({"methods": ()}, "methods must be some of"),
        ({"bits": (5, 3)}, r"bits must be a range \(low, high\) of numbers from 2 to 8: \(5, 3\)"),
        ({"lam": (0, 1)}, "lam must be a range"),
        ({"lr": (1e-3,)}, "lr must be a range"),
        ({"bits_of": ("conv1=9",)}, "'conv1=9' is not PART=BITS"),
        ({"bits_of": ("1",), "methods": ("EC2T",)}, "bits_of is for ECQ and ECQx"),
        ({"bits_of": ("9",)}, "ECQ: bits: no quantized weight has '9' in its name"),
        ({"exclude": ("9",)}, "exclude: no parameter has '9' in its name"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"p": 2}, "p must lie in"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_settings(
    search: Callable[..., SearchResult], tmp_path: Path, settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        search(**settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_data_and_networks_that_do_not_fit(data: TensorData, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    several = data.map(
        lambda split: replace(split, targets=nn.functional.one_hot(split.targets, 10).float())
    )
    with pytest.raises(InputError, match="needs data with one label a sample"):
        ecqx.search(build, several, tmp_path / "a")
    with pytest.raises(InputError, match="TensorData, not a Tensor"):
        ecqx.search(build, data.train.inputs, tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the network does not take digits"):
        ecqx.search(lambda: nn.Linear(5, 10), data, tmp_path / "a")
    with pytest.raises(InputError, match="ECQx: no layer of the model has a rule of relevance"):
        ecqx.search(partial(nn.Sequential, nn.Flatten(), Unruled()), data, tmp_path / "a")
    assert not list(tmp_path.iterdir())


class Unruled(nn.Module):
    """A layer that multiplies by its weight in a way that LRP has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.RNN(64, 10, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[:, None])[0][:, 0]


def test_a_folder_holds_one_search(search: Callable[..., SearchResult], tmp_path: Path) -> None:
    search(trials=1)
    before = sorted(tmp_path.rglob("*"))
    for settings, message in (
        ({"max_drop": 1.0}, r"with other max_drop \(8.0, not 1.0\)"),
        ({"seed": 1}, r"with other seed \(808, not 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            search(trials=2, **settings)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_its_packages_one_line_names_the_extra(
    data: TensorData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs optuna, .*: pip install 'ecqx\[search\]'"):
        ecqx.search(build, data, tmp_path / "a")


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    pytest.importorskip("optuna")
    return in_this_process(monkeypatch, capsys, "search")


def test_the_command(command: Run, place: Path) -> None:
    options = ("--dataset", "digits", "--model", "mlp_gsc", "--epochs", 1, "--method", "ECQ")
    code, out, error = command(
        *options, "--pretrain_epochs", 2, "--trials", 2, "--max_drop", 5, "--verbose"
    )
    assert code == 0
    assert re.fullmatch(
        r"ecqx: the chosen file is more accurate than full precision[^\n]+\n", error
    )
    assert out.count("trial ") >= 2
    assert "test data" in out
    folder = place / "results" / "mlp_gsc_digits_search"
    assert {"smallest.ecqx", "search.json", "search.html"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "mlp_gsc would start from random weights, and have no accuracy to keep"),
        (("--bits", 6, 3), "bits must be a range"),
        (("--method", "LSQ"), "'LSQ' is not one of"),
        (("--bits_of", "conv1=1", "--pretrain_epochs", 1), "'conv1=1' is not PART=BITS"),
        (("--pretrain_epochs", 1, "--exclude", "conv"), "exclude: no parameter has 'conv'"),
    ],
)
def test_what_the_command_refuses(
    command: Run, place: Path, options: tuple[object, ...], message: str
) -> None:
    code, out, error = command("--dataset", "digits", "--model", "mlp_gsc", *options)
    assert (code, out) == (2, "")
    assert error.startswith("ecqx: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(place.iterdir())


def test_the_first_trials_have_each_method_in_turn(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", SearchSettings(trials=8))
    study.begin()
    tried = []
    while (trial := study.next()) is not None:
        tried.append(trial.user_attrs["setting"]["method"])
        study.finish(trial, {"bytes": 1000, "bound": 1.0})
    assert tried == ["ECQ", "ECQx", "EC2T", "FantastIC4"] * 2
