"""Data sets and weights: found in a folder, or downloaded, checked and unpacked."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from ecqx.errors import InputError
from ecqx.progress import announced

# Where the name of the data folder comes from, in words for messages.
NAMED_BY = "data.root, ECQX_DATA or --data_path"
# Failed connections and busy servers are tried again at once and after 1, 2 and 4 seconds, however
# long a server asks to wait; TLS errors (``other``) are not.
RETRIES = urllib3.Retry(
    total=4,
    other=0,
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,
)
# Broken connections in a row before a download is given up; one that brought more of the file is
# the first of a new row.
CONNECTIONS = 4
# Seconds to connect, and between two pieces of the content.
TIMEOUTS = (20.0, 60.0)
# Bytes written at a time.
PIECE = 2**16
PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416


@dataclass(frozen=True)
class Source:
    """A data set, or a part of one, that is one official file.

    Attributes
    ----------
    title : str
        Its name in messages.
    found_as : tuple of str
        Names in a data folder that count as having it, preferred first: what the file unpacks to,
        or the file itself.
    url : str
        Ends with the file's name; empty for a file that has no public address.
    checksum : str
        Of the file: ``md5:`` or ``sha256:`` and the first hexadecimal digits, or all.
    otherwise : str
        What works without it, in words for messages.
    """

    title: str
    found_as: tuple[str, ...]
    url: str
    checksum: str
    otherwise: str = "run `make paper-results SUITE=embedded`, which needs no download"

    @property
    def file(self) -> str:
        """Name of the downloaded file in the data folder."""
        return self.url.rpartition("/")[2] or self.found_as[-1]


def is_available(source: Source, root: str | Path) -> bool:
    """Whether a folder has the source; its checksum is not compared."""
    return _found(source, Path(root)) is not None


def _found(source: Source, root: Path) -> str | None:
    names = (*source.found_as, source.file)
    return next((name for name in names if (root / name).exists()), None)


def provide(source: Source, root: str | Path) -> Path:
    """Find a source in the data folder ``root``, or download it to there; returns its path.

    An interrupted download is continued by the next call: it is kept as a ``.part`` file, which is
    renamed when it is complete and its checksum is right. Of several processes one downloads and
    the others wait. What was unpacked from the file has no checksum; its reader checks it.

    A wrong checksum, a failed download and a folder that cannot be written to are `InputError`.
    """
    root = Path(root)
    path = root / source.file
    try:
        if (name := _found(source, root)) is not None:
            if name == source.file:
                _check(path, source)
            return root / name
        if not source.url:
            raise InputError(
                f"{source.title}: not in {root}, and it cannot be downloaded; put "
                f"{' or '.join(source.found_as)} there, or {source.otherwise}"
            )
        with locked(path):
            if not path.exists():
                _download(source, path)
        return path
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        reason = type(error).__name__
        if isinstance(error, requests.HTTPError) and error.response is not None:
            reason = f"HTTP {error.response.status_code}"
        raise InputError(
            f"{source.title}: not in {root}, and {source.url} cannot be downloaded ({reason}); put "
            f"{' or '.join(source.found_as)} there, let {NAMED_BY} name the folder that "
            f"has it, or {source.otherwise}"
        ) from error
    except OSError as error:
        raise InputError(
            f"{source.title}: {error.filename or path}: {error.strerror or error}; "
            f"{NAMED_BY} may name another folder"
        ) from error


def unpack(archive: Path, folder: str) -> Path:
    """Unpack a tar archive beside itself and return ``folder``, which lies in it.

    The folder appears under its name only when it is complete; one that exists is not unpacked.
    An archive that is damaged, unsafe or lacks the folder is an `InputError`.
    """
    target = archive.parent / folder
    try:
        with locked(archive):
            if not target.exists():
                with announced(f"unpacking {archive.name}"):
                    _unpack(archive, folder, target)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{archive}: {folder} cannot be unpacked from it ({reason})") from error
    return target


def _unpack(archive: Path, folder: str, target: Path) -> None:
    temporary = archive.with_name(f".{archive.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        os.sync()  # the contents must be on disk before the folder gets its name
        target.parent.mkdir(parents=True, exist_ok=True)
        (temporary / folder).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on a file; the lock ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{path}: another process is working on it, waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        # filelock does not delete its file. It is deleted while it is locked: a process that then
        # gets the deleted file's lock notices, and locks a new file.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _check(path: Path, source: Source) -> None:
    with path.open("rb") as file:
        if not _matches(file, source.checksum):
            raise InputError(
                f"{path}: cut off, or not the file of {source.url or source.title} (its "
                f"{source.checksum} differs); delete it, and "
                f"{'it will be downloaded again' if source.url else source.otherwise}"
            )


def _matches(file: BinaryIO, checksum: str) -> bool:
    algorithm, digits = checksum.split(":")
    file.seek(0)
    with announced(f"checking {Path(file.name).name}"):
        found = hashlib.file_digest(file, algorithm).hexdigest()  # type: ignore[arg-type]
    return found.startswith(digits)


def _download(source: Source, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("a+b") as file:
            # A killed process may have left a complete file.
            if not _matches(file, source.checksum):
                _fetch(file, source)
                if not _matches(file, source.checksum):
                    file.truncate(0)
                    raise InputError(
                        f"{source.url}: the download is not {source.file} (its {source.checksum} "
                        f"differs) and was deleted; run again, or put the right file into "
                        f"{path.parent}"
                    )
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def _fetch(file: BinaryIO, source: Source) -> None:
    """Append what is missing, over new connections as long as they bring more of the file."""
    with requests.Session() as session:
        session.mount(source.url, HTTPAdapter(max_retries=RETRIES))
        longest, left = _size(file), CONNECTIONS
        while True:
            try:
                return _receive(session, file, source)
            except urllib3.exceptions.HTTPError:  # the content broke off
                size = _size(file)
                left = (CONNECTIONS if size > longest else left) - 1
                if not left:
                    raise
                longest = max(longest, size)


def _receive(session: requests.Session, file: BinaryIO, source: Source) -> None:
    """Receive what is missing over one connection, as far as it goes."""
    size = _size(file)
    # "identity": the archive's own compression must not be undone.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    with session.get(source.url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {size}-")
        if size and not continued and response.status_code in (PARTIAL, RANGE_NOT_SATISFIABLE):
            # The file is longer than the server's, or the server sends another range: start again.
            file.truncate(0)
            return _receive(session, file, source)
        response.raise_for_status()
        if response.status_code != PARTIAL:  # the server sends the whole file
            file.truncate(0)
            size = 0
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        with tqdm(
            total=total, initial=size, unit="B", unit_scale=True, desc=source.title, disable=None
        ) as bar:
            # The raw stream, since requests would undo a Content-Encoding.
            for piece in response.raw.stream(PIECE, decode_content=False):
                file.write(piece)
                bar.update(len(piece))


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)
