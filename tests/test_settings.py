"""params.yaml: what it holds is valid, and what is wrong gets one line, exit code 2, no output."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from ecqx import models
from stages import download, pretrain, quantize, settings
from stages.command import run_command_line
from stages.runs import all_runs, run_id

REPOSITORY = Path(__file__).resolve().parents[1]
PARAMS: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
SUITES = sorted(PARAMS["suites"])
MISSING = object()
QUANTIZER, RELEVANCE, MLP = "quantize.quantizer", "quantize.relevance", "quantize.tasks.mlp"


def ablation(**variant: object) -> dict[str, object]:
    """An ablation with one variant."""
    return {"bits": 4, "lam": [0.3], "variants": {"a variant": variant}}


def digits(**replaced: object) -> list[dict[str, object]]:
    """The digits as a suite's data, with some of their settings replaced."""
    return [{"name": "digits", "seed": 0} | replaced]


TRAINED_BITS = {"EC2T": 2, "EC2Tx": 2, "FantastIC4": 4, "FantastIC4x": 4}

Refused = Callable[..., str]


def changed(setting: str, value: object) -> str:
    """The text of params.yaml with one setting of suite smoke replaced, added or taken out."""
    params = copy.deepcopy(PARAMS)
    *parents, last = setting.split(".")
    section = params["suites"]["smoke"]
    for name in parents:
        section = section[name]
    if value is MISSING:
        del section[last]
    else:
        section[last] = value
    return yaml.safe_dump(params, sort_keys=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Refused:
    """Run stages on a params.yaml that they must refuse; the one line on stderr."""

    def run(params: str | bytes, suite: str = "smoke", *stages: ModuleType) -> str:
        content = params.encode() if isinstance(params, str) else params
        (folder / "params.yaml").write_bytes(content)
        lines = set()
        for stage in stages or (download, pretrain, quantize):
            monkeypatch.setattr(sys, "argv", [stage.__name__, suite])
            assert run_command_line(stage.main) == 2
            out, error = capfd.readouterr()
            assert out == ""
            assert error.endswith("\n")
            assert error.count("\n") == 1
            lines.add(error)
        assert list(folder.iterdir()) == [folder / "params.yaml"]
        assert (folder / "params.yaml").read_bytes() == content
        assert len(lines) == 1  # every stage says the same
        return lines.pop()

    return run


# -- the file of this repository -------------------------------------------------------------------


def test_the_chosen_suite_is_one_of_the_file() -> None:
    assert PARAMS["suite"] in SUITES
    assert {"smoke", "embedded"} <= set(SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_suites_are_valid_and_name_existing_networks(suite: str) -> None:
    loaded = settings.load(suite, REPOSITORY / "params.yaml")
    for name, task in loaded.tasks.items():
        assert name not in ("", ".", "..")
        assert "/" not in name
        with torch.device("meta"):
            models.build(**task.model)


@pytest.mark.parametrize("suite", SUITES)
def test_runs_are_those_of_the_settings(suite: str) -> None:
    wanted = PARAMS["suites"][suite]
    expected = []
    for task, sweep in wanted["quantize"]["tasks"].items():
        for seed in wanted["seeds"]:
            expected.append((task, seed, "fp32", None, None, None, None))
            expected += [
                (task, seed, method, bits, lam, None, None)
                for bits in sweep["bits"]
                for lam in sweep["lam"]
                for method in ("ECQ", "ECQx")
            ]
            if sweep.get("p_sweep"):
                expected += [
                    (task, seed, "ECQx", sweep["p_sweep"]["bits"], lam, p, None)
                    for p in sweep["p_sweep"]["p"]
                    for lam in sweep["p_sweep"]["lam"]
                ]
            if sweep.get("ablation"):
                expected += [
                    (task, seed, "ECQx", sweep["ablation"]["bits"], lam, None, variant)
                    for variant in sweep["ablation"]["variants"]
                    for lam in sweep["ablation"]["lam"]
                ]
            expected += [
                (task, seed, trained["method"], TRAINED_BITS[trained["method"]], lam, None, None)
                for trained in sweep.get("trained", ())
                for lam in trained["lam"]
            ]
    loaded = settings.load(suite, REPOSITORY / "params.yaml")
    runs = all_runs(loaded)
    assert [
        (*(r.task, r.seed, r.method, r.bits, r.lam), r.p if r.sweep == "p" else None, r.variant)
        for r in runs
    ] == expected
    assert all(r.sparsity_band == (0, r.p) for r in runs if r.sweep == "p")
    assert all((r.relevance is not None) == r.method.endswith("x") for r in runs)
    assert len({run_id(run, loaded) for run in runs}) == len(runs)


def test_a_variant_replaces_one_setting(folder: Path) -> None:
    variants = {"other rule": {"of": "quantized"}, "band": {"sparsity_band": [0.0, 0.1]}}
    Path("params.yaml").write_text(
        changed(f"{MLP}.ablation", {"bits": 4, "lam": [0.3], "variants": variants})
    )
    runs = [run for run in all_runs(settings.load("smoke")) if run.task == "mlp" and not run.seed]
    plain = next(r for r in runs if (r.sweep, r.method, r.bits, r.lam) == ("grid", "ECQx", 4, 0.3))
    rule, band = (r for r in runs if r.sweep == "ablation")
    assert plain.relevance is not None
    assert rule.relevance == replace(plain.relevance, of="quantized")
    assert (rule.quantizer, rule.sparsity_band) == (plain.quantizer, (-0.1, 0.0))
    assert (band.relevance, band.sparsity_band) == (plain.relevance, (0.0, 0.1))


def test_the_shown_layers_are_those_of_a_run() -> None:
    for suite in SUITES:
        loaded = settings.load(suite, REPOSITORY / "params.yaml")
        shown = loaded.report.layers
        assert any(
            (r.sweep, r.bits, r.lam, r.seed) == ("grid", shown.bits, shown.lam, shown.seed)
            for r in all_runs(loaded)
        )


def test_what_a_run_is_called_depends_on_its_settings(folder: Path) -> None:
    def names(text: str) -> list[str]:
        Path("params.yaml").write_text(text)
        loaded = settings.load("smoke")
        return [run_id(run, loaded) for run in all_runs(loaded)]

    first = names(yaml.safe_dump(PARAMS, sort_keys=False))
    assert names(yaml.safe_dump(PARAMS, sort_keys=False)) == first
    assert names(changed("report.layers.seed", 1)) == first
    other = names(changed("quantize.tasks.mlp.lam", [0.0, 0.31]))
    runs = all_runs(settings.load("smoke"))
    assert [a != b for a, b in zip(first, other, strict=True)] == [run.lam == 0.31 for run in runs]
    assert not set(names(changed("data.digits", digits(seed=1)))) >= set(first)
    assert not set(names(changed("quantize.quantizer.gradient", "identity"))) >= set(first)


def test_values_keep_their_types(folder: Path) -> None:
    Path("params.yaml").write_text(changed("quantize.tasks.mlp.lam", [0, 1, 0.5]))
    loaded = settings.load("smoke")
    assert loaded.quantize.tasks["mlp"].lam == [0.0, 1.0, 0.5]
    # A whole number stands for the same run as the fraction.
    assert all(isinstance(lam, float) for lam in loaded.quantize.tasks["mlp"].lam)


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [
        # Unknown names.
        ("colour", 3, "suites.smoke.colour: Extra inputs are not permitted"),
        ("data.digits", digits(sed=0), "data.digits.0.digits.sed: Extra"),
        ("pretrain.mlp.learning_rate", 0.1, "pretrain.mlp.learning_rate: Extra"),
        (f"{QUANTIZER}.lamda_max", "derived", "quantizer.lamda_max: Extra"),
        (f"{MLP}.fit.batchsize", 3, "mlp.fit.batchsize: Extra"),
        # Wrong types.
        ("seeds", 3, "suites.smoke.seeds: Input should be a valid list"),
        ("seeds", ["a"], "suites.smoke.seeds.0: Input should be a valid integer"),
        ("data.digits", digits(seed=1.5), "digits.seed: Input should be a valid integer"),
        ("pretrain.mlp.lr", "fast", "pretrain.mlp.lr: Input should be a valid number"),
        ("pretrain.mlp.epochs", "3", "pretrain.mlp.epochs: Input should be a valid integer"),
        (f"{MLP}.lam", 0.3, "mlp.lam: Input should be a valid list"),
        (f"{MLP}.bits", [True], "mlp.bits.0: Input should be a valid integer"),
        (f"{RELEVANCE}.restart", "yes", "relevance.restart: Input should be a valid boolean"),
        (f"{QUANTIZER}.exclude", "bn", "quantizer.exclude: Input should be a valid list"),
        ("tasks.mlp", "mlp_gsc", "tasks.mlp: Input should be a valid dictionary"),
        # Out of range.
        (f"{MLP}.lam", [0.1, -0.1], "mlp.lam.1: Input should be greater than or equal to 0"),
        (f"{MLP}.lam", [float("inf")], "mlp.lam.0: Input should be a finite number"),
        (f"{MLP}.lam", [float("nan")], "mlp.lam.0: Input should be"),
        (f"{MLP}.bits", [1], "mlp.bits.0: Input should be greater than or equal to 2"),
        (f"{MLP}.bits", [4, 9], "mlp.bits.1: Input should be less than or equal to 8"),
        (f"{MLP}.p_sweep.p", [1.5], "p_sweep.p.0: Input should be less than or equal to 1"),
        (f"{QUANTIZER}.p", -0.1, "quantizer.p: Input should be greater than or equal to 0"),
        ("pretrain.mlp.epochs", -1, "pretrain.mlp.epochs: Input should be greater than or equal"),
        ("pretrain.mlp.lr", 0, "pretrain.mlp.lr: Input should be greater than 0"),
        ("data.digits", digits(limit=0), "digits.limit: Input should be greater than 0"),
        ("tasks.mlp.enlarge", 0, "tasks.mlp.enlarge: Input should be greater than 0"),
        ("report.layers.bits", 1, "report.layers.bits: Input should be greater than or equal"),
        ("seeds", [], "suites.smoke.seeds: List should have at least 1 item"),
        ("seeds", [0, 0], "suites.smoke.seeds: the values must differ"),
        # Unknown choices.
        ("data.digits", digits(name="mnist"), "'mnist' found using 'name' does not match any of"),
        ("data.digits", [], "data.digits: List should have at least 1 item"),
        ("data", {}, "data: Dictionary should have at least 1 item"),
        ("tasks.mlp.data", "mnist", "tasks.mlp.data must be one of digits"),
        ("tasks.mlp.start", {"file": "x"}, "tasks.mlp.start.checkpoint: Field required"),
        ("device", "gpu", "device: Input should be 'cpu' or 'auto'"),
        ("report.published", [{"task": "x", "bits": 4, "lam": 0}], "task must be one of mlp, res"),
        ("report.yardsticks", [{"task": "mlp"}], "yardsticks.0.method: Field required"),
        ("pretrain.mlp.optimizer", "adamw", "optimizer: Input should be 'adam' or 'sgd'"),
        (f"{QUANTIZER}.gradient", "sign", "gradient: Input should be 'magnitude', 'published'"),
        (f"{QUANTIZER}.pmf", "exact", "pmf: Input should be 'published' or 'normalized'"),
        (f"{RELEVANCE}.composite", "epsilon_max", "composite must be one of epsilon_plus_flat_bn"),
        (f"{RELEVANCE}.canonizer", "alexnet", "canonizer must be one of vgg, resnet"),
        (f"{RELEVANCE}.of", "weights", "relevance_of must be one of stepped, quantized"),
        (f"{RELEVANCE}.alpha", 1.0, "alpha must lie in [0, 1), not 1.0"),
        # Bands.
        (f"{QUANTIZER}.sparsity_band", [0.0, 0.1, 0.2], "sparsity_band must be [low, high]"),
        (f"{QUANTIZER}.sparsity_band", [0.1], "sparsity_band must be [low, high]"),
        (f"{QUANTIZER}.sparsity_band", [0.2, 0.1], "sparsity_band must be (low, high) with"),
        (f"{QUANTIZER}.sparsity_band", 0.1, "sparsity_band: Input should be a valid list"),
        # Variants.
        (f"{MLP}.ablation", ablation(colour=3), "variants may replace alpha, canonizer, "),
        (f"{MLP}.ablation", ablation(gradient="sign"), "gradient"),
        (f"{MLP}.ablation", ablation(alpha=2.0), "alpha must lie in [0, 1), not 2.0"),
        # Missing or unmatched sections.
        ("seeds", MISSING, "suites.smoke.seeds: Field required"),
        ("report", MISSING, "suites.smoke.report: Field required"),
        (f"{RELEVANCE}", MISSING, "quantize.relevance: Field required"),
        (f"{MLP}.fit", MISSING, "mlp.fit: Field required"),
        ("pretrain.mlp", MISSING, "pretrain must name the tasks mlp, resnet20"),
        (f"{MLP}", MISSING, "quantize.tasks must name the tasks mlp, resnet20"),
        ("pretrain.lstm", {"epochs": 1, "lr": 0.1}, "pretrain must name the tasks"),
        ("tasks", {}, "suites.smoke.tasks: Dictionary should have at least 1 item"),
        ("tasks.mlp.model", {}, "tasks.mlp: model needs the name of a network"),
    ],
)
def test_wrong_settings_are_named(
    refused: Refused, setting: str, value: object, right: str
) -> None:
    line = refused(changed(setting, value))
    assert line.startswith("params.yaml: suites.smoke")
    assert right in line


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("", "params.yaml: suite must be one of none, not 'smoke'"),
        ("- 1", "params.yaml: suite must be one of none"),
        ("suites: []", "params.yaml: suite must be one of none"),
        ("suites: {other: {}}", "params.yaml: suite must be one of other, not 'smoke'"),
        ("suites: {smoke: 3}", "params.yaml: suites.smoke: Input should be a valid dictionary"),
        ("suites: {smoke: {}}", "params.yaml: suites.smoke.seeds: Field required"),
        ("suites: [", "params.yaml: not valid YAML (while parsing a flow node"),
        ("suites:\n\tsmoke: 3", "params.yaml: not valid YAML"),
        ("a: b: c", "params.yaml: not valid YAML"),
        ("a: \0", "params.yaml: not valid YAML"),
    ],
)
def test_wrong_files_are_named(refused: Refused, params: str, message: str) -> None:
    assert refused(params).startswith(message)


