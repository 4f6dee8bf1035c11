"""What a data set is made of: found below a folder, or fetched whole, checked and unpacked."""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from tqdm import tqdm

from ecqx.errors import InputError
from ecqx.progress import sign

# What tells the data folder, in words for messages.
NAMED_BY = "data.root, ECQX_DATA or --data_path"
# Seconds before each further attempt; an attempt that brought new bytes starts the count anew.
PAUSES = (1.0, 2.0, 4.0)
# Seconds to connect, and between two pieces of the content.
TIMEOUTS = (20.0, 60.0)
PIECE = 2**16
PARTIAL, RANGE_NOT_SATISFIABLE, TOO_MANY_REQUESTS, SERVER_ERROR = 206, 416, 429, 500
CONNECTION_LOST = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Source:
    """A data set, or a part of one, that has one official file.

    Attributes
    ----------
    title : str
        What messages call it.
    found_as : tuple of str
        Names below a data folder that count as having it, the best first: what the file unpacks
        to, or the file itself.
    url : str
        Where the file is fetched from.
    file : str
        The name that it gets below the data folder.
    checksum : str
        Of the file: ``md5:`` or ``sha256:`` and hexadecimal digits.
    """

    title: str
    found_as: tuple[str, ...]
    url: str
    file: str
    checksum: str


def is_at_hand(source: Source, root: str | Path) -> bool:
    """Whether a source is found below a folder, whole or not."""
    return _found(source, Path(root)) is not None


def _found(source: Source, root: Path) -> str | None:
    """The best of a source's names that stands below a folder."""
    names = (*source.found_as, source.file)
    return next((name for name in names if (root / name).exists()), None)


def provide(source: Source, root: str | Path) -> Path:
    """Find a source below a folder, or download it to there.

    A download that was cut off, by whatever, is continued by the next call: its bytes are kept in
    a ``.part`` file, which takes the file's name once it is whole and right. Of several processes
    one downloads, the others wait for it.

    Parameters
    ----------
    source : Source
    root : path
        The data folder; made where it is missing.

    Returns
    -------
    Path
        Of what was found, or of the downloaded file.

    Raises
    ------
    InputError
        If the source's file is there with another checksum (what it unpacks to is for its reader
        to judge), if nothing is there and the download fails, or if the folder cannot be written
        to.
    """
    root = Path(root)
    path = root / source.file
    try:
        if (name := _found(source, root)) is not None:
            if name == source.file:
                _check(path, source)
            return root / name
        with locked(path):
            if not path.exists():
                _download(source, path)
        return path
    except OSError as error:
        raise InputError(
            f"{source.title}: {error.filename or path}: {error.strerror or error}; "
            f"{NAMED_BY} may name another folder"
        ) from error


def unpack(archive: Path, folder: str) -> Path:
    """Unpack a tar archive's folder beside it; a folder that is there already is left as it is.

    Parameters
    ----------
    archive : Path
        Compressed or not.
    folder : str
        Name of the folder in the archive and beside it.

    Returns
    -------
    Path
        Of the folder, which appears at once and whole.

    Raises
    ------
    InputError
        If the archive is damaged or has no such folder, or its place cannot be written to.
    """
    target = archive.parent / folder
    try:
        with locked(archive):
            if not target.exists():
                with sign(f"unpacking {archive.name}"):
                    _unpack(archive, folder, target)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        # tarfile has messages of several lines.
        reason = " ".join(str(error).split())
        raise InputError(f"{archive}: {folder} cannot be unpacked from it ({reason})") from error
    return target


