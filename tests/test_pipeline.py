"""The whole pipeline on a slice of suite smoke, once, in a copy of the work tree.

What its outputs say is compared with the files themselves, read without the stages' code.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections import Counter
from contextlib import chdir, redirect_stdout
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from clones import PROGRAMS, Clone, checksum, copy_work_tree
from safetensors.torch import load_file
from torch import Tensor
from workplace import REPOSITORY, write_settings

from ecqx.coding.bitstream import load
from ecqx.coding.forms import build_form
from ecqx.experiment import jobs
from ecqx.models import build
from ecqx.report.regression import Kind
from stages import quantize, status, suites
from stages.check import check
from stages.correct import read_correct
from stages.evaluate import _means, _nested

SUITE = Path("suites") / "smoke"
PIPELINE = str(SUITE / "dvc.yaml")
SUMMARY = Path("results") / "smoke" / "summary.json"
STAGES = ["fingerprint", "download", "pretrain", "quantize", "encode", "evaluate", "report"]

# Keys of a record, in their order.
KEYS = [
    *("run_id", "task", "method", "sweep", "variant", "bits", "lam", "p", "sparsity_band", "alpha"),
    *("gradient", "composite", "canonizer", "weight_rule", "lrp_output", "relevance_of"),
    *("relevance_every", "relevance_samples", "pmf", "lambda_max", "floats", "settings", "lr"),
    *("batch_size", "seed", "epochs", "steps", "cost", "dataset", "model", "metric"),
    *("train_samples", "data_checksum", "start", "accuracy_start", "accuracy_fp32"),
    *("accuracy_fp32_validation", "accuracy_validation", "accuracy", "other_metrics", "sparsity"),
    *("entropy_bits_per_weight", "parameters", "bytes", "compression_ratio", "bytes_integers"),
    "bytes_other",
]
# Bits of the methods that have no other.
OWN_BITS = {"EC2T": 2, "FantastIC4x": 4, "fp16": 16, "int8": 8}
# Methods whose files are not of the suite's own form.
OTHER_FORMS = ("NNCodec uniform", "NNCodec dependent", "fp16", "int8")

pytestmark = [
    pytest.mark.skipif(not (PROGRAMS / "dvc").exists(), reason="dvc is not installed"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no git repository"),
]


class Copy(Clone):
    """A copy of the work tree in which suite smoke runs."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of suite smoke."""
        return self.settings_of("smoke")

    def repro(self, stage: str = "") -> list[str]:
        """Run the pipeline, up to a stage; the stages that ran."""
        return executed(self.run("dvc", "repro", f"{PIPELINE}:{stage}" if stage else PIPELINE))

    def stale(self) -> set[str]:
        """The stages that ``make status`` names."""
        with chdir(self.root), redirect_stdout(io.StringIO()) as printed:
            assert status.main(["smoke"]) == 0
        return {line.split(":")[0] for line in printed.getvalue().splitlines() if ": " in line}

    def changed(self) -> set[str]:
        """The stages that ``dvc status`` names."""
        printed = json.loads(self.run("dvc", "status", "--json", PIPELINE))
        return {address.rpartition(":")[2] for address in printed}

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the first occurrence of a text in a file."""
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new, 1))

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The metrics of all runs."""
        return self.json("results/smoke/metrics.json")  # type: ignore[no-any-return]

    @property
    def planned(self) -> dict[str, dict[str, Any]]:
        """What the stage quantize recorded, by run."""
        return {run["run_id"]: run for run in self.json("quantized/smoke/runs.json")}

    @property
    def files(self) -> dict[str, Path]:
        """The file of each run."""
        listed = self.json("bitstreams/smoke/files.json")
        return {r["run_id"]: self.root / "bitstreams" / "smoke" / r["file"] for r in listed}

    def progress(self) -> dict[str, tuple[int, str]]:
        """Saved progress of the quantize stage: when each file was made, and its checksum."""
        folder = self.root / "work" / "quantize"
        return {
            str(path.relative_to(folder)): (path.stat().st_mtime_ns, checksum(path))
            for path in sorted(folder.glob("*/*"))
            if not path.name.startswith(".")
        }