@pytest.mark.parametrize("params", [b"\xff\xfe", b"suites: {1: 2}"])
def test_wrong_files_that_pass_uncaught(refused: Refused, params: bytes) -> None:
    assert refused(params).startswith("params.yaml: ")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tasks.mlp.model.in_featurs", 64),
        ("tasks.mlp.model.name", "resnet999"),
        (f"{MLP}.lam", [0.3, 0.3]),
        (f"{MLP}.bits", [4, 4]),
    ],
)
def test_settings_that_cannot_work(folder: Path, setting: str, value: object) -> None:
    Path("params.yaml").write_text(changed(setting, value))
    with pytest.raises(ValueError, match=r"^params\.yaml: "):
        settings.load("smoke")


def test_unknown_suites_and_a_missing_file(folder: Path, refused: Refused) -> None:
    line = refused(yaml.safe_dump(PARAMS, sort_keys=False), "papers")
    assert (
        line == f"params.yaml: suite must be one of {', '.join(PARAMS['suites'])}, not 'papers'\n"
    )
    (folder / "params.yaml").unlink()
    with pytest.raises(ValueError, match="no such file"):
        settings.load("smoke")


@pytest.mark.parametrize("stage", ["download", "quantize"])
def test_the_command_ends_with_code_two(tmp_path: Path, stage: str) -> None:
    (tmp_path / "params.yaml").write_text(changed(f"{MLP}.lam", [-1.0]))
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", "smoke"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "params.yaml: suites.smoke.quantize.tasks.mlp.lam.0: "
        "Input should be greater than or equal to 0, not -1.0\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


