"""What is in an .ecqx file. Imports no torch, which takes longer than reading most files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.assignment.bits import Form
from ecqx.coding.container import body_length_bytes, read_contents
from ecqx.coding.entries import Entry, varint
from ecqx.coding.type_codes import WEIGHTS, Kind
from ecqx.errors import InputError, input_errors
from ecqx.files import expanded
from ecqx.progress import counted


@dataclass(frozen=True)
class FileSize:
    """Size of a file in bytes: ``total``, of which ``integers`` for the coded weights.

    Fields whose length depends on that of the coded weights are counted with them.
    """

    total: int
    integers: int

    @property
    def other(self) -> int:
        """Bytes of all else: header, names, steps, codebooks, other tensors."""
        return self.total - self.integers


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of a file.

    ``dtype`` names that of the tensor that `ecqx.load` returns, ``coded_bytes`` is the length of
    the payload. Quantized tensors have ``bits``, and the ``step`` of their grid or the ``form`` and
    ``numbers`` of their codebook (`ecqx.assignment.codebooks`). If they are decoded and not empty,
    they also have ``sparsity``, in [0, 1], and first-order ``entropy`` in bits per element.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    coded_bytes: int
    bits: int | None = None
    step: float | None = None
    sparsity: float | None = None
    entropy: float | None = None
    form: Form | None = None
    numbers: tuple[float, ...] | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileInfo:
    """Contents of a file: its size, its tensors, in order, and its metadata."""

    size: FileSize
    tensors: tuple[TensorRecord, ...]
    metadata: dict[str, Any]

    @property
    def float_elements(self) -> int:
        """Number of elements of all floating-point tensors, quantized ones included."""
        return sum(record.elements for record in self.tensors if record.kind != "integer")

    @property
    def compression_ratio(self) -> float:
        """Four bytes per float element over the size of the file."""
        return 4 * self.float_elements / self.size.total

    @property
    def quantized_elements(self) -> int:
        """Number of elements of all quantized tensors that were decoded."""
        return sum(record.elements for record in self.tensors if record.sparsity is not None)

    @property
    def sparsity(self) -> float | None:
        """Share of zeros among them; None if there are none."""
        return self._mean("sparsity")

    @property
    def entropy(self) -> float | None:
        """Their mean first-order entropy in bits per weight; None if there are none."""
        return self._mean("entropy")

    def _mean(self, name: str) -> float | None:
        decoded = [record for record in self.tensors if record.sparsity is not None]
        total = sum(record.elements * getattr(record, name) for record in decoded)
        return total / self.quantized_elements if decoded else None


def inspect(path: str | Path, statistics: bool = True, progress: bool = False) -> FileInfo:
    """Contents of a file that `ecqx.save` wrote; errors as of `ecqx.load`.

    With ``statistics`` the quantized tensors are decoded, for their sparsity and entropy.

    Examples
    --------
    >>> inspect("model.ecqx").metadata["classes"]  # doctest: +SKIP
    ['daisy', 'rose', 'tulip']
    """
    contents = read_contents(expanded(path))
    records = []
    for name, entry in counted(contents.entries.items(), "reading", "tensor", progress):
        with errors_name(path, name):
            records.append(_record(name, entry, statistics))
    size = file_size(contents.entries.values(), expanded(path).stat().st_size)
    return FileInfo(size, tuple(records), contents.metadata)


def file_size(entries: Iterable[Entry], total: int) -> FileSize:
    """Sizes in a file of ``total`` bytes.

    Bytes of the coded weights and of the fields for their length: the rest then does not depend on
    the weights, which a regression check relies on.
    """
    payloads = [len(entry.payload) for entry in entries if entry.code in WEIGHTS]
    if not payloads:
        return FileSize(total, 0)
    lengths = sum(len(varint(length)) for length in payloads)
    return FileSize(total, sum(payloads) + lengths + body_length_bytes(total))


@contextmanager
def errors_name(path: str | Path, name: str) -> Iterator[None]:
    """Make errors of decoding name the file and the tensor."""
    try:
        with input_errors(f"{path} is no valid bitstream: tensor {name!r}: "):
            yield
    except (MemoryError, OSError) as error:  # an OSError by the system's mmap
        raise InputError(f"{path}: tensor {name!r} needs more memory than is available") from error


def _record(name: str, entry: Entry, statistics: bool) -> TensorRecord:
    own: dict[str, Any] = {}
    if entry.kind == "quantized":
        own["bits"] = entry.bits
        if entry.form is None:
            own["step"] = entry.step
        else:
            own |= {"form": entry.form, "numbers": entry.numbers}
        if statistics and math.prod(entry.shape) > 0:
            own |= statistics_of(entry.integers())
    return TensorRecord(name, entry.kind, entry.dtype, entry.shape, len(entry.payload), **own)


def statistics_of(integers: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Sparsity and first-order entropy of a tensor's integers."""
    share = np.unique(integers, return_counts=True)[1] / integers.size
    zeros = integers.size - int(np.count_nonzero(integers))
    return {
        "sparsity": zeros / integers.size,
        "entropy": abs(float((share * np.log2(share)).sum())),
    }