def executed(output: str) -> list[str]:
    """The stages that a ``dvc repro`` ran."""
    start = "Running stage '"
    lines = [line for line in output.splitlines() if line.startswith(start)]
    return [line.removeprefix(start).split("'")[0].rpartition(":")[2] for line in lines]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def one_setting_of_each_method(settings: dict[str, Any]) -> None:
    """Both networks and seeds, every kind of sweep and every method of suite smoke."""
    for sweep in settings["quantize"]["tasks"]["mlp"]["sweeps"]:
        # Where a sweep lists several settings, the last of them, but for the grid's λ.
        for name in {"bits", "lam", "p", "qp", "sparsity"} & sweep.keys():
            if (sweep["sweep"], name) != ("grid", "lam"):
                sweep[name] = listed(sweep[name])[-1:]
    settings["report"]["comparison"]["tasks"]["mlp"]["trials"] = 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The copy after ``dvc repro`` of suite smoke, everything committed."""
    root = tmp_path_factory.mktemp("pipeline") / "repository"
    copy_work_tree(root)
    copy = Copy(root)
    copy.change_settings("smoke", one_setting_of_each_method)
    copy.commit()
    # One process a stage; the edits below have workers.
    copy = Copy(root, copy.run("dvc", "repro", PIPELINE, ECQX_PROCESSES="1"))
    # Besides its results the pipeline leaves no trace that git would see.
    changed = copy.git("status", "--porcelain", "--untracked-files=all").splitlines()
    lock = f"?? {SUITE / 'dvc.lock'}"
    assert [line for line in changed if line != lock and "results/smoke/" not in line] == []
    copy.commit()
    return copy


@pytest.fixture
def copy(finished: Copy, tmp_path: Path) -> Copy:
    """A copy of the finished one, to be changed."""
    shutil.copytree(finished.root, tmp_path / "repository", symlinks=True)
    return Copy(tmp_path / "repository")


# -- what ran --------------------------------------------------------------------------------------


def test_every_stage_ran_once(finished: Copy) -> None:
    assert executed(finished.output) == STAGES


def test_afterwards_nothing_is_left_to_do(finished: Copy) -> None:
    assert finished.stale() == set()
    assert finished.repro() == []
    assert finished.git("status", "--porcelain") == ""


def test_every_suite_dry_runs_without_data(finished: Copy) -> None:
    # Without --force DVC would read each stage's input, to look the stage up in its run cache.
    output = finished.run("dvc", "repro", "--dry", "--force", "--all-pipelines")
    with chdir(finished.root):
        names = suites.names()
    started = [line.split()[-2:] for line in output.splitlines() if line.startswith("> sh ")]
    assert len(names) > 5
    assert sorted(started, key=lambda pair: names.index(pair[1])) == [
        [stage, name] for name in names for stage in STAGES
    ]


def flattened(nested: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested tables by their dotted names."""
    found: dict[str, float] = {}
    for name, value in nested.items():
        inside = isinstance(value, dict)
        found |= flattened(value, f"{prefix}{name}.") if inside else {prefix + name: value}
    return found


def test_dvc_shows_the_results(finished: Copy) -> None:
    # The commit before the last had no results.
    changes = json.loads(finished.run("dvc", "metrics", "diff", "--json", "HEAD~1"))[str(SUMMARY)]
    assert all(change["old"] is None for change in changes.values())
    shown = {name: change["new"] for name, change in changes.items()}
    assert shown == flattened(finished.json(str(SUMMARY)))
    plots = json.loads(finished.run("dvc", "plots", "diff", "--json", "HEAD"))["data"]
    for name in ("sparsity", "size"):
        (plot,) = plots[f"{PIPELINE}::accuracy against {name}"]
        assert plot["revisions"] == ["workspace", "HEAD"]


def test_dvc_tells_of_a_regression_what_the_gate_does(copy: Copy) -> None:
    """Both compare with what is committed: the baseline, and the summary of means over seeds."""
    copy.run(sys.executable, "-m", "stages.baseline", "smoke")
    chosen = {"task": "mlp", "method": "ECQx", "bits": 4, "lam": 0.3, "sweep": "grid"}
    runs = copy.runs
    for run in runs:
        if all(run[key] == value for key, value in chosen.items()):
            run["accuracy"] -= 0.25
            run["bytes"] += 1000
    evaluated = copy.root / "results" / "smoke"
    (evaluated / "metrics.json").write_text(json.dumps(runs))
    (evaluated / "summary.json").write_text(json.dumps(_nested(_means(runs))))
    shown = json.loads(copy.run("dvc", "metrics", "diff", "--json"))
    told = {name: change["diff"] for name, change in shown[str(SUMMARY)].items()}
    assert told == {
        "mlp.ECQx.4bit.lam0.3.accuracy": pytest.approx(-0.25),
        "mlp.ECQx.4bit.lam0.3.bytes": pytest.approx(1000),
    }
    found = check(copy.root, "smoke").differences
    worse = [difference for difference in found if difference.kind is Kind.WORSE]
    assert {d.quantity for d in worse} == {"accuracy", "bytes"}
    for difference in worse:
        name = f"mlp.ECQx.4bit.lam0.3.{difference.quantity}"
        assert difference.difference == pytest.approx(told[name])
        assert "mlp ECQx 4 bit Λ 0.3" in difference.setting


