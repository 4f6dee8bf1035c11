"""The regression gate: silent on equal runs, loud on each injected regression."""

from __future__ import annotations

import json
import math
import random
from typing import Any
from xml.etree import ElementTree

import pytest
from workplace import REPOSITORY

from ecqx.errors import InputError
from ecqx.report.regression import (
    SETTINGS,
    Difference,
    Kind,
    compare,
    count_judged,
    keys_apart,
    setting_of,
)
from stages.check import Outcome, write_junit

Runs = list[dict[str, Any]]


def make_runs(tasks: int = 2, seeds: int = 3, spread: float = 0.004) -> Runs:
    """Runs of two methods and three Λ per task, with Gaussian noise over seeds."""
    noise = random.Random(1)
    return [
        {
            "run_id": f"{task}-{method}-{lam}-{seed}",
            "task": f"task{task}",
            "dataset": "digits",
            "method": method,
            "bits": 4,
            "lam": lam,
            "seed": seed,
            "accuracy": 0.95 - lam + noise.gauss(0, spread),
            "accuracy_validation": 0.96,
            "accuracy_fp32": 0.95,
            "sparsity": 0.4 + lam + noise.gauss(0, spread),
            "bytes": round(10000 * (1 - lam) * (1 + noise.gauss(0, spread))),
            "bytes_other": 500,
            "settings": {},
            "data_checksum": "abc",
            "start": "pretrain",
        }
        for task in range(tasks)
        for method in ("ECQ", "ECQx")
        for lam in (0.0, 0.05, 0.2)
        for seed in range(seeds)
    ]


def changed(runs: Runs, where: dict[str, Any] | None = None, **values: Any) -> Runs:
    """Copies of the runs, where the chosen ones have other values; callables get the old one."""

    def new(run: dict[str, Any]) -> dict[str, Any]:
        if any(run[key] != value for key, value in (where or {}).items()):
            return dict(run)
        return run | {k: v(run[k]) if callable(v) else v for k, v in values.items()}

    return [new(run) for run in runs]


def counting(differences: list[Difference]) -> set[str]:
    return {difference.quantity for difference in differences if difference.counts}


def kinds(differences: list[Difference]) -> set[tuple[str, str]]:
    return {(difference.quantity, difference.kind) for difference in differences}


@pytest.mark.parametrize("same_machine", [True, False])
def test_equal_runs_in_any_order_are_silent(same_machine: bool) -> None:
    runs = make_runs()
    shuffled = random.Random(2).sample(runs, len(runs))
    assert compare(runs, json.loads(json.dumps(shuffled)), same_machine) == []
    assert count_judged(runs, shuffled) == len(runs)


@pytest.mark.parametrize(
    ("quantity", "value", "kind"),
    [
        ("accuracy", lambda a: a + 1e-12, "better"),
        ("accuracy", lambda a: a - 1e-12, "worse"),
        ("accuracy", math.nan, "worse"),
        ("accuracy", None, "worse"),
        ("accuracy_validation", 0.97, "better"),
        ("sparsity", lambda s: math.nextafter(s, 1), "better"),
        ("bytes", lambda b: b - 1, "better"),
        ("bytes", lambda b: b + 1, "worse"),
        ("bytes_other", 504, "worse"),
        ("bits", 5, "different"),
        ("settings", {"qp": -21}, "different"),
    ],
)
def test_any_difference_counts_on_the_same_machine(quantity: str, value: Any, kind: str) -> None:
    runs = make_runs()
    found = compare(runs, changed(runs, {"run_id": "0-ECQ-0.05-1"}, **{quantity: value}), True)
    assert [(d.quantity, d.kind, d.counts) for d in found] == [(quantity, kind, True)]
    assert found[0].setting.endswith("seed 1")


@pytest.mark.parametrize("same_machine", [True, False])
def test_a_new_key_is_no_difference_of_a_run(same_machine: bool) -> None:
    runs = make_runs()
    more = [run | {"cost": 1.5} for run in runs]
    assert compare(runs, more, same_machine) == []
    assert keys_apart(runs, more) == ([], ["cost"])


