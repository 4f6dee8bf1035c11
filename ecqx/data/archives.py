"""The files of a folder, a tar or a zip archive, read one after the other without unpacking."""

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

# Name of a file, and the function that reads its content; None for a link that is not followed.
Entry = tuple[str, Callable[[], bytes] | None]


def members(
    path: Path, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file that is ``wanted``, of a folder, ``.zip``, or tar archive.

    Names are relative to the folder or to the archive's only top folder, with ``/`` as separator.
    Folders are sorted by name, archives keep their own order. Hidden files and folders and
    ``__MACOSX`` are left out. Links in a folder are followed, unless they lead back to a folder
    that they are in; symbolic links in archives are not. A path that is missing, damaged
    or no archive is an `InputError`, and so is a wanted link to what is not there.
    """
    with _errors_name(path):
        top = "" if path.is_dir() else _top_folder(name for name, _ in _entries(path))
        for name, read in _entries(path):
            if read is not None and wanted(name.removeprefix(top)):
                yield name.removeprefix(top), read()


def names(path: Path) -> list[str]:
    """The distinct names that `members` would yield."""
    return names_and_links(path)[0]


def names_and_links(path: Path) -> tuple[list[str], list[str]]:
    """The distinct names that `members` would yield, and symbolic links of a tar archive."""
    with _errors_name(path):
        entries = {name: read is not None for name, read in _entries(path)}
    top = "" if path.is_dir() else _top_folder(entries)
    short = {name.removeprefix(top): is_file for name, is_file in entries.items()}
    return [n for n in short if short[n]], [n for n in short if not short[n]]


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line that names the archive."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        yield
    except InputError:
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a readable folder, or whole zip or tar archive ({reason})"
        ) from error


def _entries(path: Path) -> Iterator[Entry]:
    """Every file except those that file managers and editors leave behind."""
    if path.is_dir():
        entries = _in_folder(path)
    elif zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        entries = _in_zip(path)
    else:
        entries = _in_tar(path)
    for entry, read in entries:
        name = entry.removeprefix("./")
        if not any(map(_is_hidden, name.split("/"))):
            yield name, read


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _in_folder(path: Path) -> Iterator[Entry]:
    for file in sorted(_files(path)):
        name = file.relative_to(path).as_posix()
        yield name, partial(_content_of, file, f"{path}: {name}")


def _files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Every file below a folder, and links to what is not there.

    Of a link to one of the folders ``above``, by device and inode, nothing: it has no end.
    """
    own = folder.stat()
    above |= {(own.st_dev, own.st_ino)}
    for path in folder.iterdir():
        if _is_hidden(path.name):
            continue
        if path.is_dir():
            place = path.stat()
            if (place.st_dev, place.st_ino) not in above:
                yield from _files(path, above)
        elif path.is_file() or path.is_symlink():
            yield path


def _content_of(file: Path, what: str) -> bytes:
    if not file.exists():
        raise InputError(f"{what}: a link to a file that is not there")
    return file.read_bytes()


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
            elif entry.issym():
                yield entry.name, None
        _check_end(archive)


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file is not None
    return file.read()


def _check_end(archive: tarfile.TarFile) -> None:
    """Check that only blocks of zeros follow: tarfile takes a damaged header for the end.

    Reading on also makes gzip and xz compare their checksums.
    """
    assert archive.fileobj is not None
    # Seek, because reading the target of a link has moved the position.
    archive.fileobj.seek(archive.offset + tarfile.BLOCKSIZE)
    ended = False
    while piece := archive.fileobj.read(PIECE):
        if piece.strip(b"\0"):
            raise tarfile.ReadError("damaged in the middle")
        ended = True
    if not ended:
        raise tarfile.ReadError("cut off")


def _top_folder(entries: Iterable[str]) -> str:
    """The one folder that contains everything, with its slash; empty if there is none."""
    tops = {entry.partition("/")[:2] for entry in entries}
    folder, slash = tops.pop() if len(tops) == 1 else ("", "")
    return f"{folder}/" if slash else ""
