"""Accepting a baseline and checking against it, in small git repositories."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_regression import make_runs

from ecqx.errors import InputError
from stages import baseline, check, provenance
from stages.baseline import accept
from stages.command import run_command_line
from stages.verify.document import Section, record


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with settings and results, and nothing changed in it."""
    # The packages are looked up once: they are the same in every test.
    known = provenance.packages()
    for module in (provenance, baseline, check):
        monkeypatch.setattr(module, "packages", lambda: known)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("suite: smoke\nsuites:\n  smoke: {}\n  other: {}\n")
    (tmp_path / ".gitignore").write_text(".dvc/\nresults/*/provenance.json\n")
    write_runs(tmp_path, make_runs())
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "state")


def write_runs(folder: Path, runs: list[dict[str, Any]]) -> None:
    path = folder / "results" / "smoke" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs))


def stored(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results/smoke/baseline.json").read_text())
    return content


def test_accepting_and_checking(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert baseline.main([]) == 0
    content = stored(repository)
    assert list(content) == ["machine", "packages", "runs"]
    assert content["runs"] == make_runs()
    assert list(content["packages"]) == sorted(content["packages"])
    assert check.main(["smoke"]) == 0
    assert "any difference counts" in capsys.readouterr().out


def test_accepting_twice_writes_the_same_bytes(repository: Path) -> None:
    accept(repository, "smoke")
    first = (repository / "results/smoke/baseline.json").read_bytes()
    accept(repository, "smoke")
    assert (repository / "results/smoke/baseline.json").read_bytes() == first


def test_check_fails_on_a_worse_run(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept(repository, "smoke")
    runs = make_runs()
    runs[4]["accuracy"] -= 0.2
    write_runs(repository, runs)
    assert check.main(["--junit", "check.xml"]) == 1
    assert "accuracy" in capsys.readouterr().out
    assert (repository / "check.xml").exists()


def write_comparison(folder: Path, accuracy: float) -> None:
    runs = [
        {"task": "mlp", "method": "LSQ", "bits": 3, "lam": None, "variant": f"lr {lr}"}
        | {"seed": seed, "run_id": f"{lr}-{seed}", "sparsity": 0.5, "bytes": 1000 + seed}
        | {"accuracy": accuracy + seed / 1000}
        for lr in (0.1, 0.2)
        for seed in (0, 1, 2)
    ]
    path = folder / "results" / "smoke" / "comparison" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_comparison_is_judged_by_a_baseline_of_its_own(
    repository: Path, capsys: pytest.CaptureFixture[str], elsewhere: bool
) -> None:
    write_comparison(repository, 0.9)
    commit(repository)
    accept(repository, "smoke")
    path = repository / "results/smoke/comparison_baseline.json"
    content = json.loads(path.read_text())
    if elsewhere:
        content["machine"]["python"] = "another"
        path.write_text(json.dumps(content))
    assert check.main([]) == 0
    assert "smoke, comparison: no worse" in capsys.readouterr().out
    write_comparison(repository, 0.8)
    assert check.main(["--junit", "check.xml"]) == 1
    out = capsys.readouterr().out
    assert "smoke: no worse" in out
    assert "smoke, comparison: WORSE" in out
    assert "mlp LSQ 3 bit variant lr 0.1" in out
    suites = ElementTree.parse(repository / "check.xml").getroot()
    assert [suite.get("failures") for suite in suites] == ["0", "6" if not elsewhere else "2"]


def test_a_comparison_that_is_missing_is_told(repository: Path) -> None:
    write_comparison(repository, 0.9)
    commit(repository)
    accept(repository, "smoke")
    (repository / "results/smoke/comparison/metrics.json").unlink()
    with pytest.raises(InputError, match=r"comparison/metrics.json is missing"):
        check.main([])


def test_a_comparison_without_a_baseline_is_told(repository: Path) -> None:
    accept(repository, "smoke")
    write_comparison(repository, 0.9)
    with pytest.raises(InputError, match="smoke, comparison has no baseline yet"):
        check.main([])


@pytest.mark.parametrize("key", ["machine", "packages"])
def test_elsewhere_means_are_compared(
    repository: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(repository, "smoke")
    content = stored(repository)
    content[key]["python"] = "another"
    (repository / "results/smoke/baseline.json").write_text(json.dumps(content))
    runs = make_runs()
    runs[4]["accuracy"] -= 1e-4
    write_runs(repository, runs)
    assert check.main([]) == 0
    assert "means over seeds" in capsys.readouterr().out


def test_results_and_lock_may_differ_from_the_commit(repository: Path) -> None:
    (repository / "dvc.lock").write_text("new")
    (repository / "results/smoke/summary.json").write_text("{}")
    write_runs(repository, make_runs(tasks=1))
    accept(repository, "smoke")
    assert stored(repository)["runs"] == make_runs(tasks=1)


@pytest.mark.parametrize("name", ["params.yaml", "new.py", "ecqx/results/new.py"])
def test_changed_code_or_settings_are_refused(repository: Path, name: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match=f"differ from the last commit .{name}") as caught:
        accept(repository, "smoke")
    assert "\n" not in str(caught.value)
    assert not (repository / "results/smoke/baseline.json").exists()


def test_results_of_another_machine_stay_its_own(repository: Path) -> None:
    content = {"machine": {"processor": "another"}, "packages": {}, "runs": make_runs()}
    (repository / "results/smoke/baseline.json").write_text(json.dumps(content))
    assert "already" in accept(repository, "smoke")
    assert stored(repository) == content
    provenance.write(repository, "smoke")
    assert "accepted" in accept(repository, "smoke")
    assert stored(repository)["machine"] == provenance.machine()


def test_nothing_to_compare_is_one_line(repository: Path) -> None:
    with pytest.raises(InputError, match="no baseline yet: `make baseline SUITE=smoke`"):
        check.main([])
    with pytest.raises(InputError, match="there is no suite 'nonsense'"):
        check.main(["nonsense"])
    with pytest.raises(InputError, match="is missing: `make paper-results SUITE=other`"):
        accept(repository, "other")
    accept(repository, "smoke")
    (repository / "results/smoke/metrics.json").write_text("[")
    with pytest.raises(InputError, match=r"metrics\.json cannot be read"):
        check.main([])
    (repository / "results/smoke/baseline.json").write_text("[]")
    with pytest.raises(InputError, match="is no baseline: `make baseline SUITE=smoke`"):
        check.main([])


@pytest.mark.parametrize("arguments", [["--junit"], ["--unknown"], ["smoke", "other"]])
def test_unknown_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(InputError):
        check.main(arguments)


def test_a_broken_baseline_can_be_replaced(repository: Path) -> None:
    (repository / "results/smoke/baseline.json").write_text("broken")
    accept(repository, "smoke")
    assert stored(repository)["runs"] == make_runs()


def test_provenance_tells_commit_machine_and_packages(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provenance.main([]) == 0
    assert "results/smoke/" in capsys.readouterr().out
    path = repository / "results/smoke/provenance.json"
    content = json.loads(path.read_text())
    assert len(content["commit"]) == 40
    assert content["modified"] is False
    assert "numpy" in content["packages"]
    assert str(repository) not in path.read_text()
    (repository / "params.yaml").write_text("suite: smoke\nsuites: {smoke: 1}\n")
    provenance.write(repository, "smoke")
    assert json.loads(path.read_text())["modified"] is True


def test_provenance_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance.write(tmp_path, "smoke")
    content = json.loads((tmp_path / "results/smoke/provenance.json").read_text())
    assert content["commit"] is None


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("one\nline"), 2, "one line\n"),
        (PermissionError(errno.EACCES, "Permission denied", "results"), 2, "results: Permission"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "files: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_commands_end_with_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> int:
        raise error

    assert run_command_line(main) == code
    assert capsys.readouterr().err.startswith(line)


def test_verification_sections_replace_their_last_version(tmp_path: Path) -> None:
    document = tmp_path / "verification.md"
    record(document, Section("one smoke", "One", "first \\1 text", passed=False))
    record(document, Section("two smoke", "Two", "other text", passed=True))
    record(document, Section("one smoke", "One", "second text", passed=True))
    text = document.read_text()
    assert "first" not in text
    assert text.index("second text") < text.index("other text")
    assert text.count("## ") == 2