@pytest.mark.parametrize("same_machine", [True, False])
@pytest.mark.parametrize(
    ("key", "counts_elsewhere"),
    [("start_kind", False), ("data_checksum", False), ("bytes", True), ("steps", True)],
)
def test_a_vanished_key_is_named_once(same_machine: bool, key: str, counts_elsewhere: bool) -> None:
    runs = [{"start_kind": "given", "steps": 7} | run for run in make_runs()]
    less = [{name: value for name, value in run.items() if name != key} for run in runs]
    (found,) = compare(runs, less, same_machine)
    assert (found.quantity, found.kind, found.new) == (key, "different", "missing")
    assert found.counts == (same_machine or counts_elsewhere)


def test_not_a_number_equals_itself() -> None:
    runs = changed(make_runs(), accuracy_validation=math.nan)
    assert compare(runs, changed(runs), True) == []


@pytest.mark.parametrize("same_machine", [True, False])
def test_a_lost_run_is_worse_and_an_added_one_different(same_machine: bool) -> None:
    runs = make_runs()
    lost = [run for run in runs if run["seed"] != 2]
    found = compare(runs, lost, same_machine)
    assert len(found) == len(runs) - len(lost)
    assert all(
        (d.quantity, d.new, d.kind, d.counts) == ("run", "missing", "worse", True) for d in found
    )
    added = compare(lost, runs, same_machine)
    assert {(d.old, d.kind, d.counts) for d in added} == {("missing", "different", same_machine)}
    without_task = [run for run in runs if run["task"] != "task1"]
    assert counting(compare(runs, without_task, same_machine)) == {"run"}


@pytest.mark.parametrize("seed", range(20))
def test_as_good_runs_of_another_machine_are_silent(seed: int) -> None:
    """Even if nothing of the accepted runs' chance is left: all noise is drawn anew."""
    noise = random.Random(seed)
    runs = make_runs()
    drawn = changed(
        runs,
        accuracy=lambda a: a + noise.gauss(0, 0.004),
        sparsity=lambda s: s + noise.gauss(0, 0.004),
        bytes=lambda b: round(b * (1 + noise.gauss(0, 0.004))),
    )
    assert compare(runs, drawn, False) == []


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("accuracy", lambda a: a - 0.03),
        ("sparsity", lambda s: s - 0.05),
        ("bytes", lambda b: b * 1.05),
        ("bytes_other", lambda b: b + 4),
        ("accuracy", math.nan),
        ("accuracy", None),
    ],
)
def test_worse_means_count_elsewhere(quantity: str, value: Any) -> None:
    runs = make_runs()
    setting = {"task": "task0", "method": "ECQx", "lam": 0.05}
    found = compare(runs, changed(runs, setting, **{quantity: value}), False)
    assert kinds(found) == {(quantity, "worse")}
    assert counting(found) == {quantity}


def test_better_means_are_named_but_do_not_count_elsewhere() -> None:
    runs = make_runs()
    better = changed(
        runs, accuracy=lambda a: a + 0.05, sparsity=lambda s: s + 0.1, bytes=lambda b: b // 2
    )
    found = compare(runs, better, False)
    assert kinds(found) == {(key, "better") for key in ("accuracy", "sparsity", "bytes")}
    assert counting(found) == set()


def test_fewer_bytes_outside_the_integers_are_better_and_count_anywhere() -> None:
    runs = make_runs()
    found = compare(runs, changed(runs, bytes_other=496), False)
    assert kinds(found) == {("bytes_other", "better")}
    assert counting(found) == {"bytes_other"}


def test_floats_coded_with_loss_may_differ_in_length_elsewhere() -> None:
    """Their length depends on the values, as the seeds show; far more bytes are worse still."""
    noise = random.Random(3)
    lossy = {"method": "ECQx", "floats": "published"}
    runs = changed([run | {"floats": "raw"} for run in make_runs()], {"method": "ECQx"}, **lossy)
    runs = changed(runs, lossy, bytes_other=lambda b: b + noise.randint(-3, 3))
    drawn = changed(runs, lossy, bytes_other=lambda _: 500 + noise.randint(-3, 3))
    assert compare(runs, drawn, False) == []
    longer = changed(drawn, lossy, bytes_other=lambda b: b + 28)
    assert counting(compare(runs, longer, False)) == {"bytes_other"}
    for length in (499, 501):  # without loss it must be equal
        raw = changed(drawn, {"method": "ECQ"}, bytes_other=length)
        assert counting(compare(runs, raw, False)) == {"bytes_other"}
    single = [run for run in runs if run["seed"] == 0]
    assert compare(single, changed(single, lossy, bytes_other=lambda b: b + 3), False) == []