def _unpack(archive: Path, folder: str, target: Path) -> None:
    temporary = archive.with_name(f".{archive.name}.unpacking")
    # One that a kill left behind.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            _extract_files(tar, temporary)
        # The contents reach the disk before the name does; one call for thousands of files.
        os.sync()
        target.parent.mkdir(parents=True, exist_ok=True)
        (temporary / folder).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract_files(tar: tarfile.TarFile, folder: Path) -> None:
    """Plain files alone: without links nothing can lead out of the folder but a name.

    (tarfile's own filters are not in Python 3.11.0 to 3.11.3.)
    """
    for entry in tar:
        content = tar.extractfile(entry) if entry.isfile() else None
        if content is None:
            continue
        path = folder / entry.name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"{entry.name} would lie outside")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on a file; the system frees the lock when that one ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path}: another process is at work on it, waiting", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had it before has deleted the file: a lock on a file without a name is none.
            if os.fstat(file.fileno()).st_nlink:
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


def _check(path: Path, source: Source) -> None:
    with path.open("rb") as file:
        if not _matches(file, source.checksum):
            raise InputError(
                f"{path}: cut off, or not the file of {source.url} (its {source.checksum} "
                f"differs); delete it, and it will be fetched again"
            )


def _matches(file: BinaryIO, checksum: str) -> bool:
    algorithm, digits = checksum.split(":")
    file.seek(0)
    with sign(f"checking {Path(file.name).name}"):
        found = hashlib.file_digest(file, algorithm).hexdigest()  # type: ignore[arg-type]
    return found.startswith(digits)


def _download(source: Source, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("a+b") as file:
            _complete(file, source, path.parent)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def _complete(file: BinaryIO, source: Source, root: Path) -> None:
    """Append to a file until it is the source's."""
    # An earlier run may have ended between the last byte and the new name.
    if _matches(file, source.checksum):
        return
    _fetch(file, source, root)
    if not _matches(file, source.checksum):
        file.truncate(0)
        raise InputError(
            f"{source.url}: what came is not {source.file} (its {source.checksum} differs) and was "
            f"deleted; run again, or put the right file into {root}"
        )


def _fetch(file: BinaryIO, source: Source, root: Path) -> None:
    """Receive all that is missing, over as many connections as it takes."""
    longest, attempt = _size(file), 0
    while True:
        try:
            _receive(file, source)
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if _size(file) > longest:
                longest, attempt = _size(file), 0
            if attempt == len(PAUSES) or not _may_pass(error):
                raise InputError(_missing(source, root, error)) from error
        with sign(f"{source.title}: no connection, another attempt follows"):
            time.sleep(PAUSES[attempt])
        attempt += 1


def _receive(file: BinaryIO, source: Source) -> None:
    """Receive what is missing over one connection, as far as it goes."""
    size = _size(file)
    # Without encoding: the bytes that come are the file's, and ranges count the same ones.
    headers = {"Accept-Encoding": "identity"}
    if size:
        headers["Range"] = f"bytes={size}-"
    with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        status = response.status_code
        place = response.headers.get("Content-Range", "")
        continued = status == PARTIAL and place.startswith(f"bytes {size}-")
        if size and not continued and status in (PARTIAL, RANGE_NOT_SATISFIABLE):
            # What is there is longer than the file, or another piece came than asked for.
            file.truncate(0)
            _receive(file, source)
            return
        response.raise_for_status()
        if not continued:
            file.truncate(0)
            size = 0
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        with tqdm(
            total=total, initial=size, unit="B", unit_scale=True, desc=source.title, disable=None
        ) as bar:
            for piece in response.raw.stream(PIECE, decode_content=False):
                file.write(piece)
                bar.update(len(piece))


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may do better."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status >= SERVER_ERROR or status == TOO_MANY_REQUESTS
    lost = isinstance(error, CONNECTION_LOST)
    return lost and not isinstance(error, requests.exceptions.SSLError)


def _missing(source: Source, root: Path, error: Exception) -> str:
    reason = type(error).__name__
    if isinstance(error, requests.HTTPError) and error.response is not None:
        reason = f"HTTP {error.response.status_code}"
    return (
        f"{source.title}: not in {root}, and {source.url} cannot be fetched ({reason}); put "
        f"{' or '.join(source.found_as)} there, let {NAMED_BY} name the folder that "
        f"has it, or run `make paper-results SUITE=embedded`, which needs no download"
    )
