"""Switching the suite: the command sees it, and params.yaml is afterwards what it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ecqx.errors import InputError
from stages.suite import LOCK, PARAMS, STATE, run, selected

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = (
    b"# Settings. \xce\x9b and a suite: line in a comment\n"
    b'suite:   "embedded"   # what `dvc repro` runs\r\n'
    b"suites:\n  smoke: {epochs: 1}\n  embedded: {epochs: 9}\n  deep:\n    suite: no\n"
    b"last: line without an end"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / PARAMS).write_bytes(TEXT)
    return tmp_path


def params(folder: Path) -> bytes:
    return (folder / PARAMS).read_bytes()


def copy_command(folder: Path) -> list[str]:
    """A command that keeps what it saw."""
    return ["cp", str(folder / PARAMS), str(folder / "seen")]


class Started:
    """``python -m stages.suite`` in a process of its own, up to the moment its command runs."""

    def __init__(self, folder: Path, suite: str = "smoke", ending: str = "") -> None:
        script = f"{ending} echo $$ > child.tmp; mv child.tmp child; sleep 60 & wait $!; exit 7"
        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stages.suite", suite, "--", "sh", "-c", script],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            # A group of its own, as a terminal makes one for each job.
            start_new_session=True,
        )
        wait_for((folder / "child").exists)

    @property
    def child(self) -> int:
        return int((self._folder / "child").read_text())

    def end(self) -> int:
        return self.process.wait(20)

    def clean_up(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start_one(ending: str = "") -> Started:
        started.append(Started(folder, ending=ending))
        return started[-1]

    # A shell lets its background jobs ignore interrupts, and their children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield start_one
    signal.signal(signal.SIGINT, before)
    for one in started:
        one.clean_up()


def test_the_command_sees_the_suite_and_only_its_name_changes(folder: Path) -> None:
    assert run(folder, "smoke", copy_command(folder)) == 0
    assert (folder / "seen").read_bytes() == TEXT.replace(b'"embedded"', b"smoke")
    assert params(folder) == TEXT
    assert not (folder / STATE).exists()


@pytest.mark.parametrize("suite", ["", "embedded"])
def test_the_present_suite_changes_nothing(folder: Path, suite: str) -> None:
    before = (folder / PARAMS).stat()
    assert run(folder, suite, copy_command(folder)) == 0
    assert (folder / "seen").read_bytes() == TEXT
    assert (folder / PARAMS).stat().st_mtime_ns == before.st_mtime_ns


def test_exit_code_and_file_after_a_failing_command(folder: Path) -> None:
    assert run(folder, "smoke", ["sh", "-c", "exit 3"]) == 3
    assert run(folder, "smoke", ["sh", "-c", "kill -9 $$"]) == 128 + signal.SIGKILL
    assert params(folder) == TEXT


def test_a_command_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match="no-such-program cannot be started"):
        run(folder, "smoke", ["no-such-program"])
    assert params(folder) == TEXT


def test_edits_made_during_the_run_stay(folder: Path) -> None:
    edit = ["sh", "-c", f"sed -i 's/epochs: 9/epochs: 8/' '{folder / PARAMS}'"]
    assert run(folder, "smoke", edit) == 0
    assert params(folder) == TEXT.replace(b"epochs: 9", b"epochs: 8")
    edit = ["sh", "-c", f"sed -i 's/^suite:   smoke/suite:   deep/' '{folder / PARAMS}'"]
    assert run(folder, "smoke", edit) == 0
    assert b"suite:   deep   #" in params(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT, "there is no suite 'nonsense'; params.yaml has smoke, embedded, deep"),
        (b"suite: a\n", "has no block 'suites:'"),
        (b"suite: [\n", "no valid YAML"),
        (b"suites: {nonsense: 1}\n", "needs one line 'suite: NAME', it has 0"),
        (None, "cannot be read"),
    ],
)
def test_bad_input_is_one_line(folder: Path, text: bytes | None, message: str) -> None:
    (folder / PARAMS).unlink()
    if text is not None:
        (folder / PARAMS).write_bytes(text)
    with pytest.raises(InputError) as caught:
        run(folder, "nonsense", ["true"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert text is None or params(folder) == text


def test_the_command_line_says_what_is_wrong(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for arguments in (["nonsense", "--", "true"], ["smoke", "true"]):
        done = subprocess.run(
            [sys.executable, "-m", "stages.suite", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_restores(
    folder: Path, start: Callable[..., Started], number: signal.Signals
) -> None:
    # Background shells ignore an interrupt: let this one take it.
    started = start(f"trap 'exit 5' {number.name.removeprefix('SIG')};")
    assert params(folder) != TEXT
    started.process.send_signal(number)
    assert started.end() == 128 + number
    assert params(folder) == TEXT
    assert not (folder / STATE).exists()


def test_a_signal_to_all_as_from_a_terminal(folder: Path, start: Callable[..., Started]) -> None:
    started = start()
    os.killpg(started.process.pid, signal.SIGTERM)
    assert started.end() == 128 + signal.SIGTERM
    assert params(folder) == TEXT


def test_a_killed_run_is_restored_by_the_next(folder: Path, start: Callable[..., Started]) -> None:
    started = start()
    os.killpg(started.process.pid, signal.SIGKILL)
    started.end()
    assert params(folder) != TEXT
    assert run(folder, "", copy_command(folder)) == 0
    assert (folder / "seen").read_bytes() == params(folder) == TEXT


def test_a_killed_run_is_restored_before_anything_is_looked_at(
    folder: Path, start: Callable[..., Started]
) -> None:
    started = start()
    os.killpg(started.process.pid, signal.SIGKILL)
    started.end()
    assert selected(folder) == "embedded"
    assert params(folder) == TEXT


def test_a_second_run_is_refused(folder: Path, start: Callable[..., Started]) -> None:
    started = start()
    with pytest.raises(InputError, match=rf"in use by another run \(process {started.process.pid}"):
        run(folder, "embedded", ["true"])
    assert selected(folder, "smoke") == "smoke"
    assert b"suite:   smoke" in params(folder)


def test_a_command_that_outlives_its_parent_keeps_the_file(
    folder: Path, start: Callable[..., Started]
) -> None:
    started = start()
    started.process.kill()
    started.end()
    with pytest.raises(InputError, match=f"with {started.child}"):
        run(folder, "embedded", ["true"])
    os.killpg(started.process.pid, signal.SIGKILL)
    wait_for(lambda: _runs(folder))
    assert params(folder) == TEXT


def _runs(folder: Path) -> bool:
    try:
        return run(folder, "smoke", ["true"]) == 0
    except InputError:
        return False


def test_a_dead_lock_file_is_no_lock(folder: Path) -> None:
    (folder / LOCK).parent.mkdir(parents=True)
    (folder / LOCK).write_text("process 1")
    assert run(folder, "smoke", ["true"]) == 0
