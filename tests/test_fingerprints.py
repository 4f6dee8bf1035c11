"""What each edit makes stale, exactly: edits of a copy of the code, and a pipeline of real DVC."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecqx.errors import InputError
from stages import baseline, fingerprint, paths, status
from stages.fingerprint import fingerprints_of
from stages.manifests import COUNT, REFERENCE

REPOSITORY = Path(__file__).resolve().parents[1]
FAMILY = {"ECQ", "ECQx", "EC2T", "EC2Tx", "FantastIC4", "FantastIC4x"}
METHODS = (
    *sorted(FAMILY),
    *("NNCodec uniform", "NNCodec dependent", "pruning", "LSQ", "torchao", "fp16", "int8"),
)
TRAINED = {REFERENCE, COUNT, *METHODS}
NOTHING: set[str] = set()

Fingerprints = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code, with a suite that uses every method."""
    folder = tmp_path_factory.mktemp("original")
    for name in ("ecqx", "stages"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "constraints.txt", folder)
    write_params(folder, METHODS)
    return folder


@pytest.fixture(scope="module")
def before(original: Path) -> Fingerprints:
    """Its fingerprints."""
    with chdir(original):
        return fingerprints_of("made")


@pytest.fixture
def copied(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed; the working folder."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, methods: tuple[str, ...]) -> None:
    sweeps = [{"sweep": "grid", "method": list(methods)}, {"sweep": "p", "method": methods[0]}]
    params = {"suite": "made", "published": True, "quantize": {"tasks": {"a": {"sweeps": sweeps}}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def edit(path: str, old: str, new: str) -> None:
    file = Path(path)
    text = file.read_text()
    assert old in text, f"{path} has no {old!r}"
    file.write_text(text.replace(old, new, 1))


def stale(before: Fingerprints, after: Fingerprints) -> tuple[set[str], set[str]]:
    """Stages that would run again, and methods whose trainings would."""
    stages = {stage for stage in before if before[stage] != after[stage]}
    then, now = before["quantize"]["methods"], after["quantize"]["methods"]
    assert then.keys() == now.keys() == TRAINED
    return stages, {method for method in then if then[method] != now[method]}


# Edits that make nothing stale.
WORDS = {
    "a docstring": ("ecqx/data/tensors.py", "Iterate over inputs", "Yield the batches;"),
    "a comment": ("ecqx/data/tensors.py", "# Advanced indices around", "# Indices around"),
    "a raised message": ("ecqx/data/tensors.py", "not a data file of this suite", "no data file"),
    "an annotation": (
        "ecqx/data/tensors.py",
        "padding: int, generator",
        "padding: object, generator",
    ),
    "line breaks": (
        "ecqx/data/tensors.py",
        "rim = (padding,) * 4",
        "rim = (\n        padding,\n    ) * 4",
    ),
    "another public name": (
        "ecqx/data/__init__.py",
        "_HOMES = {",
        '_HOMES = {\n    "made": "ecqx.data.tensors",',
    ),
    "another method": (
        "ecqx/methods/registry.py",
        "METHODS: dict[str, str] = {",
        'METHODS: dict[str, str] = {\n    "made": "ecqx.methods.lsq:LSQ",',
    ),
    "the version of mkdocs": ("constraints.txt", "mkdocs==", "mkdocs==99."),
}
# Edit of a file (replace the first by the second): the stages, and the methods whose trainings
# run again.
EDITS = {
    "random crops": (
        ("ecqx/data/tensors.py", "2 * padding + 1", "2 * padding"),
        {"download", "pretrain", "quantize", "evaluate"},
        TRAINED,
    ),
    "LSQ": (
        ("ecqx/methods/lsq.py", "SMALLEST_STEP = 1e-8", "SMALLEST_STEP = 1e-7"),
        {"quantize"},
        {"LSQ"},
    ),
    "a composite": (
        ("ecqx/relevance/composites.py", "GammaAdapt(0.1)", "GammaAdapt(0.2)"),
        {"quantize", "evaluate"},
        {"ECQx", "EC2Tx", "FantastIC4x"},
    ),
    "the coder": (
        ("ecqx/coding/entropy_coder.py", "(self.flags + 1)", "(self.flags + 2)"),
        {"encode", "evaluate"},
        NOTHING,
    ),
    "a form of file": (
        ("ecqx/coding/nnc_file.py", '"nncodec.nnc"', '"nncodec.nn"'),
        {"encode", "evaluate"},
        NOTHING,
    ),
    "a column of tables": (
        ("ecqx/report/columns.py", '"accuracy (%)", 2', '"accuracy (%)", 3'),
        {"report"},
        NOTHING,
    ),
    "a template": (
        ("ecqx/report/templates/page.css", "{", "{ "),
        {"report"},
        NOTHING,
    ),
    "how stages start": (
        ("stages/run", "MALLOC_MMAP_MAX_=0", "MALLOC_MMAP_MAX_=1"),
        set(fingerprint.STAGES),
        NOTHING,
    ),
    "another class of a method": (
        ("ecqx/methods/registry.py", "after_training:Float16", "after_training:Integer8"),
        {"quantize"},
        {"fp16"},
    ),
    "another class of a form of file": (
        ("ecqx/coding/forms.py", "plain_files:Float16File", "plain_files:Integer8File"),
        {"encode", "evaluate"},
        NOTHING,
    ),
    "the version of numba": (
        ("constraints.txt", "numba==", "numba==99."),
        {"quantize", "evaluate"},
        FAMILY,
    ),
    "the version of numba's compiler": (
        ("constraints.txt", "llvmlite==", "llvmlite==99."),
        {"quantize", "evaluate"},
        FAMILY,
    ),
    "the version of torch": (
        ("constraints.txt", "torch==", "torch==99."),
        set(fingerprint.STAGES) - {"report"},
        TRAINED,
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_stale_what_it_can_change(
    copied: Path, before: Fingerprints, name: str
) -> None:
    change, stages, methods = EDITS[name]
    edit(*change)
    assert stale(before, fingerprints_of("made")) == (stages, methods)


def test_edits_of_words_and_names_make_nothing_stale(copied: Path, before: Fingerprints) -> None:
    for change in WORDS.values():
        edit(*change)
    assert fingerprints_of("made") == before


def test_only_methods_in_use_count(copied: Path) -> None:
    write_params(copied, ("ECQx", "pruning"))
    before = fingerprints_of("made")
    assert list(before["quantize"]["methods"]) == [REFERENCE, COUNT, "ECQx", "pruning"]
    edit(*EDITS["LSQ"][0])
    assert fingerprints_of("made") == before


def test_the_order_of_methods_counts_where_the_registry_is_read(
    copied: Path, before: Fingerprints
) -> None:
    line = '    "int8": "ecqx.methods.after_training:Integer8",\n'
    edit("ecqx/methods/registry.py", line, "")
    edit("ecqx/methods/registry.py", "= {\n", f"= {{\n{line}")
    after = fingerprints_of("made")
    reading = {stage for stage in before if "registered" in before[stage]}
    assert "quantize" in reading
    assert stale(before, after) == (reading, NOTHING)


def test_settings_without_sweeps_are_refused(copied: Path) -> None:
    (copied / "params.yaml").write_text("suite: made\nquantize: {tasks: [1]}\n")
    with pytest.raises(InputError, match=r"params\.yaml: quantize\.tasks must list sweeps"):
        fingerprints_of("made")


# -- make status and CI's check --------------------------------------------------------------------


def record(stages: tuple[str, ...] = fingerprint.STAGES) -> None:
    """What a run leaves: the fingerprints, and a lock that names them."""
    locked = {}
    for stage, content in fingerprints_of("made").items():
        path = paths.fingerprint("made", stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fingerprint.text(content))
        if stage in stages:
            md5 = status._md5(path.read_bytes())
            locked[stage] = {"cmd": "…", "deps": [{"path": path.as_posix(), "md5": md5}]}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))


def check(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = status.main(["--check"])
    return code, capsys.readouterr().out.splitlines()


def test_the_check_fails_where_a_committed_lock_is_not_of_the_code(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    assert check(capsys) == (0, [])
    edit(*WORDS["a docstring"])
    assert check(capsys) == (0, [])
    edit(*EDITS["a column of tables"][0])
    assert check(capsys) == (1, ["made: report: changed code ecqx.report.columns"])
    # Fingerprints written anew do not make the results new.
    for stage, content in fingerprints_of("made").items():
        paths.fingerprint("made", stage).write_text(fingerprint.text(content))
    assert check(capsys) == (1, ["made: report: changed code or packages"])
    shutil.rmtree("fingerprints")
    assert check(capsys) == (1, ["made: report: changed code or packages"])
    edit("params.yaml", "published: true", "published: false")
    assert check(capsys) == (0, [])


def test_the_check_fails_where_settings_or_results_are_not_those_of_the_lock(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    metrics = paths.results("made") / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("[]")
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    lock["stages"]["evaluate"] |= {
        "params": {"params.yaml": {"suite": "made", "quantize.lam": None}},
        "outs": [
            {"path": metrics.as_posix(), "md5": status._md5(b"[]")},
            {"path": "bitstreams/made", "md5": "is not committed"},
        ],
    }
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert check(capsys) == (0, [])
    metrics.write_text("[1]")
    assert check(capsys) == (1, ["made: evaluate: changed results/made/metrics.json"])
    metrics.write_text("[]")
    lock["stages"]["evaluate"]["params"]["params.yaml"]["quantize.lam"] = [0.1]
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert check(capsys) == (1, ["made: evaluate: changed setting quantize.lam"])


def test_a_stage_that_never_ran_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(fingerprint.STAGES[:-1])
    assert check(capsys) == (1, ["made: report: has not been run"])


def test_stale_results_are_no_baseline(copied: Path) -> None:
    record()
    edit(*EDITS["a column of tables"][0])
    with pytest.raises(InputError, match=r"report: changed code ecqx\.report\.columns"):
        baseline.main(["made"])


def test_the_reason_names_methods_and_packages(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    edit(*EDITS["LSQ"][0])
    edit("constraints.txt", "Jinja2==", "Jinja2==99.")
    code, lines = check(capsys)
    assert code == 1
    assert "made: quantize: changed methods LSQ" in lines
    assert "made: report: changed packages jinja2" in lines


PIPELINE = """
stages:
  fingerprint:
    cmd: {python} write.py
    deps: [ecqx, stages, constraints.txt, params.yaml]
    outs:
      - fingerprints/made: {{cache: false}}
"""
STAGE = """
  {stage}:
    cmd: echo ran >> ran-{stage} && cp {source} {stage}.out
    deps: [fingerprints/made/{stage}.json, {source}]
    outs: [{stage}.out]
"""
COLOURED = """
    params: [colour]
"""
WRITE = """
from stages import fingerprint, paths
for stage, content in fingerprint.fingerprints_of("made").items():
    path = paths.fingerprint("made", stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fingerprint.text(content))
"""


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_status_with_dvc(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An edit of words alone runs nothing; others name their stages, and only these run."""
    monkeypatch.setenv("PYTHONPATH", str(copied))
    pipeline, source = PIPELINE.format(python=sys.executable), "input"
    for stage in fingerprint.STAGES:
        pipeline += STAGE.format(stage=stage, source=source)
        source = f"{stage}.out"
    # The last stage, the report, has a setting.
    Path("dvc.yaml").write_text(pipeline + COLOURED)
    Path("write.py").write_text(WRITE)
    Path("input").write_text("1")
    edit("params.yaml", "suite:", "colour: 1\nsuite:")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")

    def said() -> set[str]:
        assert status.main(["made"]) == 0
        return set(capsys.readouterr().out.splitlines())

    def runs() -> list[int]:
        return [Path(f"ran-{stage}").read_text().count("ran") for stage in fingerprint.STAGES]

    assert said() == {f"{stage}: has not been run" for stage in fingerprint.STAGES}
    dvc("repro")
    lock = Path("dvc.lock").read_text()

    edit(*WORDS["a docstring"])
    assert said() == {"nothing is stale"}
    dvc("repro", "--single-item", "dvc.yaml:fingerprint")
    before, after = (yaml.safe_load(t)["stages"] for t in (lock, Path("dvc.lock").read_text()))
    assert before.pop("fingerprint") != after.pop("fingerprint")
    assert before == after
    assert runs() == [1, 1, 1, 1, 1, 1]

    edit(*EDITS["a column of tables"][0])
    edit("params.yaml", "colour: 1", "colour: 2")
    Path("encode.out").write_text("2")
    assert said() == {
        "encode: its output encode.out modified",
        "evaluate: encode.out modified",
        "report: changed code ecqx.report.columns",
        "report: params.yaml: colour modified",
    }
    dvc("repro", "--single-item", "dvc.yaml:fingerprint")
    assert "report: changed code or packages" in said()
    dvc("repro")
    assert said() == {"nothing is stale"}
    # The run of encode is known, and gives what it gave.
    assert runs() == [1, 1, 1, 1, 1, 2]


def test_fingerprints_are_plain_json(copied: Path) -> None:
    for content in fingerprints_of("made").values():
        assert json.loads(fingerprint.text(content)) == content
