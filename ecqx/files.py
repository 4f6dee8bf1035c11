"""Atomic writing: a file is the old one or the complete new one, whatever happens."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Age from which a temporary file is taken to be left behind by a killed process.
_ABANDONED_SECONDS = 3600
_TEMPORARY = ".part"


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    The contents are on disk before the file gets its name, so that a power cut leaves no empty
    file. A file that is replaced keeps its mode, a new one has that of the umask. ``OSError`` names
    ``path`` if it cannot be written (full disk, read-only folder).
    """
    path = expanded(path)
    # Through a symbolic link its target is replaced.
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _named(path):
        _remove_abandoned(target)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        temporary = _created(target, mode)
        try:
            _fill(temporary, write)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            if mode is not None:
                temporary.chmod(mode)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def expanded(path: str | Path) -> Path:
    """A path with ``~`` or ``~user`` at its start replaced by the home folder, if there is one."""
    # pathlib would take ./~ for the home folder.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _created(path: Path, mode: int | None) -> Path:
    """A new temporary file beside ``path``, open to no more users than a file of ``mode``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    allowed = 0o666 if mode is None else mode | stat.S_IWUSR
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, allowed))
    return temporary


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make errors of the file system name ``path``, not the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _fill(temporary: Path, write: Callable[[Path], object]) -> None:
    """Call ``write``; if the disk is full, raise the ``OSError`` that says so."""
    try:
        write(temporary)
    except OSError:
        raise
    except Exception:
        # Libraries raise errors of their own for a full disk, so write to it ourselves.
        with temporary.open("ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of this name that a killed process left behind."""
    latest = time.time() - _ABANDONED_SECONDS
    for file in path.parent.glob(f".{glob.escape(path.name)}.*{_TEMPORARY}"):
        with suppress(OSError):
            if file.stat().st_mtime < latest:
                file.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, with ``\\n`` as line end on every system."""
    write_atomically(path, lambda p: p.write_bytes(text.encode()))


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system does not support links."""
    try:
        os.link(source, target)
    except OSError:
        write_atomically(target, lambda path: shutil.copyfile(source, path))
