"""Independent jobs on several processes, one thread each; their results are kept in ``work/``.

The processes are joblib's on this machine, or those of a Dask cluster whose machines share this
folder (docs/cluster.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TypeVar

import torch
from filelock import FileLock
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm import tqdm

from ecqx.errors import InputError
from ecqx.files import write_text

WORK = Path("work")
PROCESSES = "ECQX_PROCESSES"
NO_PROGRESS = "ECQX_NO_PROGRESS"
SCHEDULER = "ECQX_DASK_SCHEDULER"
SECONDS_TO_WAIT = 30
# The imports of a process take about this long.
SECONDS_TO_START = 5.0
# Files for a result's record, and for the state of an unfinished job.
RECORD, PROGRESS = "record.json", "epoch.pt"
# Suffix of an owner's list of the results that it needs.
_NEEDED = ".json"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Job(Protocol):
    """Work whose result is kept in a folder named after a hash of all that it depends on."""

    @property
    def key(self) -> str:
        """Hash of everything that the result depends on (`key_of`)."""

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        """Write the result's files into ``folder``; return its record, plain values.

        An interrupted job resumes from the file ``progress``, which is removed in the end.
        """


def run_jobs(kind: str, owner: str, jobs: Sequence[Job]) -> dict[str, Path]:
    """Run the jobs that have no result yet, each key once, in the order given.

    Returns the folder ``work/KIND/KEY`` of each key's result, with its record in ``record.json``.
    `remove_unused` removes the results that no ``owner`` needs any more.
    """
    folders = {job.key: _folder(kind, job.key) for job in jobs}
    write_text(WORK / kind / f"{owner}{_NEEDED}", json.dumps(sorted(folders)))
    missing = {job.key: job for job in jobs if not _is_finished(folders[job.key])}
    run_all(run_job, [(job, folders[key]) for key, job in missing.items()], kind)
    return folders


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished job."""
    content: dict[str, Any] = json.loads((folder / RECORD).read_text())["record"]
    return content


def remove_unused() -> list[Path]:
    """Remove the results that no owner needed in its last run; return their folders."""
    removed: list[Path] = []
    for kind in sorted(path for path in WORK.glob("*") if path.is_dir()):
        lists = [json.loads(path.read_text()) for path in kind.glob(f"*{_NEEDED}")]
        needed = {key for keys in lists for key in keys}
        folders = sorted(path for path in kind.iterdir() if path.is_dir())
        removed += [folder for folder in folders if folder.name not in needed]
    for folder in removed:
        shutil.rmtree(folder)
    return removed


def _folder(kind: str, key: str) -> Path:
    """The folder of a job's result, emptied where ECQX_NO_PROGRESS is set.

    It is no output of a DVC stage, because DVC deletes those before it runs the stage.
    """
    folder = WORK / kind / key
    if os.environ.get(NO_PROGRESS):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_job(work: tuple[Job, Path]) -> None:
    """Run one job in its folder, unless its result is there; write the record last.

    The record has the checksums of the result's files.

    The lock is for another suite that needs the same result at the same time.
    """
    job, folder = work
    with FileLock(folder / ".lock"):
        if _is_finished(folder):
            return
        record = job.run(folder, folder / PROGRESS)
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        files = {name: checksum(folder / name) for name in names if name not in (RECORD, PROGRESS)}
        write_text(folder / RECORD, json.dumps({"record": record, "files": files}))
        (folder / PROGRESS).unlink(missing_ok=True)


def _is_finished(folder: Path) -> bool:
    """Whether a result exists and its files have their checksums; a damaged one is redone."""
    try:
        files = json.loads((folder / RECORD).read_text())["files"]
        return all(checksum(folder / name) == expected for name, expected in files.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    alone: float = 0.0,
) -> list[Result]:
    """Call ``function`` on every item, in the processes of this machine or of a cluster.

    ``ECQX_PROCESSES`` sets their number, ``ECQX_DASK_SCHEDULER`` the address of a cluster. Each
    call has one thread, so that its result does not depend on the number of processes.

    Parameters
    ----------
    function : callable
        A function of a module.
    items : sequence
        The long ones first. The results are in their order.
    description : str
        Shown beside the progress bar.
    alone : float
        Seconds that this process works alone before it starts others for the remaining items:
        short items are done before other processes would have imported their modules.
    """
    here, started = str(Path.cwd()), monotonic()
    results: list[Result] = []
    with tqdm(total=len(items), desc=description, unit="run", disable=None) as progress:
        while len(results) < len(items) and monotonic() - started < alone:
            results.append(_at(here, function, items[len(results)]))
            progress.update()
        rest = items[len(results) :]
        if rest:
            with _workers(len(rest)) as count, warnings.catch_warnings():
                # joblib restarts processes whose memory has grown. That is expected here: stages
                # keep freed memory (stages/run).
                warnings.filterwarnings("ignore", "A worker stopped")
                parallel = Parallel(n_jobs=count, return_as="generator")
                for result in parallel(delayed(_at)(here, function, item) for item in rest):
                    results.append(result)
                    progress.update()
    return results


@contextmanager
def _workers(most: int) -> Iterator[int]:
    """Up to ``most`` processes of joblib, or all of a Dask cluster; yields joblib's ``n_jobs``."""
    address = os.environ.get(SCHEDULER)
    if address is None:
        yield min(processes(), most)
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise InputError(f"{SCHEDULER} needs Dask: pip install -e '.[cluster]'") from error
    try:
        # Client would start a cluster of its own for an empty address.
        if not address:
            raise ValueError(address)
        client = Client(address, timeout=SECONDS_TO_WAIT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(f"{SCHEDULER}: no Dask scheduler answers at {address!r}") from error
    with client, parallel_config("dask", client=client, wait_for_workers_timeout=SECONDS_TO_WAIT):
        yield -1


def _at(folder: str, function: Callable[[Item], Result], item: Item) -> Result:
    """Call ``function`` in a folder, with one thread."""
    os.chdir(folder)
    torch.set_num_threads(1)
    return function(item)


def processes() -> int:
    """Number of worker processes: ``ECQX_PROCESSES``, or one a core."""
    value = os.environ.get(PROCESSES)
    if value is None:
        return int(cpu_count())
    if not value.isdecimal() or int(value) == 0:
        raise InputError(f"{PROCESSES} must be a whole number above 0, not {value!r}")
    return int(value)


def key_of(**parts: Any) -> str:
    """Hash of everything that a result depends on, plain values: 16 hexadecimal digits."""
    canonical = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def checksum(path: Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