@pytest.mark.parametrize("same_machine", [True, False])
def test_what_a_method_does_not_have_is_null(same_machine: bool) -> None:
    """Null bits, Λ and parts of the file; the settings of a method are one more key."""
    runs = [
        run
        | {"run_id": f"{qp}-{run['run_id']}", "method": "NNCodec uniform", "settings": {"qp": qp}}
        | dict.fromkeys(("bits", "bytes_other", "bytes_integers"))
        for run in make_runs(1)[:9]
        for qp in (-20, -30)
    ]
    assert compare(runs, json.loads(json.dumps(runs)), same_machine) == []
    found = compare(
        runs, changed(runs, {"settings": {"qp": -30}, "lam": 0.05}, accuracy=0.1), False
    )
    assert [d.setting for d in found] == ["task0 NNCodec uniform Λ 0.05 settings {'qp': -30}"]
    now_known = compare(runs, changed(runs, bytes_other=4), same_machine)
    assert {(d.quantity, d.kind) for d in now_known} == {("bytes_other", "different")}


def test_one_collapsed_seed_does_not_hide_in_its_own_spread() -> None:
    runs = make_runs()
    assert counting(compare(runs, changed(runs, {"run_id": "0-ECQ-0.05-1"}, accuracy=0.1), False))


@pytest.mark.parametrize(
    ("quantity", "value", "kind"),
    [
        ("parameters", 99, "different"),
        ("steps", 8, "different"),
        ("compression_ratio", 8, "better"),
    ],
)
def test_what_no_machine_changes_counts_everywhere(quantity: str, value: int, kind: str) -> None:
    own = {"parameters": 100, "steps": 9}
    runs = [run | own | {"compression_ratio": 40000 / run["bytes"]} for run in make_runs()]
    found = compare(runs, changed(runs, {"run_id": "0-ECQ-0.05-1"}, **{quantity: value}), False)
    assert [(d.quantity, d.kind, d.counts) for d in found] == [(quantity, kind, True)]
    # A smaller file of the same model has a larger ratio.
    smaller = changed(runs, bytes=lambda b: b - 1)
    smaller = [run | {"compression_ratio": 40000 / run["bytes"]} for run in smaller]
    assert compare(runs, smaller, False) == []


def test_collapsed_networks_do_not_hide_a_loss_of_the_others() -> None:
    """The accepted runs of the digits: five points less in every setting that keeps it."""
    runs = json.loads((REPOSITORY / "results/embedded/baseline.json").read_text())["runs"]
    kept = [r for r in runs if r["task"] == "mlp" and r["accuracy_fp32"] - r["accuracy"] < 0.02]
    names = {run["run_id"] for run in kept}
    worse = [r | {"accuracy": r["accuracy"] - 0.05 * (r["run_id"] in names)} for r in runs]
    found = [d for d in compare(runs, worse, False) if d.quantity == "accuracy" and d.counts]
    settings = {(r["method"], r["bits"], r["lam"], r["sweep"], r["variant"]) for r in kept}
    assert len(found) > len(settings) / 2


def test_other_seeds_are_seldom_worse_and_a_loss_is_seen() -> None:
    """Of the ten seeds on speech five are accepted and the others new, thirty times."""
    runs = json.loads((REPOSITORY / "results/speech/baseline.json").read_text())["runs"]

    def part(seeds: list[int], loss: float = 0.0) -> Runs:
        return [
            run
            | {"start": "", "run_id": f"{setting_of(run, SETTINGS)} {seeds.index(run['seed'])}"}
            | {"accuracy": run["accuracy"] - loss}
            for run in runs
            if run["seed"] in seeds
        ]

    chance = random.Random(0)
    alarms = seen = 0
    for _ in range(30):
        seeds = chance.sample(range(10), 10)
        accepted, others = part(seeds[:5]), seeds[5:]
        alarms += bool(counting(compare(accepted, part(others), False)))
        seen += bool(counting(compare(accepted, part(others, 0.04), False)))
    assert alarms <= 1
    assert seen == 30


