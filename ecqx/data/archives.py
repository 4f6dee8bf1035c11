"""The files of a folder, a tar or a zip archive, read one after the other and never unpacked."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ecqx.errors import InputError

ARCHIVES = (".tar.xz", ".tar.gz", ".tar", ".zip")
# What the standard library raises on archives that are cut off, damaged or encrypted.
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
    *(RuntimeError, KeyError, ValueError),
)
PIECE = 2**20

# Name in the archive or folder, and what reads the content.
Entry = tuple[str, Callable[[], bytes]]


def members(
    path: Path, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, bytes]]:
    """Go through the files below a folder or in an archive.

    Parameters
    ----------
    path : Path
        A folder, a ``.zip``, or a tar archive, compressed or not.
    wanted : callable
        Takes a name and says whether its file is to be read.

    Yields
    ------
    (str, bytes)
        Name, with ``/`` between folders and without the folder that holds everything where an
        archive has one, and content; folders in the order of their names, archives in their own.
        What starts with a dot or lies below such a folder is left out, and so is ``__MACOSX``.

    Raises
    ------
    InputError
        If the path is missing, or is no archive, or a damaged one.
    """
    with _damage_told(path):
        top = _top(path)
        for name, read in _entries(path):
            if wanted(name.removeprefix(top)):
                yield name.removeprefix(top), read()


def names(path: Path) -> list[str]:
    """The names that `members` would go through, each once."""
    with _damage_told(path):
        entries = dict.fromkeys(name for name, _ in _entries(path))
    top = "" if path.is_dir() else _common_folder(entries)
    return [name.removeprefix(top) for name in entries]


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Tell of the archive in one line, whatever its reader raises."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        yield
    except DAMAGED as error:
        # tarfile has messages of several lines.
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a readable folder, or whole zip or tar archive ({reason})"
        ) from error


def _entries(path: Path) -> Iterator[Entry]:
    """Every file, but for what file managers and editors leave behind."""
    if path.is_dir():
        entries = _in_folder(path)
    elif zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        entries = _in_zip(path)
    else:
        entries = _in_tar(path)
    for entry, read in entries:
        name = entry.removeprefix("./")
        if not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            yield name, read


def _in_folder(path: Path) -> Iterator[Entry]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield file.relative_to(path).as_posix(), file.read_bytes


def _in_zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                yield entry.filename, partial(archive.read, entry)


def _in_tar(path: Path) -> Iterator[Entry]:
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isfile() or entry.islnk():
                yield entry.name, partial(_content, archive, entry)
        _check_end(archive)


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file is not None
    return file.read()


def _check_end(archive: tarfile.TarFile) -> None:
    """See that what comes last is the end, blocks of zeros: tarfile takes damage for it too.

    Reading to the end of the file also compares the checksum of compressed ones.
    """
    assert archive.fileobj is not None
    # Where tarfile saw the end; reading the target of a link has moved on from there.
    archive.fileobj.seek(archive.offset + tarfile.BLOCKSIZE)
    ended = False
    while piece := archive.fileobj.read(PIECE):
        if piece.strip(b"\0"):
            raise tarfile.ReadError("damaged in the middle")
        ended = True
    if not ended:
        raise tarfile.ReadError("cut off")


def _top(path: Path) -> str:
    """The one folder that holds everything, with its slash; empty where there is none."""
    return "" if path.is_dir() else _common_folder(name for name, _ in _entries(path))


def _common_folder(entries: Iterable[str]) -> str:
    tops = {entry.partition("/")[:2] for entry in entries}
    folder, slash = tops.pop() if len(tops) == 1 else ("", "")
    return f"{folder}/" if slash else ""
