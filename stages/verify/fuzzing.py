"""Forged files through the real decoder, in one process that is started again after a crash."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from nncodec.extensions import deepCABAC
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from ecqx.coding.bitstream import inspect, load, save
from ecqx.coding.container import read_entries
from ecqx.coding.tensor_coding import FLOAT_DTYPES, INTEGER_DTYPES, Entry
from ecqx.errors import InputError
from stages.verify.document import Section
from stages.verify.forging import Forged, forge, originals

FILES = 10_000
# What reading a file may cost: seconds of CPU, memory as a multiple of what the file announces. A
# process takes and keeps some memory in any case.
MOST_SECONDS, MOST_MEMORY, MEMORY_IN_ANY_CASE = 1.0, 10, 8 << 20
# A file that takes so many seconds by the clock, on a busy machine, is given up.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    refusal : str or None
        The message; None where the file was read.
    problem : str
        What must not be: empty if all is well.
    decoded : int
        Slices that the real decoder was given.
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

    def problems(self) -> str:
        """What must not be, costs included."""
        if self.seconds > MOST_SECONDS:
            return f"{self.seconds:.1f} s"
        if self.memory > max(MOST_MEMORY * self.announced, MEMORY_IN_ANY_CASE):
            return f"{self.memory} bytes of memory where {self.announced} are announced"
        return self.problem


@dataclass
class Tally:
    """What became of all files."""

    kinds: Counter[tuple[bool, str]] = field(default_factory=Counter)
    refused: Counter[tuple[bool, str]] = field(default_factory=Counter)
    decoded: Counter[tuple[bool, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    crashes: int = 0
    hangs: int = 0

    def add(self, number: int, forged: Forged, outcome: Outcome | str) -> None:
        """Count one file; a word in place of an outcome says how the process ended."""
        key = (forged.sealed, forged.kind)
        self.kinds[key] += 1
        if isinstance(outcome, str):
            self.crashes += outcome == CRASH
            self.hangs += outcome == HANG
            self.problems.append(f"file {number} ({forged.kind}): {outcome}")
            return
        self.refused[key] += outcome.refusal is not None
        self.decoded[key] += outcome.decoded > 0
        problem = outcome.problems()
        if not forged.sealed and forged.data != forged.original.data and outcome.refusal is None:
            problem = "was read in spite of its checksum"
        if problem:
            self.problems.append(f"file {number} ({forged.kind}): {problem}")


CRASH, HANG = "crashed the process", "did not end"


class Reader:
    """The process that reads, started again after a crash."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, path: Path) -> Outcome | str:
        """Let it read one file; `CRASH` or `HANG` where nothing comes back."""
        try:
            self._connection.send(str(path))
            if self._connection.poll(_PATIENCE):
                outcome: Outcome = self._connection.recv()
                return outcome
            ended = HANG
        except (EOFError, OSError):
            ended = CRASH
        self.close()
        self._start()
        return ended

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def serve(connection: Connection[Any, Any]) -> None:
    """Read the files whose names come in, until the other end is closed."""
    torch.set_num_threads(1)
    # The engine prints remarks of its own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    decoded = _count_slices()
    while True:
        try:
            path = Path(connection.recv())
        except EOFError:
            return
        decoded.clear()
        connection.send(_outcome(path, decoded))


def _count_slices() -> list[None]:
    """Have a note of every decoder that is made."""
    made: list[None] = []
    original = deepCABAC.Decoder

    def noted() -> Any:
        made.append(None)
        return original()

    deepCABAC.Decoder = noted
    return made


def _outcome(path: Path, decoded: list[None]) -> Outcome:
    announced = path.stat().st_size + _announced(path)
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
    memory, slices = _peak_of_memory() - before, len(decoded)
    if refusal is None and not problem:
        problem = _contradiction(path, state)
    return Outcome(refusal, problem, slices, seconds, memory, announced)