def test_tolerance_is_the_stated_formula() -> None:
    runs = [
        run | {"accuracy": value, "sparsity": 0.5, "bytes": 1000}
        for run, value in zip(make_runs(1)[:3], (0.90, 0.92, 0.94), strict=True)
    ]
    (found,) = compare(runs, changed(runs, accuracy=lambda a: a - 0.5), False)
    # Three quantities: the quantile of Student's t with 4 degrees of freedom at 1 - 0.01/3 has a
    # closed form.
    root = math.sqrt(4 * (1 - 0.01 / 3) * 0.01 / 3)
    t = 2 * math.sqrt(math.cos(math.acos(root) / 3) / root - 1)
    assert found.tolerance == pytest.approx(t * 0.02 * math.sqrt(2 / 3))
    assert found.difference == pytest.approx(-0.5)


@pytest.mark.parametrize(("loss", "counts"), [(0.019, False), (0.021, True)])
def test_single_seeds_have_a_fixed_tolerance(loss: float, counts: bool) -> None:
    runs = make_runs(seeds=1)
    for change in ({"accuracy": lambda a: a - loss}, {"bytes": lambda b: b * (1 + loss)}):
        assert bool(counting(compare(runs, changed(runs, **change), False))) == counts


@pytest.mark.parametrize("same_machine", [True, False])
@pytest.mark.parametrize("key", ["dataset", "start"])
def test_other_data_or_start_is_not_judged(same_machine: bool, key: str) -> None:
    runs = make_runs()
    other = changed(runs, {"task": "task0"}, **{key: "other", "accuracy": 0.1})
    found = compare(runs, other, same_machine)
    assert kinds(found) == {(key, "not judged")}
    assert counting(found) == set()
    assert count_judged(runs, other) == len(runs) // 2
    # The other task is still watched.
    assert counting(compare(runs, changed(other, {"task": "task1"}, accuracy=0.1), same_machine))


def test_data_of_another_checksum_are_judged_and_named_once_a_task() -> None:
    """As features of sound on another processor, whose last digits differ."""
    runs = make_runs()
    other = changed(runs, data_checksum="other")
    assert counting(compare(runs, other, True)) == {"data_checksum"}
    found = compare(runs, other, False)
    assert [(d.setting, d.quantity) for d in found] == [
        ("task0", "data_checksum"),
        ("task1", "data_checksum"),
    ]
    assert counting(found) == set()
    assert count_judged(runs, other) == len(runs)
    assert counting(compare(runs, changed(other, accuracy=0.1), False)) == {"accuracy"}


def test_runs_on_another_data_set_are_neither_missing_nor_new() -> None:
    runs = make_runs()
    other = changed(
        runs, {"task": "task0"}, dataset="digits-jpeg", run_id=lambda name: f"jpeg-{name}"
    )
    found = compare(runs, other, True)
    assert {d.kind for d in found} == {Kind.NOT_JUDGED}
    assert counting(found) == set()
    # A task of which some runs are on the accepted data has to have all of them.
    mixed = [run for run in runs if run["seed"] != 2] + [r for r in other if r["seed"] == 2]
    assert kinds(compare(runs, mixed, True)) == {("run", "worse"), ("run", "different")}


def test_the_worst_comes_first() -> None:
    runs = make_runs()
    mixed = changed(runs, {"task": "task0"}, accuracy=0.99, bits=5)
    mixed = changed(mixed, {"task": "task1"}, accuracy=0.5)
    assert list(dict.fromkeys(d.kind for d in compare(runs, mixed, True))) == [
        Kind.WORSE,
        Kind.DIFFERENT,
        Kind.BETTER,
    ]
    new = changed(runs, {"lam": 0.05, "method": "ECQ"}, accuracy=lambda a: a - 0.1)
    new = changed(new, {"lam": 0.2, "method": "ECQ"}, accuracy=lambda a: a - 0.4)
    found = compare(runs, new[:-1], False)
    assert found[0].quantity == "run"
    assert [round(d.difference or 0, 2) for d in found[1:]] == [-0.4, -0.4, -0.1, -0.1]


def test_settings_are_told_apart_by_what_differs() -> None:
    runs = make_runs(1)
    twins = [run | {"run_id": f"twin-{run['run_id']}", "gradient": "identity"} for run in runs]
    runs = [*(run | {"gradient": "magnitude"} for run in runs), *twins]
    new = changed(runs, {"gradient": "identity", "lam": 0.2}, accuracy=0.1)
    found = compare(runs, new, False)
    assert [d.setting for d in found] == [
        "task0 ECQ 4 bit Λ 0.2 gradient identity",
        "task0 ECQx 4 bit Λ 0.2 gradient identity",
    ]


