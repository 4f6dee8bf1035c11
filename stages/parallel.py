"""Independent jobs over processes, one thread each, and the progress that outlives a run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from ecqx.errors import InputError

WORK = Path("work")
PROCESSES = "ECQX_PROCESSES"
NO_PROGRESS = "ECQX_NO_PROGRESS"

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Job], Result], jobs: Sequence[Job], description: str, chunk: int = 1
) -> list[Result]:
    """Call ``function`` on every job, over as many processes as ``ECQX_PROCESSES`` says.

    Parameters
    ----------
    function : callable
        Of a module; runs with one thread, so that its result does not depend on their number.
    jobs : sequence
        The long ones first.
    description : str
        Shown beside the progress bar.
    chunk : int
        Jobs that are worth the start of a process, some seconds of imports.

    Returns
    -------
    list
        Results in the order of the jobs.
    """
    if not jobs:
        return []
    parallel = Parallel(n_jobs=min(processes(), -(-len(jobs) // chunk)), return_as="generator")
    results: Iterable[Result] = parallel(delayed(_single_threaded)(function, job) for job in jobs)
    return list(tqdm(results, total=len(jobs), desc=description, unit="run", disable=None))


def _single_threaded(function: Callable[[Job], Result], job: Job) -> Result:
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
