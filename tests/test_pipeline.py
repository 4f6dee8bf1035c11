"""The whole pipeline on suite smoke, once, in a copy of the work tree. Slow: about a minute.

What its outputs say is compared with the files themselves, read without the stages' code.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ecqx.coding.bitstream import load
from ecqx.models import build
from stages.check import check
from stages.evaluate import _means, _nested

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.prefix) / "bin"
SUMMARY = Path("results") / "smoke" / "summary.json"
STAGES = [
    *("download", "pretrain", "quantize", "encode", "evaluate", "report"),
    *("compare", "verdict"),
]

# What the contract names, and what this suite adds: the sweep and variant a run belongs to, counted
# work, and what `make check` compares.
CONTRACT = [
    *("run_id", "task", "dataset", "model", "method", "bits", "lam", "p", "sparsity_band", "alpha"),
    *("gradient", "composite", "canonizer", "weight_rule", "lrp_output", "relevance_of", "pmf"),
    *("lambda_max", "seed", "epochs", "metric", "accuracy_start", "accuracy_fp32"),
    *("accuracy_validation", "accuracy", "sparsity", "bytes", "compression_ratio"),
    "entropy_bits_per_weight",
]
ADDED = [
    *("sweep", "variant", "steps", "train_samples", "parameters", "data_checksum", "start"),
    *("bytes_integers", "bytes_other", "batch_size", "other_metrics"),
    *("relevance_every", "relevance_samples"),
]
TRAINED_BITS = {"EC2T": 2, "FantastIC4": 4}

pytestmark = [
    pytest.mark.skipif(not (PROGRAMS / "dvc").exists(), reason="dvc is not installed"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no git repository"),
]


@dataclass(frozen=True)
class Copy:
    """A copy of the work tree, and what the pipeline printed there."""

    root: Path
    output: str = ""

    def run(self, *command: str) -> str:
        """Run a command there; what it printed."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ECQX_", "GIT_"))}
        environment |= {
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", os.defpath)]),
            # The copy's own package, not the one that the environment has installed.
            "PYTHONPATH": str(self.root),
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc" / "tmp" / "site"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=test", "-c", "user.email=test@test", *arguments)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    @property
    def settings(self) -> dict[str, Any]:
        """Suite smoke of params.yaml."""
        params: dict[str, Any] = yaml.safe_load((self.root / "params.yaml").read_text())
        return params["suites"]["smoke"]  # type: ignore[no-any-return]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The metrics of all runs."""
        return self.json("results/smoke/metrics.json")  # type: ignore[no-any-return]

    def progress(self) -> dict[str, tuple[int, str]]:
        """Saved progress of the quantize stage: when each file was made, and its checksum."""
        folder = self.root / "work" / "quantize"
        return {
            str(path.relative_to(folder)): (path.stat().st_mtime_ns, checksum(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def checksum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def executed(output: str) -> list[str]:
    """The stages that a ``dvc repro`` ran."""
    start = "Running stage '"
    lines = [line for line in output.splitlines() if line.startswith(start)]
    return [line.removeprefix(start).split("@")[0] for line in lines]


def copy_work_tree(root: Path) -> None:
    """The work tree's files, committed or not, without results, as a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, root / name
        if name != "dvc.lock" and not name.startswith("results/") and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    # Loops that are compiled already, which takes seconds and is no part of what is tested.
    kept = Path("ecqx/__pycache__")
    (root / kept).mkdir()
    for source in (REPOSITORY / kept).glob("*.nb?"):
        shutil.copy2(source, root / kept / source.name)
    (root / ".venv").symlink_to(sys.prefix)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The copy after ``dvc repro`` of suite smoke, everything committed."""
    root = tmp_path_factory.mktemp("pipeline") / "repository"
    root.mkdir()
    copy_work_tree(root)
    params = root / "params.yaml"
    params.write_text(re.sub(r"(?m)^suite: .*$", "suite: smoke", params.read_text(), count=1))
    copy = Copy(root)
    copy.git("init", "--quiet")
    copy.commit()
    output = copy.run("dvc", "repro")
    copy = Copy(root, output)
    # Besides its results the pipeline leaves no trace that git would see.
    changed = copy.git("status", "--porcelain", "--untracked-files=all").splitlines()
    assert [
        line for line in changed if line != "?? dvc.lock" and "results/smoke/" not in line
    ] == []
    copy.commit()
    return copy


# -- the other suites ------------------------------------------------------------------------------

SUITES = list(yaml.safe_load((REPOSITORY / "params.yaml").read_text())["suites"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy without any data or result."""
    root = tmp_path_factory.mktemp("bare") / "repository"
    root.mkdir()
    copy_work_tree(root)
    copy = Copy(root)
    copy.git("init", "--quiet")
    copy.commit()
    return copy


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_dry_runs_without_data(bare: Copy, suite: str) -> None:
    # Without --force DVC would read each stage's input, to look the stage up in its run cache.
    command = ("dvc", "repro", "--dry", "--force")
    output = bare.run(sys.executable, "-m", "stages.suite", suite, "--", *command)
    assert executed(output) == STAGES
    assert all(f"sh stages/run {stage} {suite}\n" in output for stage in STAGES)
    assert bare.git("status", "--porcelain") == ""


# -- what ran --------------------------------------------------------------------------------------


def test_every_stage_ran_once(finished: Copy) -> None:
    assert executed(finished.output) == STAGES


def test_afterwards_nothing_is_left_to_do(finished: Copy) -> None:
    assert json.loads(finished.run("dvc", "status", "--json")) == {}
    assert executed(finished.run("dvc", "repro")) == []
    assert finished.git("status", "--porcelain") == ""


def test_dvc_shows_the_metrics(finished: Copy) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json"))
    assert shown[""]["data"]["results/smoke/summary.json"]["data"] == finished.json(
        "results/smoke/summary.json"
    )


def test_dvc_tells_of_a_regression_what_the_gate_does(finished: Copy, tmp_path: Path) -> None:
    """Both compare with what is committed: the baseline, and the summary of means over seeds."""
    copy = Copy(tmp_path / "repository")
    shutil.copytree(finished.root, copy.root, symlinks=True)
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
    worse = [difference for difference in found if difference.kind == "worse"]
    assert {d.quantity for d in worse} == {"accuracy", "bytes"}
    for difference in worse:
        name = f"mlp.ECQx.4bit.lam0.3.{difference.quantity}"
        assert difference.difference == pytest.approx(told[name])
        assert "mlp ECQx 4 bit Λ 0.3" in difference.setting


def test_a_damaged_cache_entry_is_made_again(finished: Copy, tmp_path: Path) -> None:
    copy = Copy(tmp_path / "repository")
    shutil.copytree(finished.root, copy.root, symlinks=True)
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
    copy.run("dvc", "repro", "pretrain@smoke")
    assert (copy.root / data).read_bytes() == whole
    assert copy.git("status", "--porcelain") == ""


# -- the runs --------------------------------------------------------------------------------------


def expected_runs(settings: dict[str, Any]) -> Counter[tuple[Any, ...]]:
    """Task, seed, method, bits, Λ and band of every quantized run that the settings ask for."""
    found = []
    p = settings["quantize"]["quantizer"]["p"]
    for task, sweep in settings["quantize"]["tasks"].items():
        for seed, bits, lam in product(settings["seeds"], sweep["bits"], sweep["lam"]):
            found.append((task, seed, "ECQ", bits, lam, None))
            found.append((task, seed, "ECQx", bits, lam, (-p, 0.0)))
        if swept := sweep.get("p_sweep"):
            for seed, width, lam in product(settings["seeds"], swept["p"], swept["lam"]):
                found.append((task, seed, "ECQx", swept["bits"], lam, (0.0, width)))
        for trained in sweep.get("trained", []):
            method = trained["method"]
            bits, band = TRAINED_BITS[method.removesuffix("x")], (-p, 0.0)
            for seed, lam in product(settings["seeds"], trained["lam"]):
                shown = (task, seed, method, bits, lam, band if method.endswith("x") else None)
                found.append(shown)
    return Counter(found)


def test_the_runs_are_those_of_the_settings(finished: Copy) -> None:
    found = [
        (
            *(run[key] for key in ("task", "seed", "method", "bits", "lam")),
            run["sparsity_band"] and tuple(run["sparsity_band"]),
        )
        for run in finished.runs
    ]
    assert Counter(found) == expected_runs(finished.settings)
    assert len({run["run_id"] for run in finished.runs}) == len(found)


def test_every_run_has_the_keys_of_the_contract(finished: Copy) -> None:
    for run in finished.runs:
        assert set(run) == {*CONTRACT, *ADDED}
        relevance = [run[key] for key in ("alpha", "composite", "canonizer", "relevance_of")]
        assert all((value is None) != run["method"].endswith("x") for value in relevance)
        sweep = finished.settings["quantize"]["tasks"][run["task"]]
        assert run["epochs"] == sweep["fit"]["epochs"]
        batches = -(-run["train_samples"] // sweep["fit"]["batch_size"])
        assert run["steps"] == run["epochs"] * batches
        assert (run["dataset"], run["metric"]) == ("digits (slice)", "top-1 accuracy")


# -- the files -------------------------------------------------------------------------------------


def accuracy(copy: Copy, task: str, state: dict[str, Tensor], split: str) -> float:
    """Accuracy of a state_dict on a split, all samples in one batch."""
    data = load_file(copy.root / "data" / "smoke" / "digits.safetensors")
    model = build(**copy.settings["tasks"][task]["model"])
    model.load_state_dict(state)
    with torch.no_grad():
        chosen = model.eval()(data[f"{split}.inputs"]).argmax(1)
    return int((chosen == data[f"{split}.targets"]).sum()) / len(chosen)


def entropy(integers: list[Tensor]) -> float:
    """First-order entropy of each tensor, in bits per weight, averaged over all weights."""
    bits = 0.0
    for tensor in integers:
        share = tensor.unique(return_counts=True)[1].double() / tensor.numel()
        bits -= float((share * share.log2()).sum()) * tensor.numel()
    return bits / sum(tensor.numel() for tensor in integers)


def test_metrics_are_those_of_the_decoded_files(finished: Copy) -> None:
    for run in finished.runs:
        path = finished.root / "bitstreams" / "smoke" / f"{run['run_id']}.ecqx"
        state = load(path)
        assert run["accuracy"] == accuracy(finished, run["task"], state, "test")
        assert run["accuracy_validation"] == accuracy(finished, run["task"], state, "validation")
        assert run["bytes"] == path.stat().st_size == run["bytes_integers"] + run["bytes_other"]
        weights = [tensor for tensor in state.values() if tensor.ndim > 1]
        elements = sum(tensor.numel() for tensor in weights)
        zeros = sum(int((tensor == 0).sum()) for tensor in weights)
        assert run["sparsity"] == pytest.approx(zeros / elements, abs=1e-12)
        assert run["entropy_bits_per_weight"] == pytest.approx(entropy(weights), abs=1e-9)
        floats = sum(t.numel() for t in state.values() if t.is_floating_point())
        assert run["parameters"] == floats
        assert run["compression_ratio"] == pytest.approx(4 * floats / run["bytes"])
        assert all(len(tensor.unique()) <= 2 ** run["bits"] for tensor in weights)


def test_references_are_the_start_and_its_further_training(finished: Copy) -> None:
    further = {
        (record["task"], record["seed"]): record
        for record in finished.json("quantized/smoke/runs.json")
        if record["method"] == "fp32"
    }
    for run in {(r["task"], r["seed"]): r for r in finished.runs}.values():
        task, seed = run["task"], run["seed"]
        start = load_file(finished.root / "checkpoints" / "smoke" / f"{task}-{seed}.safetensors")
        record = further[task, seed]
        end = load_file(finished.root / "quantized" / "smoke" / f"{record['run_id']}.safetensors")
        assert run["accuracy_start"] == accuracy(finished, task, start, "test")
        assert run["accuracy_fp32"] == accuracy(finished, task, end, "test")
        assert len(record["history"]) == run["epochs"]
        assert any(not torch.equal(start[name], end[name]) for name in start)


def test_files_are_those_of_the_runs(finished: Copy) -> None:
    names = {run["run_id"] for run in finished.runs}
    folder = finished.root / "bitstreams" / "smoke"
    assert {path.stem for path in folder.glob("*.ecqx")} == names
    records = finished.json("bitstreams/smoke/files.json")
    assert {record["run_id"] for record in records} == names
    for record in records:
        assert record["checksum"] == checksum(folder / f"{record['run_id']}.ecqx")


def test_exhibits_show_the_start_and_the_decoded_file(finished: Copy) -> None:
    found = load_file(finished.root / "relevance" / "smoke.safetensors")
    (run,) = [
        r
        for r in finished.runs
        if (r["task"], r["method"], r["sweep"], r["bits"], r["lam"], r["seed"])
        == ("mlp", "ECQx", "grid", 4, 0.3, 0)
    ]
    start = load_file(finished.root / "checkpoints" / "smoke" / "mlp-0.safetensors")
    decoded = load(finished.root / "bitstreams" / "smoke" / f"{run['run_id']}.ecqx")
    layers = [key.split("/")[1] for key in found if key.endswith("/decoded weight")]
    assert len(layers) == 2
    for layer in layers:
        assert torch.equal(found[f"mlp/{layer}/weight"], start[layer])
        assert torch.equal(found[f"mlp/{layer}/decoded weight"], decoded[layer])
        relevance = found[f"mlp/{layer}/decoded relevance"]
        assert relevance.any()
        assert not torch.equal(relevance, found[f"mlp/{layer}/relevance"])
    shown = load_file(finished.root / "samples" / "smoke.safetensors")
    assert len(shown["mlp/label"].unique()) == len(shown["mlp/label"]) > 1
    assert shown["mlp/relevance decoded"].shape == shown["mlp/input"].shape
    # No run of ResNet20 has the settings whose layers are shown.
    assert "resnet20/relevance full precision" in shown
    assert "resnet20/relevance decoded" not in shown


# -- the results -----------------------------------------------------------------------------------


KEYS = ("task", "method", "bits", "lam")


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
        runs = [r for r in summarized if (task, method, bits, lam) == tuple(r[k] for k in KEYS)]
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
    for run in finished.runs:
        data = (finished.root / "bitstreams" / "smoke" / f"{run['run_id']}.ecqx").read_bytes()
        assert data[4] == (2 if run in trained else 1)  # the format's version
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
    for other in tables.glob("*.csv"):
        named = {run["method"] for run in trained if run["method"] in other.read_text()}
        assert not named or other.stem in ("trained_centroids", "settings")


def test_results_are_there(finished: Copy) -> None:
    results = finished.root / "results" / "smoke"
    found = {path.suffix for path in (results / "tables").iterdir()}
    assert found == {".md", ".csv", ".tex"}
    assert {path.suffix for path in (results / "figures").iterdir()} == {".png", ".svg"}
    for path in results.rglob("*"):
        assert path.is_dir() or path.stat().st_size > 0
    assert "<html" in (results / "report.html").read_text()
    assert (results / "claims.md").read_text().startswith("#")


# -- another setting -------------------------------------------------------------------------------


def test_a_changed_lambda_trains_its_own_runs_alone(finished: Copy, tmp_path: Path) -> None:
    copy = Copy(tmp_path / "repository")
    shutil.copytree(finished.root, copy.root, symlinks=True)
    before, old_runs = copy.progress(), copy.json("quantized/smoke/runs.json")
    assert before == finished.progress()
    params = yaml.safe_load((copy.root / "params.yaml").read_text())
    params["suites"]["smoke"]["quantize"]["tasks"]["mlp"]["lam"] = [0.1, 0.3]
    (copy.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert executed(copy.run("dvc", "repro", "quantize@smoke")) == ["quantize"]
    after, new_runs = copy.progress(), copy.json("quantized/smoke/runs.json")
    assert {name: after[name] for name in before} == before
    # Two bit widths, two methods, two seeds.
    assert len({name.split("/")[0] for name in after.keys() - before.keys()}) == 8
    same = [new["run_id"] == old["run_id"] for new, old in zip(new_runs, old_runs, strict=True)]
    assert same == [(run["task"], run["lam"]) != ("mlp", 0.0) for run in old_runs]
    for run in new_runs:
        path = Path("quantized") / "smoke" / f"{run['run_id']}.safetensors"
        if (finished.root / path).exists():
            assert checksum(copy.root / path) == checksum(finished.root / path)
        else:
            assert run["lam"] == 0.1