# -- methods with trained centroids ----------------------------------------------------------------


def test_trained_methods_add_runs_and_change_none(tmp_path: Path) -> None:
    wanted = [
        {"method": "EC2T", "lam": [0.1, 0.2], "lambda_max": "derived"},
        {"method": "FantastIC4x", "lam": [0.3], "lambda_max": "published"},
    ]
    params = tmp_path / "params.yaml"
    params.write_text(changed(f"{MLP}.trained", []))
    before = settings.load("smoke", params)
    params.write_text(changed(f"{MLP}.trained", wanted))
    after = settings.load("smoke", params)
    known = [run_id(run, before) for run in all_runs(before)]
    runs = all_runs(after)
    trained = [run for run in runs if run.sweep == "trained"]
    assert [run_id(run, after) for run in runs if run not in trained] == known
    assert not {run_id(run, after) for run in trained} & set(known)
    assert [(r.task, r.method, r.bits, r.lam, r.seed) for r in trained] == [
        ("mlp", method, bits, lam, seed)
        for seed in (0, 1)
        for method, bits, lam in (("EC2T", 2, 0.1), ("EC2T", 2, 0.2), ("FantastIC4x", 4, 0.3))
    ]
    for run in trained[1:3]:
        q = run.build_quantizer(models.build("mlp_gsc", in_features=8, num_classes=3))
        assert (type(q).__name__, q.lam) == (run.method.removesuffix("x"), run.lam)
        assert (q.relevance is not None) == run.method.endswith("x") == (run.p is not None)


def test_trained_methods_are_checked(refused: Refused) -> None:
    good = {"method": "EC2T", "lam": [0.1], "lambda_max": "derived"}
    for value, message in (
        ([good | {"method": "ECQ"}], "'EC2T'"),
        ([good, good], "the values must differ"),
        ([good | {"lam": [0.1, 0.1]}], "the values must differ"),
        ([good | {"lambda_max": "exact"}], "'published' or 'derived'"),
    ):
        assert message in refused(changed(f"{MLP}.trained", value))
