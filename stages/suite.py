"""Runs a command with another suite chosen in params.yaml: ``python -m stages.suite SUITE -- …``.

The pipeline reads its suite from the line ``suite:`` of params.yaml. For the time of the command
that line names the wanted suite; every other byte stays, and the line is put back afterwards. What
it said is kept on disk, so that the next start puts it back after a run that could not (a kill, a
power cut). Without a name (``""``) the command runs with the suite that params.yaml names.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
import yaml

from ecqx.errors import InputError
from ecqx.files import write_atomically, write_text
from stages.command import run_command_line

PARAMS = "params.yaml"
STATE = Path(".dvc/tmp/suite.json")
LOCK = Path(".dvc/tmp/suite.lock")

_LINE = re.compile(rb"^suite:[ \t]+(?P<value>[^#\r\n]*[^#\s])(?=[ \t]*(#[^\r\n]*)?\r?$)", re.M)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How long to wait for what ends by itself: a signal from the terminal reaches the command as well.
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.1


def main(arguments: Sequence[str]) -> int:
    """Run ``SUITE -- command …`` in the current folder; the command's exit code."""
    if len(arguments) < 3 or arguments[1] != "--":
        raise InputError("usage: python -m stages.suite SUITE -- COMMAND [ARGUMENT…]")
    return run(Path(), arguments[0], arguments[2:])


def run(root: Path, suite: str, command: Sequence[str]) -> int:
    """Run a command while params.yaml names a suite.

    Parameters
    ----------
    root : Path
        Folder of params.yaml.
    suite : str
        Name of the suite; empty for the one that params.yaml names.
    command : sequence of str
        Program and arguments.

    Returns
    -------
    int
        The command's exit code; 128 plus the signal's number where a signal ended it.
    """
    with _locked(root) as lock, _caught_signals() as caught:
        _restore(root)
        wanted = _known(root, suite)
        try:
            _switch(root, wanted)
            return _execute(command, lock, caught)
        finally:
            _restore(root)


def selected(root: Path, suite: str = "") -> str:
    """Name of the suite to look at, after a line that a killed run left behind was put back.

    Raises
    ------
    InputError
        If there is no such suite.
    """
    with suppress(_BusyError), _locked(root):
        _restore(root)
    return _known(root, suite)


class _BusyError(InputError):
    """Another run has params.yaml."""


@dataclass(frozen=True)
class _Lock:
    """The held lock; its file says by whom, in words for the one who is refused."""

    descriptor: int

    def note(self, owner: str) -> None:
        """Say who holds it."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, owner.encode(), 0)


@contextmanager
def _locked(root: Path) -> Iterator[_Lock]:
    """Hold the lock, which the command inherits.

    The system frees it when the last process that has it ends. So a dead run blocks nobody, and a
    pipeline that outlives its killed parent still keeps params.yaml.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _takes(descriptor):
            raise _BusyError(
                f"{PARAMS} is in use by another run ({path.read_text()}): wait for its end"
            )
        lock = _Lock(descriptor)
        lock.note(f"process {os.getpid()}")
        yield lock
    finally:
        os.close(descriptor)


def _takes(descriptor: int) -> bool:
    """Whether the lock can be had; what was killed a moment ago gets the time to be gone."""
    end = time.monotonic() + _GRACE_SECONDS
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)


def _known(root: Path, suite: str) -> str:
    """The suite's name, checked against those of params.yaml; its own choice for an empty name."""
    try:
        params = yaml.safe_load(_read(root))
    except yaml.YAMLError as error:
        raise InputError(f"{PARAMS} is no valid YAML: {' '.join(str(error).split())}") from error
    suites = params.get("suites") if isinstance(params, dict) else None
    if not isinstance(suites, dict):
        raise InputError(f"{PARAMS} has no block 'suites:' with the settings of each suite")
    name = suite or str(params.get("suite"))
    if name not in suites:
        raise InputError(f"there is no suite {name!r}; {PARAMS} has {', '.join(map(str, suites))}")
    return name


def _read(root: Path) -> bytes:
    try:
        return (root / PARAMS).read_bytes()
    except OSError as error:
        raise InputError(f"{PARAMS} cannot be read: {error.strerror}") from error


def _switch(root: Path, suite: str) -> None:
    """Name the suite in params.yaml and keep what stood there."""
    original = _value(_read(root))
    if yaml.safe_load(original) == suite:
        return
    # First what stood there, then the change: in this order nothing is ever lost.
    write_text(root / STATE, json.dumps({"original": original, "set": suite}))
    _replace_value(root, suite)


def _restore(root: Path) -> None:
    """Put back what the last switch replaced; an edit of that line made since then stays."""
    state = root / STATE
    if not state.exists():
        return
    kept = json.loads(state.read_text())
    if _value(_read(root)) == kept["set"]:
        _replace_value(root, kept["original"])
    state.unlink()


def _value(params: bytes) -> str:
    return _match(params)["value"].decode()


def _match(params: bytes) -> re.Match[bytes]:
    found = list(_LINE.finditer(params))
    if len(found) != 1:
        raise InputError(f"{PARAMS} needs one line 'suite: NAME', it has {len(found)}")
    return found[0]


def _replace_value(root: Path, value: str) -> None:
    params = _read(root)
    start, end = _match(params).span("value")
    changed = params[:start] + value.encode() + params[end:]
    write_atomically(root / PARAMS, lambda path: path.write_bytes(changed))


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collect the signals that would end this process; those it was told to ignore stay ignored."""
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number in _SIGNALS if before[number] != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _execute(command: Sequence[str], lock: _Lock, caught: list[int]) -> int:
    """Run the command to its end and pass signals on; its exit code as a shell would give it."""
    if caught:
        return 128 + caught[0]
    try:
        child = subprocess.Popen(command, pass_fds=(lock.descriptor,))
    except OSError as error:
        raise InputError(f"{command[0]} cannot be started: {error.strerror}") from error
    lock.note(f"process {os.getpid()} with {child.pid}")
    code = _wait(child, caught)
    if caught:
        return 128 + caught[0]
    return code if code >= 0 else 128 - code


def _wait(child: subprocess.Popen[bytes], caught: list[int]) -> int:
    passed_on = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(_POLL_SECONDS)
        if len(caught) > passed_on:
            passed_on = len(caught)
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_GRACE_SECONDS)
            _pass_on(child, caught[-1])


def _pass_on(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the command and to everything that it started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(child.pid)
        for member in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)


if __name__ == "__main__":
    sys.exit(run_command_line(main))
