"""What ``ecqx info`` prints: the contents of a file as a line, a table or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecqx.coding.inspection import FileInfo, TensorRecord

# Of a line of metadata, in characters; of a codebook, in numbers.
WIDTH, MOST_NUMBERS = 80, 8


def summary(path: Path, contents: FileInfo) -> str:
    """Size and compression ratio (that of `FileInfo`, to float32) in one line."""
    size = contents.size
    return (
        f"{path}: {size.total:,} bytes, {size.integers:,} of them coded weights; "
        f"compression ratio {contents.compression_ratio:.2f}"
    )


def about(contents: FileInfo) -> str:
    """The metadata, a line each, as far as it fits."""
    from tabulate import tabulate

    rows = [(name, shorten(_words(value), WIDTH)) for name, value in contents.metadata.items()]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _words(value: Any) -> str:
    """A value of JSON without its punctuation."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value)


def as_json(path: Path, contents: FileInfo) -> dict[str, Any]:
    """The contents in plain values."""
    return {
        "file": str(path),
        "bytes": contents.size.total,
        "integer_bytes": contents.size.integers,
        "other_bytes": contents.size.other,
        "float_elements": contents.float_elements,
        "compression_ratio": contents.compression_ratio,
        "quantized": {
            "elements": contents.quantized_elements,
            "sparsity": contents.sparsity,
            "entropy_bits_per_weight": contents.entropy,
        },
        "metadata": contents.metadata,
        "tensors": [_record_as_json(record) for record in contents.tensors],
    }


def _record_as_json(record: TensorRecord) -> dict[str, Any]:
    codebook = None
    if record.numbers is not None:
        codebook = {"form": record.form, "numbers": list(record.numbers)}
    return {
        "name": record.name,
        "kind": record.kind,
        "dtype": record.dtype,
        "shape": list(record.shape),
        "bits": record.bits,
        "step": record.step,
        "codebook": codebook,
        "sparsity": record.sparsity,
        "entropy_bits_per_weight": record.entropy,
        "coded_bytes": record.coded_bytes,
    }


def table(contents: FileInfo) -> str:
    """A row a tensor, and a row of totals."""
    from tabulate import tabulate

    elements = sum(record.elements for record in contents.tensors)
    total = (
        *("total, with header", f"{elements:,}", "", ""),
        *(_number(contents.sparsity, ".1%"), _number(contents.entropy, ".3f")),
        *(f"{contents.size.total:,}", f"{contents.compression_ratio:.2f}"),
    )
    rows = [*map(_row, contents.tensors), total]
    headers = (
        *("tensor", "shape", "bits", "step or codebook", "sparsity", "entropy", "bytes", "ratio"),
    )
    alignment = ("left", *("right",) * (len(headers) - 1))
    return tabulate(rows, headers, disable_numparse=True, colalign=alignment)


def _row(record: TensorRecord) -> tuple[object, ...]:
    """Cells of a tensor; without bits, its dtype or "lossy" instead. The ratio is to float32."""
    stored_as = "lossy" if record.kind == "lossy" else record.dtype
    has_ratio = record.kind != "integer" and record.coded_bytes
    return (
        record.name,
        "×".join(map(str, record.shape)) or "–",
        record.bits or stored_as,
        _centroids(record),
        _number(record.sparsity, ".1%"),
        _number(record.entropy, ".3f"),
        f"{record.coded_bytes:,}",
        f"{4 * record.elements / record.coded_bytes:.2f}" if has_ratio else "",
    )


def _centroids(record: TensorRecord) -> str:
    """The step; or a codebook: its centroids except zero, or the numbers whose sums they are."""
    if record.numbers is None:
        return _number(record.step, "g")
    if len(record.numbers) > MOST_NUMBERS:
        low, high = min(record.numbers), max(record.numbers)
        return f"{len(record.numbers)} from {low:.4g} to {high:.4g}"
    return (" + " if record.form == "sums" else ", ").join(f"{n:.4g}" for n in record.numbers)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