def test_a_damaged_cache_entry_is_made_again(copy: Copy) -> None:
    data = Path("data") / "smoke" / "digits.safetensors"
    whole = (copy.root / data).read_bytes()
    entries = [
        path
        for path in (copy.root / ".dvc" / "cache").rglob("*")
        if path.is_file() and path.read_bytes() == whole
    ]
    assert len(entries) == 1
    entries[0].chmod(0o644)
    entries[0].write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(copy.root / "data")
    # Up to the stage that reads the data: what comes out is what came out before.
    copy.repro("pretrain")
    assert (copy.root / data).read_bytes() == whole
    assert copy.git("status", "--porcelain") == ""


# -- the runs --------------------------------------------------------------------------------------

COLUMNS = ("sweep", "method", "bits", "lam", "sparsity_band", "floats")


def expected_runs(settings: dict[str, Any]) -> Counter[tuple[Any, ...]]:
    """Task, seed, columns and own settings of every run that the settings ask for."""
    found: list[tuple[Any, ...]] = []
    default = settings["quantize"]["quantizer"]["p"]
    for task, seed in product(settings["tasks"], settings["seeds"]):
        for sweep in settings["quantize"]["tasks"][task]["sweeps"]:
            names = ("method", "bits", "lam", "p", "qp", "sparsity")
            choices = [listed(sweep.get(name)) for name in names]
            for method, bits, lam, p, qp, sparsity in product(*choices):
                band = None
                if method.endswith("x"):
                    paper = sweep.get("sparsity_band") == "[0, p]"
                    band = (0.0, p) if paper else (-default, 0.0)
                own = {"qp": qp, "sparsity": sparsity}
                floats = None if method in OTHER_FORMS else sweep.get("floats", "raw")
                columns = (method, bits or OWN_BITS.get(method), lam, band, floats)
                shown = json.dumps({k: v for k, v in own.items() if v is not None})
                found.append((task, seed, sweep["sweep"], *columns, shown))
    return Counter(found)


def test_the_runs_are_those_of_the_settings(finished: Copy) -> None:
    found = [
        (
            *(run["task"], run["seed"]),
            *(tuple(v) if isinstance(v, list) else v for v in (run[key] for key in COLUMNS)),
            json.dumps(run["settings"]),
        )
        for run in finished.runs
    ]
    assert Counter(found) == expected_runs(finished.settings)
    assert len({run["run_id"] for run in finished.runs}) == len(found)


