"""Independent jobs over processes, one thread each, and the progress that outlives a run.

The processes are joblib's own on this machine, or those of a Dask cluster whose machines share this
folder: docs/cluster.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm import tqdm

from ecqx.errors import InputError

WORK = Path("work")
PROCESSES = "ECQX_PROCESSES"
NO_PROGRESS = "ECQX_NO_PROGRESS"
SCHEDULER = "ECQX_DASK_SCHEDULER"
SECONDS_TO_WAIT = 30
# What the start of a process costs: imports.
SECONDS_TO_START = 5.0

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Job], Result], jobs: Sequence[Job], description: str, alone: float = 0.0
) -> list[Result]:
    """Call ``function`` on every job, over the processes of this machine or of a cluster.

    ``ECQX_PROCESSES`` says how many; ``ECQX_DASK_SCHEDULER`` names a cluster by its address.

    Parameters
    ----------
    function : callable
        Of a module; runs with one thread, so that its result does not depend on their number.
    jobs : sequence
        The long ones first.
    description : str
        Shown beside the progress bar.
    alone : float
        Seconds that this process works before others are started for the rest of the jobs. Short
        jobs are done before another process would have imported what it needs.

    Returns
    -------
    list
        Results in the order of the jobs.
    """
    here, started = str(Path.cwd()), monotonic()
    results: list[Result] = []
    with tqdm(total=len(jobs), desc=description, unit="run", disable=None) as progress:
        while len(results) < len(jobs) and monotonic() - started < alone:
            results.append(_at(here, function, jobs[len(results)]))
            progress.update()
        rest = jobs[len(results) :]
        if rest:
            with _workers(len(rest)) as count:
                parallel = Parallel(n_jobs=count, return_as="generator")
                for result in parallel(delayed(_at)(here, function, job) for job in rest):
                    results.append(result)
                    progress.update()
    return results


@contextmanager
def _workers(most: int) -> Iterator[int]:
    """Joblib's processes, at most so many, or all of a Dask cluster; yields their number."""
    address = os.environ.get(SCHEDULER)
    if address is None:
        yield min(processes(), most)
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise InputError(f"{SCHEDULER} needs Dask: pip install -e '.[cluster]'") from error
    # An empty address would start a cluster of its own.
    try:
        if not address:
            raise ValueError(address)
        client = Client(address, timeout=SECONDS_TO_WAIT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(f"{SCHEDULER}: no Dask scheduler answers at {address!r}") from error
    with client, parallel_config("dask", client=client, wait_for_workers_timeout=SECONDS_TO_WAIT):
        yield -1


def _at(folder: str, function: Callable[[Job], Result], job: Job) -> Result:
    """Call ``function`` in the folder of the pipeline, with one thread."""
    os.chdir(folder)
    torch.set_num_threads(1)
    return function(job)


def processes() -> int:
    """Number of worker processes: ``ECQX_PROCESSES``, or one a core."""
    value = os.environ.get(PROCESSES)
    if value is None:
        return int(cpu_count())
    if not value.isdecimal() or int(value) == 0:
        raise InputError(f"{PROCESSES} must be a whole number above 0, not {value!r}")
    return int(value)


def key_of(**parts: Any) -> str:
    """A short name for everything that a result depends on: 16 hexadecimal digits."""
    canonical = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def checksum(*paths: Path) -> str:
    """BLAKE2b of files, or of all Python files below folders, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.as_posix()}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def progress_folder(kind: str, key: str) -> Path:
    """Folder for the progress of one job, ``work/KIND/KEY``; empty where ECQX_NO_PROGRESS is set.

    It is no stage output, because DVC deletes those before it runs a stage.
    """
    folder = WORK / kind / key
    if os.environ.get(NO_PROGRESS):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