@pytest.mark.parametrize("runs", [[{}], [{"run_id": "a"}, {"run_id": "a"}]])
def test_runs_without_an_id_of_their_own_are_refused(runs: Runs) -> None:
    with pytest.raises(InputError, match="run"):
        compare(runs, [], True)


def test_a_setting_is_named_by_no_more_than_it_takes() -> None:
    """Keys that differ together are named once; the first of them is enough."""
    runs = make_runs(1)
    twins = [run | {"run_id": f"twin-{run['run_id']}"} for run in runs]
    runs = [
        *(run | {"variant": "lr 0.1", "lr": 0.1, "settings": {"lr": 0.1}} for run in runs),
        *(run | {"variant": "lr 0.2", "lr": 0.2, "settings": {"lr": 0.2}} for run in twins),
    ]
    found = compare(
        runs, changed(runs, {"lr": 0.2, "lam": 0.2, "method": "ECQ"}, accuracy=0), False
    )
    assert [d.setting for d in found] == ["task0 ECQ 4 bit Λ 0.2 variant lr 0.2"]


def outcome(new: Runs, same_machine: bool = True) -> Outcome:
    runs = make_runs()
    return Outcome("smoke", same_machine, count_judged(runs, new), compare(runs, new, same_machine))


def test_outcome_shows_the_worst_rows_and_ends_with_one_line() -> None:
    runs = make_runs()
    bad = outcome(changed(runs, accuracy=0.1, bytes=99999))
    assert bad.failed
    table, more, last = bad.text().rsplit("\n", 3)[0], *bad.text().rsplit("\n", 3)[1::2]
    assert all(word in table for word in ("change", "old", "new", "difference", "tolerance"))
    assert more == f"… and {2 * len(runs) - 40} more"
    assert last.startswith("smoke: WORSE than the baseline: 72 worse (")
    good = outcome(runs)
    assert not good.failed
    assert good.text().startswith("smoke: no worse than the baseline in 36 runs (")
    assert "\n" not in good.text()


def test_outcome_tells_worse_better_and_different_apart() -> None:
    runs = make_runs()
    new = changed(runs, {"run_id": "0-ECQ-0.05-1"}, bytes=99999)
    new = changed(new, {"run_id": "1-ECQ-0.05-1"}, accuracy=0.99, bits=5)
    text = outcome(new).text()
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["worse", "different", "better"]
    assert "smoke: WORSE than the baseline: 1 worse, 1 different, 1 better (" in text
    better = outcome(changed(runs, {"run_id": "0-ECQ-0.05-1"}, bytes=9))
    assert better.failed
    assert "smoke: NOT THE SAME as the baseline: 1 better (" in better.text()
    elsewhere = outcome(changed(runs, {"task": "task0"}, bytes=9), same_machine=False)
    assert not elsewhere.failed
    assert "smoke: no worse than the baseline in 36 runs: 6 better (" in elsewhere.text()


def test_outcome_says_what_is_not_judged_and_fails_where_nothing_is() -> None:
    runs = make_runs()
    part = outcome(changed(runs, {"task": "task0"}, start="given"))
    assert not part.failed
    assert part.text().startswith("18 runs are not judged")
    nothing = outcome(changed(runs, start="given"))
    assert nothing.failed
    assert nothing.text().endswith("no run could be judged against the baseline.")


def test_junit_holds_the_failures(tmp_path: Any) -> None:
    runs = make_runs()
    file = tmp_path / "check.xml"
    write_junit(file, outcome(changed(runs, {"run_id": "0-ECQ-0.05-1"}, accuracy=0.1)))
    (suite,) = ElementTree.parse(file).getroot()
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    failure = suite.find(".//failure")
    assert failure is not None
    assert failure.attrib["message"] == "1 worse"
    assert "accuracy" in (failure.text or "")
    write_junit(file, outcome(changed(runs, start="given")))
    (suite,) = ElementTree.parse(file).getroot()
    assert suite.attrib["failures"] == "1"
    assert suite.find(".//skipped") is not None
    write_junit(file, outcome(changed(runs, {"task": "task0"}, bytes=9), same_machine=False))
    (suite,) = ElementTree.parse(file).getroot()
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("7", "0")
    assert "better" in (suite.findtext(".//system-out") or "")
