"""Settings of suites: all of the repository are right, and what is wrong is named in one line."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_suite import MISSING, MLP, REPOSITORY, changed, loaded, sweep_of, write

from ecqx.errors import InputError
from ecqx.methods.registry import METHODS, method_class
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP
from ecqx.training.settings import FitSettings
from stages import download, fingerprint, paths, suites
from stages.command import run_command_line
from stages.overview import family
from stages.settings import suite as settings_of_suite
from stages.settings.quantize import Sweep
from stages.settings.suite import load_suite
from stages.sweeps import all_runs

DEFAULT, *OTHERS = [
    yaml.safe_load((REPOSITORY / "params.yaml").read_text())["suite"],
    *sorted(path.parent.name for path in REPOSITORY.glob("suites/*/params.yaml")),
]
SWEEP = f"{MLP}.sweeps.0"


# -- the suites of this repository -----------------------------------------------------------------


@pytest.mark.parametrize("name", [DEFAULT, *OTHERS])
def test_every_suite_is_right_and_fits_its_folder(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    suite = load_suite(name)
    folder = suites.folder(name)
    assert suite.suite == name
    assert (folder / suite.root).resolve() == REPOSITORY
    assert (folder / suite.root / suite.params).resolve() == suites.params_path(name).resolve()
    assert (folder / suites.PIPELINE).read_bytes() == (REPOSITORY / suites.PIPELINE).read_bytes()
    runs = all_runs(suite.quantize, suite.tasks, suite.seeds)
    assert len({run.run_id for run in runs}) == len(runs)
    # Each task has runs of the grid whose layers the page shows, or is a part of a task that has;
    # a suite of trained centroids alone shows no layers.
    shown = suite.evaluate.layers
    with_grid = {run.task for run in runs if run.sweep == "grid" and run.seed == shown.seed}
    whole = family(name, suites.names())
    assert (
        with_grid == set(suite.tasks)
        or (whole != name and set(suite.tasks) <= set(load_suite(whole).tasks))
        or {run.sweep for run in runs if run.training_method is not None} == {"trained"}
    )


def test_the_default_suite_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert suites.names() == [DEFAULT, *OTHERS]
    assert DEFAULT not in OTHERS
    with pytest.raises(InputError, match=rf"^suite must be one of {DEFAULT}, .*, not 'papers'$"):
        suites.folder("papers")


def test_suites_that_compare_compare_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """On real data trained centroids are compared without relevance."""
    monkeypatch.chdir(REPOSITORY)
    for name, left_out in (("embedded", set()), ("speech-methods", {"EC2Tx", "FantastIC4x"})):
        sweeps = [s for task in load_suite(name).quantize.tasks.values() for s in task.sweeps]
        compared = {m for s in sweeps if s.sweep == "comparison" for m in s.methods}
        assert compared == set(METHODS) - left_out


def test_stages_leave_the_settings_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ecqx", "stages", "constraints.txt"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    write(changed())
    before = Path("params.yaml").stat()
    assert fingerprint.main(["smoke"]) == download.main(["smoke"]) == 0
    assert paths.data("smoke", "digits").is_file()
    after = Path("params.yaml").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*changes: tuple[str, Any]) -> str:
    """The one line about settings that are wrong."""
    with pytest.raises(InputError) as caught:
        loaded(*changes)
    line = str(caught.value)
    assert line.startswith("params.yaml: ")
    assert "\n" not in line
    return line.removeprefix("params.yaml: ")


# Setting, its value, and the message.
MISSPELT: list[tuple[str, object, str]] = [
    ("sede", [0], "sede: no such setting, did you mean 'seed'?"),
    ("colour", 3, "colour: no such setting"),
    (
        "report.comparison.tasks.mlp",
        {"trails": 2, "ratios": [8.0, 64.0]},
        "report.comparison.tasks.mlp.trails: no such setting, did you mean 'trials'?",
    ),
    (
        "data.sets.digits",
        [{"name": "digits", "seed": 0, "limt": 9}],
        "data.sets.digits.0.digits.limt: no such setting, did you mean 'limit'?",
    ),
    ("tasks.mlp.enlrage", 2, "tasks.mlp.enlrage: no such setting, did you mean 'enlarge'?"),
    # Of the library's own dataclasses.
    (
        "pretrain.mlp.learning_rate",
        0.1,
        "pretrain.mlp.learning_rate: no such setting",
    ),
    (f"{MLP}.fit.batchsize", 3, "fit.batchsize: no such setting, did you mean 'batch_size'?"),
    (
        "quantize.quantizer.lamda_max",
        "derived",
        "quantize.quantizer.lamda_max: no such setting, did you mean 'lambda_max'?",
    ),
    # Of a sweep, of a method in one, and of a variant there.
    (
        SWEEP,
        sweep_of(method=MISSING, methd="ECQ"),
        "sweeps.0: methd: no such setting, did you mean 'method'?",
    ),
    (SWEEP, sweep_of(flaots="raw"), "sweeps.0: flaots: no such setting, did you mean 'floats'?"),
    (SWEEP, sweep_of(bit=4), "sweeps.0: ECQx has no setting 'bit', did you mean 'bits'?"),
    (SWEEP, sweep_of(method="fp16"), "sweeps.0: fp16 has no setting 'bits', only none"),
    (
        SWEEP,
        sweep_of(method="LSQ"),
        "sweeps.0: LSQ has no setting 'lam', only bits, exclude, include",
    ),
    (SWEEP, sweep_of(method="ECQ", p=0.1), "sweeps.0: ECQ has no setting 'p', only lam, pmf, "),
    (
        SWEEP,
        sweep_of(variants={"a": {"alfa": 0.5}}),
        "sweeps.0: ECQx has no setting 'alfa', did you mean 'alpha'?",
    ),
]


@pytest.mark.parametrize(("setting", "value", "right"), MISSPELT)
def test_misspelt_settings_are_named(folder: Path, setting: str, value: object, right: str) -> None:
    assert right in refusal((setting, value))


def test_no_setting_of_a_method_looks_like_a_misspelt_one_of_a_sweep() -> None:
    names = {setting for method in METHODS for setting in method_class(method).takes()}
    Sweep.model_validate({"sweep": "grid", "method": "any", "lr": 1} | dict.fromkeys(names, 1))


WRONG: list[tuple[str, object, str]] = [
    # Kinds of values: nothing is converted.
    ("seeds", ["a"], "seeds.0: Input should be a valid integer, not 'a'"),
    ("seeds", [0, 0], "seeds: the values must differ"),
    ("pretrain.mlp.lr", datetime.date(2020, 1, 1), "lr: Input should be a valid number, not '2020"),
    (f"{MLP}.fit.epochs", "3", "fit.epochs: Input should be a valid integer, not '3'"),
    (SWEEP, sweep_of(bits="4"), "sweeps.0: ECQx: bits: Input should be a valid integer, not '4'"),
    (SWEEP, sweep_of(bits=[4, 4.5]), "ECQx: bits: Input should be a valid integer, not 4.5"),
    (SWEEP, sweep_of(lam=True), "ECQx: lam: Input should be a valid number, not True"),
    (SWEEP, sweep_of(lam=None), "ECQx: lam: Input should be a valid number, not None"),
    (SWEEP, sweep_of(restart="yes"), "ECQx: restart: Input should be a valid boolean, not 'yes'"),
    (SWEEP, sweep_of(exclude="bn"), "ECQx: exclude: Input should be a valid array, not 'bn'"),
    (SWEEP, sweep_of(lr="fast"), "sweeps.0: fit.lr: Input should be a valid number, not 'fast'"),
    (SWEEP, sweep_of(variants={"a": {"lam": [0.1]}}), "ECQx: lam: Input should be a valid number"),
    (SWEEP, sweep_of(method="LSQ", lam=MISSING, bits="4"), "LSQ: bits: Input should be a valid"),
    # Ranges and choices.
    (SWEEP, sweep_of(bits=9), "sweeps.0: ECQx: bits must be an integer from 2 to 8, not 9"),
    (SWEEP, sweep_of(lam=float("nan")), "ECQx: lam (Lambda) must be a finite number"),
    (SWEEP, sweep_of(lr=0), "sweeps.0: fit: lr must be a finite number above 0"),
    (SWEEP, sweep_of(pmf="exact"), "ECQx: pmf: Input should be 'published' or 'normalized'"),
    (SWEEP, sweep_of(method="ECQZ"), "sweeps.0: method must be one of ECQ, ECQx, EC2T, "),
    (SWEEP, sweep_of(sweep="gird"), "sweeps.0.sweep: Input should be 'grid', 'p', "),
    ("quantize.relevance.alpha", 1.0, "quantize.relevance: alpha must lie in [0, 1), not 1.0"),
    ("report.comparison.tasks.mlp.ratios", [8.0, 4.0], "ratios must be [low, high]"),
    # Sparsity bands.
    (SWEEP, sweep_of(sparsity_band=0.1), "ECQx: sparsity_band: Input should be a valid array"),
    (SWEEP, sweep_of(sparsity_band=[0.1]), "ECQx: sparsity_band"),
    (SWEEP, sweep_of(sparsity_band="[p]"), "sparsity_band must be [-p, 0] or [0, p], or two"),
    (SWEEP, sweep_of(sparsity_band=[0.2, 0.1]), "sparsity_band must be (low, high) with"),
    (SWEEP, sweep_of(sparsity_band="[0, p]", p="x"), "ECQx: p: Input should be a valid number"),
    # What is missing, superfluous or there twice.
    (SWEEP, sweep_of(lam=MISSING), "sweeps.0: ECQx: lam is missing"),
    (SWEEP, sweep_of(method="pruning", lam=MISSING), "sweeps.0: pruning: sparsity: is missing"),
    (SWEEP, sweep_of(lam=[]), "sweeps.0: lam: needs a value"),
    (SWEEP, sweep_of(lam=[0.1, 0.1]), "sweeps.0: ECQx: twice at the same settings"),
    (SWEEP, sweep_of(lam=[0, 0.0]), "sweeps.0: ECQx: twice at the same settings"),
    (SWEEP, sweep_of(variants={"a": {}, "b": {"p": 0.1}}), "ECQx: twice at the same settings"),
    (f"{MLP}.sweeps", [sweep_of(), sweep_of()], "sweeps.1: ECQx: twice at the same settings"),
    ("quantize.quantizer.bits", 3, "quantize: quantizer.bits: belongs in the sweeps"),
    ("seeds", MISSING, "seeds: is missing"),
    # Sections that do not fit together.
    ("pretrain.lstm", {"epochs": 1}, "pretrain must name the tasks mlp, resnet20"),
    (MLP, MISSING, "quantize.tasks must name the tasks mlp, resnet20"),
    ("report.titles.mlp", MISSING, "report.titles must name the tasks mlp, resnet20"),
    ("report.published", [{"task": "x", "bits": 4, "lam": 0.0}], "report: task must be one of mlp"),
    ("report.comparison", MISSING, "report.comparison.tasks must name mlp, which has such sweeps"),
    ("report.comparison.tasks.mlp.trials", 3, "quantize.tasks.mlp: ECQ has 2 trials, it needs 3"),
    ("tasks.mlp.data", "mnist", "tasks.mlp.data must be one of digits"),
    ("tasks.mlp.model.name", "resnet999", "tasks.mlp: model must be one of mlp_gsc, resnet20"),
    ("tasks.mlp.model.in_featurs", 64, "tasks.mlp: model mlp_gsc: "),
    # A folder that was copied, and still says it is the other.
    ("root", "../..", "root must be '.' here, not '../..'"),
    ("params", "suites/x/params.yaml", "params must be 'params.yaml' here"),
]


@pytest.mark.parametrize(("setting", "value", "right"), WRONG)
def test_wrong_settings_are_named(folder: Path, setting: str, value: object, right: str) -> None:
    assert right in refusal((setting, value))


def test_a_copied_suite_must_get_its_own_name(folder: Path) -> None:
    write(changed())
    path = folder / "suites" / "mine" / "params.yaml"
    path.parent.mkdir(parents=True)
    copied = changed(("root", "../.."), ("params", "suites/mine/params.yaml"))
    path.write_text(yaml.safe_dump(copied))
    with pytest.raises(InputError) as caught:
        load_suite("mine")
    right = "suites/mine/params.yaml: suite must be 'mine' here, not 'smoke'"
    assert str(caught.value) == right
    path.write_text(yaml.safe_dump(copied | {"suite": "mine"}))
    assert load_suite("mine").suite == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "params.yaml: must hold settings by name"),
        (b"- 1", "params.yaml: must hold settings by name"),
        (b"suite: 3", "params.yaml: suite must name the suite of these settings"),
        (b"suite: [", "params.yaml: not valid YAML (while parsing a flow node"),
        (b"suite:\n\tsmoke", "params.yaml: not valid YAML"),
        (b"\xff\xfe", "params.yaml: cannot be read"),
        (None, "params.yaml: no such file"),
    ],
)
def test_files_that_are_none_are_named(folder: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (folder / "params.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_suite(suites.default())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [fingerprint, settings_of_suite])
def test_whoever_reads_the_whole_suite_ends_with_code_two(
    folder: Path, module: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(changed((SWEEP, sweep_of(bits="4"))))
    monkeypatch.setattr(sys, "argv", [module.__name__, "smoke"])
    assert run_command_line(module.main) == 2
    line = f"params.yaml: {SWEEP.replace('.0', '')}.0: ECQx: bits: Input should be a valid integer"
    assert capfd.readouterr() == ("", f"{line}, not '4'\n")
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_a_dry_run_checks_the_settings(folder: Path) -> None:
    """The command of `make dry-run`, which did nothing once."""
    write(changed(("seeds", "none")))
    done = subprocess.run(
        [sys.executable, "-m", "stages.settings.suite"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "params.yaml: seeds: Input should be a valid array, not 'none'\n"


# -- what is right ---------------------------------------------------------------------------------


def test_settings_that_are_left_out_have_the_librarys_defaults(folder: Path) -> None:
    suite = loaded(("pretrain.mlp", {}), ("quantize.quantizer", {}), ("quantize.relevance", {}))
    assert suite.pretrain["mlp"] == FitSettings()
    assert suite.quantize.relevance == LRP()
    assert suite.quantize.quantizer == QuantizerSettings()