def _announced(path: Path) -> int:
    """Bytes of the tensors that a file says it holds; 0 where it cannot be told."""
    try:
        entries = read_entries(path)
    except InputError:
        return 0
    return sum(_bytes_of(entry) for entry in entries.values())


def _bytes_of(entry: Entry) -> int:
    dtype = INTEGER_DTYPES.get(entry.code, torch.float32)
    if entry.code in FLOAT_DTYPES:
        dtype = FLOAT_DTYPES[entry.code][0]
    elements = dtype.itemsize
    for size in entry.shape:
        elements *= size
    return elements


def _contradiction(path: Path, state: dict[str, Tensor]) -> str:
    """What is wrong with an answer: it must be what the file says, and the same again and again."""
    records = inspect(path).tensors
    if [(r.name, r.dtype, r.shape) for r in records] != [
        (name, tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()
    ]:
        return "other tensors than the file names"
    copy = path.with_name("again.ecqx")
    save(copy, state)
    answers = {fingerprint(state), fingerprint(load(path)), fingerprint(load(copy))}
    return "" if len(answers) == 1 else "reads differently a second time"


def fingerprint(state: dict[str, Tensor]) -> str:
    """A hash of names and bits."""
    digest = hashlib.blake2b()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _start_of_memory() -> int:
    """Resident bytes now; the peak is measured from here on.

    What was freed before is given back to the system first, or it would be used without being seen.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _peak_of_memory() -> int:
    return _memory("VmHWM")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def fuzz(reader: Reader, files: int, seed: int = 0) -> Tally:
    """Forge files, every second one with its checksum, and have them read."""
    good, tally = originals(), Tally()
    with tempfile.TemporaryDirectory(prefix="ecqx-fuzz-") as folder:
        path = Path(folder) / "forged.ecqx"
        for number in tqdm(range(files), desc="fuzzing", unit="file", disable=None):
            rng = random.Random(f"{seed} {number}")
            forged = forge(rng, good, sealed=number % 2 == 1)
            path.write_bytes(forged.data)
            tally.add(number, forged, reader.read(path))
    return tally


def fuzzing(_root: Path, _suite: str) -> Section:
    """Ten thousand forged files."""
    reader = Reader()
    tally = fuzz(reader, FILES)
    reader.close()
    rows: list[tuple[str | int, ...]] = []
    for (sealed, kind), count in sorted(tally.kinds.items()):
        refused, decoded = tally.refused[sealed, kind], tally.decoded[sealed, kind]
        checksum = "recomputed" if sealed else "as it comes"
        rows.append((checksum, kind, count, refused, count - refused, decoded))
    sums = [sum(map(int, column)) for column in zip(*(row[2:] for row in rows), strict=True)]
    rows.append(("all", "", *sums))
    table = tabulate(
        rows, ("checksum", "file", "files", "refused", "read", "reached the decoder"), "github"
    )
    passed = not tally.problems and sums[0] == FILES
    found = "\n".join(f"- {problem}" for problem in tally.problems[:20])
    text = (
        f"{sums[0]} forged files, made from files of both versions of the format with every type "
        "of tensor and from random bytes, read by one process that is started again after a crash. "
        "A file is either refused in one line that names it, or read as what it says, the same "
        f"twice and after being saved again.\n\n{table}\n\n"
        f"Crashes: {tally.crashes}. Files that took more than {MOST_SECONDS:g} s, or more memory "
        f"than {MOST_MEMORY} times what they announce (or {MEMORY_IN_ANY_CASE >> 20} MiB), or were "
        f"answered wrongly: {len(tally.problems) - tally.crashes}.\n\n{found}"
    ).rstrip()
    figures = f"{sums[0]} files, {sums[3]} of them decoded; crashes: {tally.crashes}; "
    figures += f"hangs, memory or wrong answers: {len(tally.problems) - tally.crashes}"
    return Section("fuzzing", "Forged bitstreams", text, passed, figures)