def test_every_run_has_the_keys_of_the_contract(finished: Copy) -> None:
    for run in finished.runs:
        assert list(run) == KEYS
        relevance = [run[key] for key in ("alpha", "composite", "canonizer", "relevance_of")]
        assert all((value is None) != run["method"].endswith("x") for value in relevance)
        fit = finished.settings["quantize"]["tasks"][run["task"]]["fit"]
        assert run["epochs"] == fit["epochs"]
        assert run["steps"] == run["epochs"] * -(-run["train_samples"] // fit["batch_size"])
        assert (run["dataset"], run["metric"]) == ("digits (slice)", "top-1 accuracy")


def test_methods_start_alike_and_are_trained_for_as_long(finished: Copy) -> None:
    for _, group in groupby(finished.runs, lambda run: (run["task"], run["seed"])):
        own = list(group)
        for key in ("accuracy_start", "accuracy_fp32", "start", "epochs", "steps", "parameters"):
            assert len({run[key] for run in own}) == 1, key
        for run in own:
            with_relevance = run["method"].endswith("x") and run["lam"] > 0
            expected = 2 if with_relevance else 1
            assert run["cost"] == pytest.approx(expected, abs=0.5 if with_relevance else 0.01)


def test_a_setting_is_trained_once_whatever_sweeps_it_is_in(finished: Copy) -> None:
    """And once for all methods that compress after a training in full precision."""
    trainings: dict[str, set[str]] = {}
    for run_id, run in finished.planned.items():
        trainings.setdefault(run["training_id"], set()).add(run_id)
    files = {path.stem for path in (finished.root / "quantized" / "smoke").glob("*.safetensors")}
    assert files == set(trainings)
    together = [
        {(run["method"], run["sweep"]) for run in map(finished.planned.__getitem__, ids)}
        for ids in trainings.values()
    ]
    assert {("ECQx", "grid"), ("ECQx", "comparison")} in together
    untrained = {(method, "comparison") for method in OTHER_FORMS}
    assert {("fp32", "reference"), *untrained} in together


# -- the files -------------------------------------------------------------------------------------


def accuracy(copy: Copy, task: str, state: dict[str, Tensor], split: str) -> float:
    """Accuracy of a state_dict on a split, all samples in one batch."""
    data = load_file(copy.root / "data" / "smoke" / "digits.safetensors")
    model = build(**copy.settings["tasks"][task]["model"])
    model.load_state_dict(state)
    with torch.no_grad():
        chosen = model.eval()(data[f"{split}.inputs"]).argmax(1)
    return int((chosen == data[f"{split}.targets"]).sum()) / len(chosen)


def network(path: Path) -> dict[str, Tensor]:
    """A network in full precision, from its safetensors file."""
    return {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}


def entropy(integers: list[Tensor]) -> float:
    """First-order entropy of each tensor, in bits per weight, averaged over all weights."""
    bits = 0.0
    for tensor in integers:
        share = tensor.unique(return_counts=True)[1].double() / tensor.numel()
        bits -= float((share * share.log2()).sum()) * tensor.numel()
    return bits / sum(tensor.numel() for tensor in integers)


def state_of(copy: Copy, run: dict[str, Any]) -> dict[str, Tensor]:
    """What is read from the file of a run."""
    planned = copy.planned[run["run_id"]]
    return build_form(planned["form"], planned["form_settings"]).read(copy.files[run["run_id"]])


def test_metrics_are_those_of_the_decoded_files(finished: Copy) -> None:
    for run in finished.runs:
        state, path = state_of(finished, run), finished.files[run["run_id"]]
        assert run["accuracy"] == accuracy(finished, run["task"], state, "test")
        assert run["accuracy_validation"] == accuracy(finished, run["task"], state, "validation")
        assert run["bytes"] == path.stat().st_size
        parts = [run["bytes_integers"], run["bytes_other"]]
        assert parts == [None, None] if path.suffix != ".ecqx" else sum(parts) == run["bytes"]
        weights = [tensor for tensor in state.values() if tensor.ndim > 1]
        elements = sum(tensor.numel() for tensor in weights)
        zeros = sum(int((tensor == 0).sum()) for tensor in weights)
        assert run["sparsity"] == pytest.approx(zeros / elements, abs=1e-12)
        assert run["sparsity"] >= run["settings"].get("sparsity", 0) - 1e-3
        assert run["entropy_bits_per_weight"] == pytest.approx(entropy(weights), abs=1e-9)
        floats = sum(t.numel() for t in state.values() if t.is_floating_point())
        assert run["parameters"] == floats
        assert run["compression_ratio"] == pytest.approx(4 * floats / run["bytes"])
        if run["bits"] is not None:
            assert all(len(tensor.unique()) <= 2 ** run["bits"] for tensor in weights)


def test_references_are_the_start_and_its_further_training(finished: Copy) -> None:
    further = {
        (record["task"], record["seed"]): record
        for record in finished.planned.values()
        if record["method"] == "fp32"
    }
    for run in {(r["task"], r["seed"]): r for r in finished.runs}.values():
        task, seed = run["task"], run["seed"]
        start = network(finished.root / "checkpoints" / "smoke" / f"{task}-{seed}.safetensors")
        record = further[task, seed]
        path = Path("quantized") / "smoke" / f"{record['training_id']}.safetensors"
        end = network(finished.root / path)
        assert run["accuracy_start"] == accuracy(finished, task, start, "test")
        assert run["accuracy_fp32"] == accuracy(finished, task, end, "test")
        assert run["accuracy_fp32_validation"] == accuracy(finished, task, end, "validation")
        assert record["epochs"] == run["epochs"]
        assert any(not torch.equal(start[name], end[name]) for name in start)


def test_files_are_those_of_the_runs(finished: Copy) -> None:
    assert set(finished.files) == {run["run_id"] for run in finished.runs}
    folder = finished.root / "bitstreams" / "smoke"
    assert {*finished.files.values(), folder / "files.json"} == set(folder.iterdir())


def test_the_samples_that_are_classified_correctly_give_the_accuracies(finished: Copy) -> None:
    correct = read_correct(finished.root / "results" / "smoke" / "correct.safetensors")
    for run in finished.runs:
        task, seed = run["task"], run["seed"]
        assert correct[f"{task}/{run['run_id']}"].mean() == run["accuracy"]
        assert correct[f"{task}/trained/{seed}"].mean() == run["accuracy_fp32"]
        assert correct[f"{task}/start/{seed}"].mean() == run["accuracy_start"]
    assert len({len(bits) for name, bits in correct.items() if name.startswith("mlp/")}) == 1


def test_exhibits_show_the_start_and_the_decoded_file(finished: Copy) -> None:
    results = finished.root / "results" / "smoke"
    found = load_file(results / "relevance.safetensors")
    (run,) = [
        r
        for r in finished.runs
        if (r["task"], r["method"], r["sweep"], r["bits"], r["lam"], r["seed"])
        == ("mlp", "ECQx", "grid", 4, 0.3, 0)
    ]
    start = network(finished.root / "checkpoints" / "smoke" / "mlp-0.safetensors")
    decoded = load(finished.files[run["run_id"]])
    layers = [key.split("/")[1] for key in found if key.endswith("/decoded weight")]
    assert len(layers) == 2
    for layer in layers:
        assert torch.equal(found[f"mlp/{layer}/weight"], start[layer])
        assert torch.equal(found[f"mlp/{layer}/decoded weight"], decoded[layer])
        relevance = found[f"mlp/{layer}/decoded relevance"]
        assert relevance.any()
        assert not torch.equal(relevance, found[f"mlp/{layer}/relevance"])
    shown = load_file(results / "samples.safetensors")
    assert len(shown["mlp/label"].unique()) == len(shown["mlp/label"]) > 1
    assert shown["mlp/relevance decoded"].shape == shown["mlp/input"].shape
    # No run of ResNet20 has the settings whose layers are shown.
    assert "resnet20/relevance full precision" in shown
    assert "resnet20/relevance decoded" not in shown


# -- the results -----------------------------------------------------------------------------------


SUMMARIZED = ("task", "method", "bits", "lam")


def test_the_summary_holds_means_over_seeds(finished: Copy) -> None:
    summary = finished.json("results/smoke/summary.json")
    summarized = [run for run in finished.runs if run["sweep"] in ("grid", "trained")]
    settings = {(r["task"], r["method"], r["bits"], r["lam"]) for r in summarized}
    found = {
        (task, method, int(bits.removesuffix("bit")), float(lam.removeprefix("lam")))
        for task, methods in summary.items()
        for method, widths in methods.items()
        for bits, lams in widths.items()
        for lam in lams
    }
    assert found == settings
    for task, method, bits, lam in settings:
        runs = [
            r for r in summarized if (task, method, bits, lam) == tuple(r[k] for k in SUMMARIZED)
        ]
        assert len(runs) == len(finished.settings["seeds"])
        numbers = summary[task][method][f"{bits}bit"][f"lam{lam:g}"]
        assert {"accuracy", "accuracy_fp32", "sparsity", "bytes", "compression_ratio"} <= set(
            numbers
        )
        for name, value in numbers.items():
            assert value == pytest.approx(fmean(run[name] for run in runs))


def test_trained_centroids_have_files_and_a_table_of_their_own(finished: Copy) -> None:
    trained = [run for run in finished.runs if run["sweep"] == "trained"]
    assert {run["method"] for run in trained} == {"EC2T", "FantastIC4x"}
    for run in trained:
        assert finished.files[run["run_id"]].read_bytes()[4] == 2  # the format's version
    tables = finished.root / "results" / "smoke" / "tables"
    with (tables / "trained_centroids.csv").open() as file:
        rows = list(csv.DictReader(file))
    beside = [run for run in finished.runs if (run["task"], run["sweep"]) == ("mlp", "grid")]
    assert {(row["method"], row["bits"], row["lambda"]) for row in rows} == {
        (run["method"], str(run["bits"]), f"{run['lam']:g}") for run in [*beside, *trained]
    }
    for row in rows:
        own = [
            run["accuracy"]
            for run in [*beside, *trained]
            if (run["method"], str(run["bits"]), f"{run['lam']:g}")
            == (row["method"], row["bits"], row["lambda"])
        ]
        assert float(row["accuracy_percent"]) == pytest.approx(100 * fmean(own), abs=0.0051)


def test_results_are_there(finished: Copy) -> None:
    results = finished.root / "results" / "smoke"
    found = {path.suffix for path in (results / "tables").iterdir()}
    assert found == {".md", ".csv", ".tex"}
    assert {path.suffix for path in (results / "figures").iterdir()} == {".pdf", ".png", ".svg"}
    for path in results.rglob("*"):
        assert path.is_dir() or path.stat().st_size > 0
    assert "<html" in (results / "report.html").read_text()
    assert (results / "claims.md").read_text().startswith("#")


def test_all_methods_are_compared(finished: Copy) -> None:
    results = finished.root / "results" / "smoke"
    compared = {run["method"] for run in finished.runs if run["sweep"] == "comparison"}
    table = (results / "tables" / "comparison.md").read_text()
    assert all(f"| {method} " in table for method in compared)
    assert "MLP_GSC topology: ECQx" in (results / "claims.md").read_text()


# -- edits -----------------------------------------------------------------------------------------


def another_lambda(settings: dict[str, Any]) -> None:
    settings["quantize"]["tasks"]["mlp"]["sweeps"][0]["lam"] = [0.15, 0.3]


def fewer_samples(settings: dict[str, Any]) -> None:
    settings["data"]["sets"]["digits"][0]["limit"] = 100


def another_title(settings: dict[str, Any]) -> None:
    settings["report"]["titles"]["mlp"] = "Another"


def test_edits_train_their_own_runs_alone(finished: Copy, copy: Copy) -> None:
    """Another Λ in the settings, another line in the code of one method, other words elsewhere."""
    before = copy.progress()
    assert before == finished.progress()
    copy.change_settings("smoke", another_lambda)
    copy.edit("ecqx/methods/pruning.py", "RAMP = 0.5", "RAMP = 0.25")
    copy.edit("ecqx/data/tensors.py", "Iterate over inputs", "Yield each batch;")
    assert copy.repro("quantize") == ["fingerprint", "quantize"]
    after = copy.progress()
    assert {name: after[name] for name in before} == before
    new = {
        run["training_id"]
        for run in copy.planned.values()
        if run["lam"] == 0.15 or run["method"] == "pruning"
    }
    # Of each training its record and its network.
    assert len(after) - len(before) == 2 * len(new) > 0
    for path in (copy.root / "quantized" / "smoke").glob("*.safetensors"):
        former = finished.root / path.relative_to(copy.root)
        assert path.stem in new or checksum(path) == checksum(former)


def test_finished_trainings_start_no_process(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(jobs, "Parallel", start)
    monkeypatch.chdir(copy.root)
    before = copy.progress()
    assert quantize.main(["smoke"]) == 0
    assert copy.progress() == before


def test_edits_make_stale_what_they_can_change_and_nothing_else(copy: Copy) -> None:
    copy.edit("ecqx/data/tensors.py", "Iterate over inputs", "Yield each batch;")
    copy.change_settings("smoke", another_title)
    assert copy.changed() == {"fingerprint", "report"}
    assert copy.stale() == {"report"}
    copy.edit("ecqx/data/tensors.py", "2 * padding + 1", "2 * padding")
    assert copy.stale() == {"download", "pretrain", "quantize", "evaluate", "report"}


def test_two_suites_at_once(copy: Copy) -> None:
    """One of them hashes a large output while it has DVC's lock.

    `make verify` runs all stages of both at once, and has gigabytes.
    """
    copy.change_settings("smoke", fewer_samples)
    write_settings(copy.root, copy.settings | {"suite": "embedded"})
    copy.add_large_output(200 << 20)
    before = copy.params_files()
    repro, first = ("dvc", "--wait-for-lock", "repro"), f"{PIPELINE}:fingerprint"
    default, smoke = copy.at_once([*repro, "large", "fingerprint"], [*repro, first])
    assert default.returncode == smoke.returncode == 0, default.stderr + smoke.stderr
    assert set(executed(default.stdout)) == {"fingerprint", "large"}
    assert executed(smoke.stdout) == ["fingerprint"]
    assert copy.params_files() == before
    stale = json.loads(copy.run("dvc", "status", "--json", "large", "fingerprint", first))
    assert stale == {}
