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
from stages.command import command, run_command_line


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with settings and results, and nothing changed in it."""
    # The packages are looked up once: they are the same in every test.
    known = provenance.packages()
    for module in (provenance, baseline, check):
        monkeypatch.setattr(module, "packages", lambda: known)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("suite: smoke\n")
    (tmp_path / "suites" / "other").mkdir(parents=True)
    (tmp_path / "suites" / "other" / "params.yaml").write_text("suite: other\n")
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


CLAIMS = """# Claims

| claim | verdict |
|:--|:--|
| Files are small. | **holds** |
| Weights cost no accuracy. | **does not hold** |

Verdict: **holds**

| task | bits | verdict |
|------|------|---------|
| MLP  | 4    | holds   |
"""


def write_derived(folder: Path) -> None:
    results = folder / "results" / "smoke"
    (results / "tables").mkdir(parents=True, exist_ok=True)
    (results / "figures").mkdir(exist_ok=True)
    for name in ("summary.json", "curves.csv", "layers.json", "tables/a.md", "tables/a.tex"):
        (results / name).write_text(name)
    (results / "figures" / "a.svg").write_text("figure")
    (results / "report.html").write_text("page")
    (results / "claims.md").write_text(CLAIMS)


def measured_elsewhere(folder: Path) -> None:
    """Make the baseline one of another machine."""
    content = stored(folder)
    content["machine"]["processor"] = "another"
    (folder / "results/smoke/baseline.json").write_text(json.dumps(content))


def turn_verdicts(folder: Path) -> None:
    turned = CLAIMS.replace("**holds**", "?").replace("**does not hold**", "**holds**")
    (folder / "results/smoke/claims.md").write_text(turned.replace("?", "**does not hold**"))


def test_accepting_and_checking(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_derived(repository)
    # This repository has no code; tests/test_fingerprints.py has stale results refused.
    monkeypatch.setattr(baseline, "stale_results", lambda suite: iter(()))
    assert baseline.main([]) == 0
    content = stored(repository)
    assert list(content) == ["machine", "packages", "files", "verdicts", "runs"]
    assert content["runs"] == make_runs()
    assert list(content["packages"]) == sorted(content["packages"])
    assert list(content["files"]) == [
        *("claims.md", "curves.csv", "layers.json", "summary.json", "tables/a.md", "tables/a.tex")
    ]
    assert content["verdicts"] == {
        "Files are small.": "holds",
        "Weights cost no accuracy.": "does not hold",
    }
    assert check.main(["smoke"]) == 0
    assert "any difference counts" in capsys.readouterr().out


@pytest.mark.parametrize("elsewhere", [False, True])
def test_turned_verdicts_fail_where_the_runs_are_the_same(
    repository: Path, capsys: pytest.CaptureFixture[str], elsewhere: bool
) -> None:
    write_derived(repository)
    accept(repository, "smoke")
    if elsewhere:
        measured_elsewhere(repository)
    turn_verdicts(repository)
    assert check.main([]) == 1
    out = capsys.readouterr().out
    assert f"NOT THE SAME as the baseline: {2 if elsewhere else 3} different" in out
    row = next(line for line in out.splitlines() if "Files are small." in line)
    assert row.split("  ")[0] == "different"
    assert row.index("holds") < row.index("does not hold")


def test_other_verdicts_of_other_runs_are_only_named_elsewhere(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_derived(repository)
    accept(repository, "smoke")
    measured_elsewhere(repository)
    turn_verdicts(repository)
    (repository / "results/smoke/summary.json").write_text("other digits")
    runs = make_runs()
    runs[4]["accuracy"] -= 1e-4
    write_runs(repository, runs)
    assert check.main([]) == 0
    out = capsys.readouterr().out
    assert "no worse than the baseline in 36 runs: 2 different (" in out
    assert "summary.json" not in out


def test_changed_tables_and_numbers_fail_on_the_same_machine(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_derived(repository)
    accept(repository, "smoke")
    results = repository / "results" / "smoke"
    (results / "report.html").write_text("drawn by another library")
    assert check.main([]) == 0
    (results / "curves.csv").unlink()
    (results / "summary.json").write_text("other")
    (results / "tables" / "a.tex").write_text("other")
    assert check.main(["--junit", "check.xml"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out if line.startswith("different")] == [
        ["different", "curves.csv", "file", "present", "missing"],
        ["different", "summary.json", "file", "present", "changed"],
        ["different", "tables", "files", "2", "1", "changed"],
    ]
    (suite,) = ElementTree.parse(repository / "check.xml").getroot()
    assert suite.get("failures") == "3"


def test_a_new_key_is_named_in_one_line(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(repository, "smoke")
    write_runs(repository, [run | {"cost": 1.5} for run in make_runs()])
    assert check.main([]) == 0
    assert "New in metrics.json: cost.\n" in capsys.readouterr().out


def test_a_baseline_of_runs_alone_still_judges_them(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(repository, "smoke")
    content = stored(repository)
    del content["files"], content["verdicts"]
    (repository / "results/smoke/baseline.json").write_text(json.dumps(content))
    write_derived(repository)
    assert check.main([]) == 0
    assert "covers no derived files" in capsys.readouterr().out


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
    (repository / "suites/other/dvc.lock").write_text("new")
    (repository / "results/smoke/summary.json").write_text("{}")
    write_runs(repository, make_runs(tasks=1))
    accept(repository, "smoke")
    assert stored(repository)["runs"] == make_runs(tasks=1)


@pytest.mark.parametrize(
    "name", ["params.yaml", "suites/other/params.yaml", "new.py", "ecqx/results/new.py"]
)
def test_changed_code_or_settings_are_refused(repository: Path, name: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match=f"differ from the last commit .{name}") as caught:
        accept(repository, "smoke")
    assert "\n" not in str(caught.value)
    assert not (repository / "results/smoke/baseline.json").exists()


def test_runs_of_another_machine_stay_its_own(repository: Path) -> None:
    """Also where their report was drawn anew; not where they were made here."""
    write_derived(repository)
    accept(repository, "smoke")
    measured_elsewhere(repository)
    accepted = stored(repository)
    assert "are the baseline already" in accept(repository, "smoke")
    (repository / "results/smoke/tables/a.md").write_text("drawn anew")
    accept(repository, "smoke")
    drawn = stored(repository)
    assert drawn["files"] != accepted["files"]
    assert drawn["machine"]["processor"] == "another"
    provenance.write(repository, "smoke")
    accept(repository, "smoke")
    assert stored(repository)["machine"] == provenance.machine()


def test_nothing_to_compare_is_one_line(repository: Path) -> None:
    with pytest.raises(InputError, match="no baseline yet: `make baseline SUITE=smoke`"):
        check.main([])
    with pytest.raises(InputError, match="suite must be one of smoke, other, not 'nonsense'"):
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
def test_unknown_arguments_are_refused(
    repository: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError):
        check.main(arguments)
    monkeypatch.setattr("sys.argv", ["check", *arguments])
    assert run_command_line(check.main) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_the_docstring_with_arguments_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check", "--help"])
    assert run_command_line(check.main) == 0
    out = capsys.readouterr().out
    for words in ("[SUITE]", "--junit FILE", "are its results worse", "130 interrupted"):
        assert words in out


def test_an_interrupt_inside_a_command_ends_it_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @command
    def main() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["main"])
    assert run_command_line(main) == 130


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
    (repository / "params.yaml").write_text("suite: smoke  # changed\n")
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
