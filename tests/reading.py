"""Forged files read by the real decoder in another process, with what each costs."""

from __future__ import annotations

import ctypes
import hashlib
import math
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from forging import UNSEALED, forged
from hypothesis import HealthCheck, given, settings
from nncodec.extensions import deepCABAC
from torch import Tensor

from ecqx.assignment.bits import FORMS
from ecqx.assignment.codebooks import Codebook
from ecqx.coding.bitstream import load, save
from ecqx.coding.container import code_metadata, read_contents
from ecqx.coding.entries import Entry
from ecqx.coding.inspection import inspect
from ecqx.coding.quantized import CodebookTensor
from ecqx.errors import InputError

# What reading a file may cost: seconds of CPU, memory as a multiple of what the file announces. A
# process takes and keeps some memory in any case.
MOST_SECONDS, MOST_MEMORY, MEMORY_IN_ANY_CASE = 1.0, 10, 8 << 20
# Parsed JSON takes more memory than its text: each byte of it counts as this many.
BYTES_OF_JSON = 8
# Seconds by the clock after which a file is given up.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    refusal : str or None
        The message; None if the file was read.
    problem : str
        A wrong answer or a bad message; empty if there is none.
    decoded : int
        Slices that NNCodec's engine decoded.
    seconds : float
        Of CPU.
    memory, announced : int
        Bytes: the most that reading took, and the size of the file with that of its tensors.
    """

    refusal: str | None
    problem: str
    decoded: int
    seconds: float
    memory: int
    announced: int

    def check(self) -> None:
        """AssertionError if the answer is wrong or cost too much."""
        assert not self.problem
        assert self.seconds <= MOST_SECONDS
        assert self.memory <= max(MOST_MEMORY * self.announced, MEMORY_IN_ANY_CASE), self


class Reader:
    """A process that reads files, started again after a crash."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "forged.ecqx"
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=_count_slices)

    def read(self, data: bytes) -> Outcome:
        """AssertionError if the process crashes or does not come back."""
        self.path.write_bytes(data)
        try:
            return self.pool.submit(_outcome, self.path).result(_PATIENCE)
        except (BrokenProcessPool, TimeoutError) as error:
            self.close()
            self._start()
            raise AssertionError("reading crashed or did not end") from error

    def close(self) -> None:
        """End the process, whatever it does."""
        for process in self.pool._processes.values():
            process.kill()
        self.pool.shutdown()


def fuzz(reader: Reader, kind: str, files: int) -> Counter[str]:
    """Forge and read files of a kind; returns how many were refused, read and decoded."""
    seen = Counter[str]()

    @settings(max_examples=files, suppress_health_check=list(HealthCheck))
    @given(forged(kind))
    def check(data: bytes) -> None:
        outcome = reader.read(data)
        outcome.check()
        assert outcome.refusal or kind != UNSEALED
        refused = outcome.refusal is not None
        seen.update(files=1, refused=refused, read=not refused, decoded=outcome.decoded > 0)

    check()
    return seen


_slices: list[None] = []


def _count_slices() -> None:
    """Note every decoder that is made, in this process."""
    torch.set_num_threads(1)
    # What torch loads when an operation is first used is no cost of a file.
    for form in FORMS:
        codebook = Codebook.of(form, torch.ones(2))
        CodebookTensor(torch.zeros(3, dtype=torch.int32), codebook).values()
    # The engine prints remarks of its own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    original = deepCABAC.Decoder

    def noted() -> object:
        _slices.append(None)
        return original()

    deepCABAC.Decoder = noted


def _outcome(path: Path) -> Outcome:
    announced = path.stat().st_size + _announced(path)
    _slices.clear()
    before, started = _start_of_memory(), time.process_time()
    refusal, problem, state = None, "", dict[str, Tensor]()
    try:
        state = load(path)
    except InputError as error:
        refusal = str(error)
        if "\n" in refusal or str(path) not in refusal:
            problem = f"no good message: {refusal!r}"
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - started
    memory, slices = _memory("VmHWM") - before, len(_slices)
    if refusal is None and not problem:
        problem = _contradiction(path, state)
    return Outcome(refusal, problem, slices, seconds, memory, announced)


def _announced(path: Path) -> int:
    """Bytes of the tensors that a file says it holds; 0 if it is refused."""
    try:
        contents = read_contents(path)
    except InputError:
        return 0
    json = len(code_metadata(contents.metadata)) if contents.metadata else 0
    return BYTES_OF_JSON * json + sum(map(_bytes_of, contents.entries.values()))


def _bytes_of(entry: Entry) -> int:
    dtype: torch.dtype = getattr(torch, entry.dtype)
    return dtype.itemsize * math.prod(entry.shape)


def _contradiction(path: Path, state: dict[str, Tensor]) -> str:
    """What is wrong with an answer: it must be what the file says, and the same a second time."""
    contents = inspect(path)
    if [(r.name, f"torch.{r.dtype}", r.shape) for r in contents.tensors] != [
        (name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in state.items()
    ]:
        return "other tensors than the file names"
    copy = path.with_name("again.ecqx")
    save(copy, state, metadata=contents.metadata)
    if inspect(copy).metadata != contents.metadata:
        return "other metadata a second time"
    answers = {hash_of(state), hash_of(load(path)), hash_of(load(copy))}
    return "" if len(answers) == 1 else "reads differently a second time"


def hash_of(state: dict[str, Tensor]) -> str:
    """A hash of names and bits."""
    digest = hashlib.blake2b()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _start_of_memory() -> int:
    """Resident bytes now; the peak is measured from here on.

    What was freed before is given back to the system first, or its use would not be seen.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
