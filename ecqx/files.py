"""Files that are either the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What a killed process left behind: nobody writes one file for so long.
_ABANDONED_SECONDS = 3600
_TEMPORARY = ".part"


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    The contents reach the disk before the name does, so that a power cut leaves no empty file.

    Raises
    ------
    OSError
        With the name of ``path``, if it cannot be written: a full disk, a folder that is read-only.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path):
        _remove_abandoned(path)
        handle, name = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            _fill(temporary, write)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the file system tell of the file that is wanted, not of the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _fill(temporary: Path, write: Callable[[Path], object]) -> None:
    """Call ``write``; where it fails for lack of space, with the error that says so."""
    try:
        write(temporary)
    except OSError:
        raise
    except Exception:
        # Libraries have errors of their own for a full disk: the disk itself is asked.
        with temporary.open("ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of this name that a killed process left behind."""
    start = f".{path.name}."
    for left in path.parent.glob(f".*{_TEMPORARY}"):
        with suppress(OSError):
            if left.name.startswith(start) and left.stat().st_mtime < time.time() - (
                _ABANDONED_SECONDS
            ):
                left.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, with ``\\n`` line ends on every system."""
    write_atomically(path, lambda p: p.write_bytes(text.encode()))


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        write_atomically(target, lambda path: shutil.copyfile(source, path))
