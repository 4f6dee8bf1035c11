"""The .ecqx file: a quantized model as integers coded by NNCodec's engine, grids and floats.

The layout is specified in docs/bitstream.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.container import name_of, pack, read_contents
from ecqx.coding.forms import Form
from ecqx.coding.inspection import FileSize, errors_name, file_size
from ecqx.coding.quantized import CodedState, CodedStateSource, Quantized
from ecqx.coding.tensor_coding import Floats, code_tensor, decode_quantized, decode_tensor
from ecqx.coding.type_codes import WEIGHTS
from ecqx.errors import InputError, input_errors
from ecqx.files import expanded, write_atomically
from ecqx.modules import check_has_values, state_of, unwrapped
from ecqx.progress import counted


def save(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor] | CodedStateSource,
    floats: Floats = "raw",
    progress: bool = False,
    metadata: Mapping[str, Any] | None = None,
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
    metadata : mapping, optional
        What JSON can hold, such as ``{"classes": ["cat", "dog"]}``, for `ecqx.inspect`.

    Raises
    ------
    ValueError
        If a tensor, a name or the metadata cannot be stored; the message names it.
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
    data = pack(list(state), entries, metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return file_size(entries, len(data))


def load(
    path: str | Path | bytes | IO[bytes],
    progress: bool = False,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Read a file that `save` wrote back to a state_dict.

    Parameters
    ----------
    path : path, bytes or binary file object
        A file object is read to its end.
    progress : bool
        Show a progress bar if stderr is a terminal.
    device : str or device
        Where the tensors are put, one after the other.

    Returns
    -------
    dict of str to Tensor
        In the original order. A quantized tensor is ``float32(k) * float32(step)`` or the centroids
        of its codebook. Others have their original dtype and, unless stored with loss, their
        original bits.

    Raises
    ------
    ValueError
        If the file is not a bitstream, is cut off, damaged or inconsistent, or torch cannot use the
        device.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> state = load(urllib.request.urlopen(address), device="cuda")  # doctest: +SKIP
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"torch cannot use the device {str(device)!r}: {reason}") from error
    return {name: t.to(device) for name, t, _ in _decoded(_source(path), progress)}


def load_coded(path: str | Path) -> CodedState:
    """Read a file that `save` wrote as integers and centroids; errors as of `load`."""
    decoded = list(_decoded(expanded(path)))
    quantized = {name: coded for name, _, coded in decoded if coded is not None}
    return CodedState({name: tensor for name, tensor, _ in decoded}, quantized)


def _decoded(
    source: Path | bytes, progress: bool = False
) -> Iterator[tuple[str, Tensor, Quantized | None]]:
    """Name and values of each tensor, and the integers and centroids of weights."""
    entries = read_contents(source).entries
    for name, entry in counted(entries.items(), "decoding", "tensor", progress):
        with errors_name(name_of(source), name):
            quantized = decode_quantized(entry) if entry.code in WEIGHTS else None
            tensor = decode_tensor(entry) if quantized is None else quantized.values()
        yield name, tensor, quantized


def _source(file: str | Path | bytes | IO[bytes]) -> Path | bytes:
    if isinstance(file, str | Path):
        return expanded(file)
    content = file.read() if hasattr(file, "read") else file
    if not isinstance(content, bytes | bytearray | memoryview):
        kind = type(file).__name__
        raise InputError(f"needs a path, bytes, or a file opened in binary mode, not a {kind}")
    return bytes(content)


def check_replaceable(path: str | Path) -> None:
    """Raise ``ValueError`` if the path is a folder, a device or the like."""
    if expanded(path).exists() and not expanded(path).is_file():
        raise InputError(f"{path} is no regular file, so it is not replaced")


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


@dataclass(frozen=True)
class EcqxFile(Form):
    """The file as a form of a suite; `save` says how ``floats`` are stored."""

    floats: Floats = "raw"
    suffix: ClassVar[str] = "ecqx"

    def write(self, trained: Path, path: Path) -> None:
        """Write the file, read it back, and compare what is coded without loss."""
        coded = read_coded_state(trained)
        save(path, coded, self.floats)
        decoded = load(path)
        lossless = coded.state if self.floats == "raw" else coded.quantized
        changed = [name for name in lossless if not torch.equal(coded.state[name], decoded[name])]
        if changed or list(coded.state) != list(decoded):
            raise RuntimeError(f"{path}: decodes to another {changed or 'list of tensors'}")

    def read(self, path: Path) -> dict[str, Tensor]:
        return load(path)
