"""The .ecqx file: a quantized model as integers coded by NNCodec's engine, grids and floats.

The layout is specified in docs/bitstream.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ecqx.assignment.codebooks import Form
from ecqx.coding.container import body_length_bytes, pack, read_entries
from ecqx.coding.quantized import CodedState, CodedStateSource, Quantized, first_order_entropy
from ecqx.coding.tensor_coding import TYPES, WEIGHTS, Entry, Floats, Kind, code_tensor, varint
from ecqx.errors import InputError, input_errors
from ecqx.files import expanded, write_atomically
from ecqx.modules import check_has_values, state_of, unwrapped
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

    ``dtype`` is that of the tensor that `load` returns, ``coded_bytes`` the length of the payload.
    Quantized tensors have ``bits``, and the ``step`` of their grid or the ``form`` and ``numbers``
    of their codebook (`ecqx.assignment.codebooks`). If they are decoded and not empty, they also
    have ``sparsity``, in [0, 1], and first-order ``entropy`` in bits per element.
    """

    name: str
    kind: Kind
    dtype: torch.dtype
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
    """Contents of a file: its size and its tensors, in order."""

    size: FileSize
    tensors: tuple[TensorRecord, ...]

    @property
    def float_elements(self) -> int:
        """Number of elements of all floating-point tensors, quantized ones included."""
        return sum(record.elements for record in self.tensors if record.dtype.is_floating_point)

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


def save(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor] | CodedStateSource,
    floats: Floats = "raw",
    progress: bool = False,
) -> FileSize:
    """Write a model to one file.

    Parameters
    ----------
    path : path
        Replaced as a whole, or left unchanged if anything fails.
    model : Module, state_dict or quantizer
        The quantized weights of a quantizer (anything with ``coded_state()``) are coded as
        integers. All tensors of a module (without DataParallel) or a state_dict are stored without
        loss.
    floats : {"raw", "published"}
        How the other tensors are stored: without loss; or float32 with loss, by NNCodec with the
        published settings.
    progress : bool
        Show a progress bar if stderr is a terminal.

    Raises
    ------
    ValueError
        If a tensor or a name cannot be stored; the message names it.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> size = save("model.ecqx", torch.nn.Linear(3, 2))  # doctest: +SKIP
    >>> load("model.ecqx")["bias"].shape  # doctest: +SKIP
    torch.Size([2])
    """
    check_replaceable(path)
    if floats not in get_args(Floats):
        raise InputError(f"floats must be one of {', '.join(get_args(Floats))}, not {floats!r}")
    state, quantized = coded_state_of(model)
    entries = []
    for name, tensor in counted(state.items(), "encoding", "tensor", progress):
        with input_errors(f"tensor {name}: "):
            entries.append(code_tensor(tensor, quantized.get(name), floats))
    data = pack(list(state), entries)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return FileSize(len(data), _integer_bytes(entries, len(data)))


def load(path: str | Path, progress: bool = False) -> dict[str, Tensor]:
    """Read a file that `save` wrote back to a state_dict.

    Returns
    -------
    dict of str to Tensor
        On the CPU, in the original order. A quantized tensor is ``float32(k) * float32(step)`` or
        the centroids of its codebook. Others have their original dtype and, unless stored with
        loss, their original bits.

    Raises
    ------
    ValueError
        If the file is not a bitstream, is cut off, damaged or inconsistent.
    OSError
        If the file cannot be read.
    """
    state = {}
    for name, entry in counted(
        read_entries(expanded(path)).items(), "decoding", "tensor", progress
    ):
        with _errors_name(path, name):
            state[name] = entry.tensor()
    return state


def load_coded(path: str | Path) -> CodedState:
    """Read a file that `save` wrote as integers and centroids; errors as of `load`."""
    state, quantized = {}, {}
    for name, entry in read_entries(expanded(path)).items():
        with _errors_name(path, name):
            if entry.code in WEIGHTS:
                quantized[name] = entry.quantized()
                state[name] = quantized[name].values()
            else:
                state[name] = entry.tensor()
    return CodedState(state, quantized)


def inspect(path: str | Path, statistics: bool = True, progress: bool = False) -> FileInfo:
    """Contents of a file that `save` wrote; errors as of `load`.

    With ``statistics`` the quantized tensors are decoded, for their sparsity and entropy.
    """
    entries = read_entries(expanded(path))
    records = []
    for name, entry in counted(entries.items(), "reading", "tensor", progress):
        with _errors_name(path, name):
            records.append(_record(name, entry, statistics))
    total = expanded(path).stat().st_size
    return FileInfo(FileSize(total, _integer_bytes(entries.values(), total)), tuple(records))


def check_replaceable(path: str | Path) -> None:
    """Raise ``ValueError`` if the path is a folder, a device or the like."""
    if expanded(path).exists() and not expanded(path).is_file():
        raise InputError(f"{path} is no regular file, so it is not replaced")


def _integer_bytes(entries: Iterable[Entry], total: int) -> int:
    """Bytes of the coded weights and of the fields for their length.

    The rest then does not depend on the weights, which a regression check relies on.
    """
    payloads = [len(entry.payload) for entry in entries if entry.code in WEIGHTS]
    if not payloads:
        return 0
    lengths = sum(len(varint(length)) for length in payloads)
    return sum(payloads) + lengths + body_length_bytes(total)


@contextmanager
def _errors_name(path: str | Path, name: str) -> Iterator[None]:
    """Make errors of decoding name the file and the tensor."""
    try:
        with input_errors(f"{path} is no valid bitstream: tensor {name!r}: "):
            yield
    except MemoryError as error:
        raise InputError(f"{path}: tensor {name!r} needs more memory than is available") from error


def coded_state_of(
    model: nn.Module | Mapping[str, Tensor] | CodedStateSource,
) -> tuple[Mapping[str, Tensor], Mapping[str, Quantized]]:
    """The whole state_dict of what `save` takes, and its quantized tensors by name."""
    coded_state = getattr(model, "coded_state", None)
    if coded_state is not None:
        state, quantized = coded_state()
    elif isinstance(model, nn.Module):
        inner = unwrapped(model)
        check_has_values(inner)
        state, quantized = state_of(inner), {}
    elif isinstance(model, Mapping):
        state, quantized = model, {}
    else:
        raise InputError(
            f"model must be a module, a state_dict or a quantizer, not a {type(model).__name__}"
        )
    for name in quantized:
        if name not in state:
            raise InputError(f"quantized tensor {name} is not in the state_dict")
    return state, quantized


def _record(name: str, entry: Entry, statistics: bool) -> TensorRecord:
    kind, dtype = TYPES[entry.code]
    grid: dict[str, Any] = {}
    if kind == "quantized":
        grid = {"bits": entry.bits, "step": entry.step}
    if entry.codebook is not None:
        numbers = tuple(entry.codebook.numbers.tolist())
        grid = {"bits": entry.bits, "form": entry.codebook.form, "numbers": numbers}
    if kind == "quantized" and statistics and math.prod(entry.shape) > 0:
        integers = entry.quantized().integers
        grid["sparsity"] = 1 - int(integers.count_nonzero()) / integers.numel()
        grid["entropy"] = first_order_entropy(integers)
    return TensorRecord(name, kind, dtype, entry.shape, len(entry.payload), **grid)
