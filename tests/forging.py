"""Forged bitstreams, drawn by hypothesis from valid files.

A kind of forgery is a function of hypothesis's ``draw`` and a valid file.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from ecqx.assignment.bits import MAX_BITS, MOST_VALUES, Form
from ecqx.assignment.codebooks import Codebook
from ecqx.coding import entropy_coder
from ecqx.coding.bitstream import save
from ecqx.coding.container import (
    DIGEST_BYTES,
    MAGIC,
    MAX_METADATA,
    VERSIONS,
    body_length_bytes,
    code_metadata,
    pack,
    read_contents,
)
from ecqx.coding.entries import Entry, codebook_centroids, varint
from ecqx.coding.quantized import CodebookTensor, CodedState, Quantized, QuantizedTensor
from ecqx.coding.tensor_coding import Floats
from ecqx.coding.type_codes import CODEBOOKS, LOSSY, QUANTIZED, WEIGHTS

_FIXED = len(MAGIC) + 1
METADATA = {
    "model": "resnet20",
    "classes": ["Gänseblümchen", "rose", "\U0001f337", 'tulip "of" \\ 3'],
    "input": {"shape": [3, 32, 32], "mean": [0.485, 0.456, 0.406]},
    "more": [None, True, -1, 1e-9, {}],
}


@dataclass(frozen=True)
class Original:
    """A valid file, its entries and its metadata."""

    data: bytes
    entries: dict[str, Entry]
    metadata: dict[str, Any]

    @property
    def version(self) -> int:
        """Version of the format."""
        return self.data[len(MAGIC)]

    @property
    def body(self) -> bytes:
        """What the checksum is of."""
        return self.data[_FIXED + body_length_bytes(len(self.data)) + DIGEST_BYTES :]

    def names(self, *codes: int) -> list[str]:
        """Entries of these types with a payload."""
        return [n for n, entry in self.entries.items() if entry.code in codes and entry.payload]

    def with_entry(self, name: str, **changes: Any) -> bytes:
        """The file with one entry changed; all lengths and the checksum fit."""
        entries = self.entries | {name: replace(self.entries[name], **changes)}
        return pack(list(entries), list(entries.values()), self.metadata)

    def with_header(self, entry: Entry, header: bytes) -> bytes:
        """The file with other bytes for the header of an entry; only the checksum fits."""
        return seal(self.body.replace(entry.header(), header, 1), self.version)


@cache
def originals() -> tuple[Original, ...]:
    """Valid files that together have every type of tensor.

    Three of version 1 have grids of 2, 4 and 8 bits; two of version 2 have codebooks of both forms;
    two of version 3 have metadata and a grid, or codebooks.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    kinds: tuple[tuple[int, Form | None, Floats, dict[str, Any] | None], ...] = (
        *((4, None, "raw", None), (2, None, "published", None), (8, None, "raw", None)),
        *((4, "values", "raw", None), (4, "sums", "published", None)),
        *((4, None, "raw", METADATA), (4, "values", "raw", METADATA)),
    )
    for bits, form, floats, metadata in kinds:
        state = {
            "empty": torch.zeros(0, 3),
            "head.scale": torch.randn((), generator=generator),
            "bn.running_mean": torch.randn(16, generator=generator),
            "bn.num_batches_tracked": torch.tensor(1234),
            "mask": torch.rand(40, generator=generator) > 0.5,
            "half": torch.randn(6, generator=generator).half(),
            "bfloat": torch.randn(2, 3, generator=generator).bfloat16(),
            "double": torch.randn(3, generator=generator).double(),
            "index.int32": torch.arange(9, dtype=torch.int32),
            "index.int16": torch.arange(9, dtype=torch.int16),
            "index.int8": torch.arange(9, dtype=torch.int8),
            "index.uint8": torch.arange(9, dtype=torch.uint8),
        }
        quantized = dict(_weights(bits, form, generator))
        state |= {name: tensor.values() for name, tensor in quantized.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.ecqx"
            save(path, CodedState(state, quantized), floats, metadata=metadata)
            contents = read_contents(path)
            found.append(Original(path.read_bytes(), contents.entries, contents.metadata))
    return tuple(found)


def _weights(
    bits: int, form: Form | None, generator: torch.Generator
) -> Iterator[tuple[str, Quantized]]:
    """Four weights on grids or, all but the last, with codebooks."""
    shapes = ((8, 3, 3, 3), (16, 8, 1, 1), (20, 64), (33,))
    counts = (2, 40, 2, 5) if form == "values" else (4, 8, 4, 1)
    for number, (shape, count) in enumerate(zip(shapes, counts, strict=True)):
        codebook = None
        if form is not None and number < len(shapes) - 1:
            codebook = Codebook.of(form, torch.randn(count, generator=generator))
        lowest = -(2 ** (bits - 1)) if codebook is None else -codebook.zero
        most = lowest + (2**bits if codebook is None else len(codebook))
        integers = torch.randint(lowest, most, shape, generator=generator)
        integers *= torch.rand(shape, generator=generator) > 0.3 * number
        if codebook is None:
            yield f"layers.{number}.weight", QuantizedTensor(integers, 0.125, bits)
        else:
            yield f"layers.{number}.weight", CodebookTensor(integers, codebook)


def seal(body: bytes, version: int) -> bytes:
    """A file with this body and its checksum."""
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    return MAGIC + bytes([version]) + varint(len(body)) + digest + body


# -- kinds of forgery ------------------------------------------------------------------------------

_COUNTS = st.integers(0, 63).flatmap(lambda bits: st.integers(0, 1 << bits))
_NOISE = st.integers(0, 1 << 32).map(random.Random)
_DAMAGES = ("flip", "flip", "flip", "flip", "cut", "append", "insert", "splice", "random")


def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes flipped, cut off, appended, inserted, removed, copied elsewhere or all replaced."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    count, noise = draw(st.integers(1, 64)), draw(_NOISE)
    match draw(st.sampled_from(_DAMAGES)):
        case "flip":
            changed = bytearray(data)
            for place in draw(st.sets(st.integers(0, max(0, len(data) - 1)), max_size=2)) | {at}:
                if data:
                    changed[place] ^= draw(st.integers(1, 255))
            return bytes(changed)
        case "cut":
            return data[:at]
        case "append":
            return data + noise.choice([bytes(32 * count), noise.randbytes(32 * count)])
        case "insert":
            return data[:at] + noise.randbytes(count) + data[at:]
        case "splice":
            start, rest = draw(st.integers(0, len(data))), draw(st.integers(at, len(data)))
            return data[:at] + data[start : start + count] + data[rest:]
    return noise.randbytes(len(data))


def _any_bytes(draw: st.DrawFn, file: Original) -> bytes:
    """Damage anywhere, another length, another checksum or random bytes after a good start."""
    data, noise = file.data, draw(_NOISE)
    at = _FIXED + body_length_bytes(len(data))
    match draw(st.sampled_from(("damage", "damage", "length", "checksum", "random"))):
        case "length":
            return data[:_FIXED] + varint(draw(_COUNTS)) + data[at:]
        case "checksum":
            return data[:at] + noise.randbytes(DIGEST_BYTES) + data[at + DIGEST_BYTES :]
        case "random":
            start = noise.choice([b"", MAGIC, *(MAGIC + bytes([each]) for each in VERSIONS)])
            return start + noise.randbytes(draw(st.integers(0, 4000)))
    return _damaged(draw, data)


def _contents(draw: st.DrawFn, file: Original) -> bytes:
    return seal(_damaged(draw, file.body), file.version)


def _version(draw: st.DrawFn, file: Original) -> bytes:
    version = draw(st.integers(0, 255).filter(lambda version: version != file.version))
    others = sorted({*VERSIONS} - {file.version})
    return seal(file.body, draw(st.sampled_from((*others, version))))


def _giant_shape(draw: st.DrawFn, file: Original) -> bytes:
    shape = draw(st.lists(_COUNTS, min_size=1, max_size=4))
    return file.with_entry(draw(st.sampled_from(sorted(file.entries))), shape=tuple(shape))


def _other_shape(draw: st.DrawFn, file: Original) -> bytes:
    """A shape that the length of the payload allows."""
    name = draw(st.sampled_from(file.names(*WEIGHTS, LOSSY)))
    most = len(file.entries[name].payload) * entropy_coder.ELEMENTS_PER_BYTE
    elements = max(1, int(most * draw(st.floats(0, 1)) ** 4))
    rows = draw(st.integers(1, min(elements, 64)))
    return file.with_entry(
        name, shape=draw(st.sampled_from([(elements,), (rows, elements // rows)]))
    )


def _grid(draw: st.DrawFn, file: Original) -> bytes:
    steps = (0.0, 0.5, 1e-45, 3e38, float("inf"), float("nan"))
    name, step = draw(st.sampled_from(file.names(QUANTIZED))), draw(st.sampled_from(steps))
    bits = draw(st.sampled_from([0, 1, 2, 3, 8, 9]))
    return file.with_entry(name, step=float(np.float32(step)), bits=bits)


def _payload(draw: st.DrawFn, file: Original) -> bytes:
    """What NNCodec's engine decodes, changed and as long as before."""
    name = draw(st.sampled_from(file.names(*WEIGHTS, LOSSY)))
    payload = bytes(file.entries[name].payload)
    changed = _damaged(draw, payload).ljust(len(payload), b"\0")[: len(payload)]
    return file.with_entry(name, payload=changed)


def _payload_length(draw: st.DrawFn, file: Original) -> bytes:
    name = draw(st.sampled_from(sorted(file.entries)))
    payload = bytes(file.entries[name].payload)
    length = draw(st.integers(0, 2 * len(payload) + 9).filter(lambda n: n != len(payload)))
    return file.with_entry(name, payload=payload[:length].ljust(length, b"\0"))


def _without_end(draw: st.DrawFn, file: Original) -> bytes:
    """Few bytes that announce many elements: as slow as the engine can be made."""
    highest, claimed = draw(st.sampled_from([1, 7, 15, 63, 255])), 1 << draw(st.integers(17, 22))
    learned = entropy_coder.encode_integers(np.full((1, 4000), highest))
    payload = learned[: len(learned) // 2]
    payload = payload.ljust(-(-claimed // entropy_coder.ELEMENTS_PER_BYTE), b"\0")
    name = draw(st.sampled_from(file.names(*WEIGHTS)))
    return file.with_entry(name, shape=(1, claimed), payload=payload, bits=8)


def _codebook(draw: st.DrawFn, file: Original) -> tuple[str, Entry, Form]:
    name = draw(st.sampled_from(file.names(*CODEBOOKS)))
    entry = file.entries[name]
    assert entry.form is not None
    return name, entry, entry.form


def _numbers(draw: st.DrawFn, file: Original) -> bytes:
    """Numbers that are NaN, infinite, too large to be added, equal, zero or in any order."""
    name, entry, _ = _codebook(draw, file)
    own = list(entry.numbers)
    odd = [0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, float("nan"), float("inf"), float("-inf")]
    pool = draw(st.sampled_from([own, odd[:2], odd[:6], [*own, *odd]]))
    drawn = draw(st.lists(st.sampled_from(pool), min_size=len(own), max_size=len(own)))
    return file.with_entry(name, numbers=tuple(drawn))


def _number_of_numbers(draw: st.DrawFn, file: Original) -> bytes:
    """More or fewer numbers, a count that is not theirs, or numbers that are cut off."""
    name, entry, _ = _codebook(draw, file)
    count = draw(st.one_of(st.integers(0, 9), st.integers(0, MOST_VALUES)))
    before = 1 + sum(len(varint(size)) for size in entry.shape)  # bytes before the count
    header, end = entry.header(), before + 1 + 4 * len(entry.numbers)
    match draw(st.sampled_from(("numbers", "count", "missing", "end of file"))):
        case "numbers":
            values = tuple(draw(_NOISE).uniform(-2, 2) for _ in range(count))
            return file.with_entry(name, numbers=values)
        case "count":
            return file.with_header(entry, header[:before] + bytes([count]) + header[before + 1 :])
        case "missing":
            return file.with_header(
                entry, header[: draw(st.integers(before, end - 1))] + header[end:]
            )
    cut = file.body.index(header) + draw(st.integers(before, end - 1))
    return seal(file.body[:cut], file.version)


def _form(draw: st.DrawFn, file: Original) -> bytes:
    """The codebook of one form as one of the other, or under the code of another type."""
    name, entry, _ = _codebook(draw, file)
    codes = st.one_of(st.sampled_from(sorted(CODEBOOKS)), st.integers(0, 15))
    return file.with_entry(name, code=draw(codes.filter(lambda code: code != entry.code)))


def _outside_codebook(draw: st.DrawFn, file: Original) -> bytes:
    """Integers of which some may have no value in the codebook."""
    name, entry, form = _codebook(draw, file)
    centroids = codebook_centroids(form, entry.numbers)
    zero = int((centroids < 0).sum())
    reach = draw(st.sampled_from([0, 0, 1, 2, 200]))
    low = max(-zero - reach, -MOST_VALUES)
    high = min(len(centroids) - 1 - zero + reach, MOST_VALUES)
    integers = np.random.default_rng(draw(st.integers(0, 99))).integers(low, high + 1, entry.shape)
    return file.with_entry(name, payload=entropy_coder.encode_integers(integers))


def _many_codebooks(draw: st.DrawFn, file: Original) -> bytes:
    """As many large codebooks as a few bytes can announce, of one size or of many."""
    _, entry, form = _codebook(draw, file)
    most, count = (MAX_BITS, 600) if form == "sums" else (MOST_VALUES, 90)
    sizes = draw(st.sampled_from([[most] * count, [most - i % most for i in range(count)]]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    numbers = [tuple(rng.normal(size=size).tolist()) for size in sizes]
    entries = [replace(entry, numbers=row, shape=(0,), payload=b"") for row in numbers]
    return pack([f"{i}" for i in range(count)], entries)


def _metadata(draw: st.DrawFn, file: Original) -> bytes:
    """Metadata that are no JSON, another form of it, another value than a dict, or damaged."""
    good = code_metadata(METADATA)
    odd = (
        *(b"", b"{}", b"[]", b"null", b'{"a":1', b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\\ud800"}'),
        *(b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":1.0e0}', b'{"a":"\xff"}'),
        *(b'{"a":"\\u0061"}', b'{"a":1}\n', b"\xef\xbb\xbf{}", good.decode().encode("utf-16")),
    )
    match draw(st.sampled_from(("odd", "damaged", "cut off"))):
        case "odd":
            return _with_metadata(file, draw(st.sampled_from(odd)))
        case "damaged":
            return _with_metadata(file, _damaged(draw, good))
    return _with_metadata(file, good, draw(_COUNTS))


# Start, what is repeated, end.
_COSTLY = (
    *((b'{"a":', b"[", b""), (b'{"a":', b'{"a":', b""), (b'{"a":', b"9", b"}")),
    *((b'{"a":[0', part, b"]}") for part in (b",[]", b",{}", b",1.5", b',{"a":1}', b',"ab"')),
    *((b'{"a":"', part, b'"}') for part in ("\U0001f337".encode(), b"\\n")),
)


def _costly_metadata(draw: st.DrawFn, file: Original) -> bytes:
    """Much JSON, deep or wide, valid or not, up to more than there may be."""
    size = draw(st.sampled_from([100, 10_000, MAX_METADATA // 2, MAX_METADATA - 100, MAX_METADATA]))
    start, repeated, end = draw(st.sampled_from(_COSTLY))
    return _with_metadata(file, start + repeated * (size // len(repeated)) + end)


def _with_metadata(file: Original, metadata: bytes, length: int | None = None) -> bytes:
    """The file with these bytes for its metadata; only the checksum need fit."""
    body = file.body
    if file.metadata:
        before = code_metadata(file.metadata)
        body = body[len(varint(len(before))) + len(before) :]
    length = len(metadata) if length is None else length
    return seal(varint(length) + metadata + body, VERSIONS[-1])


UNSEALED = "any bytes, checksum as it comes"
FORGERIES: dict[str, Callable[[st.DrawFn, Original], bytes]] = {
    UNSEALED: _any_bytes,
    "any bytes of the contents": _contents,
    "another version": _version,
    "giant shape": _giant_shape,
    "another shape": _other_shape,
    "another grid": _grid,
    "forged payload": _payload,
    "payload of another length": _payload_length,
    "elements without end": _without_end,
    "codebook of other numbers": _numbers,
    "codebook of another count": _number_of_numbers,
    "codebook of another form": _form,
    "integers outside the codebook": _outside_codebook,
    "many codebooks": _many_codebooks,
    "other metadata": _metadata,
    "costly metadata": _costly_metadata,
}
_OF_CODEBOOKS = {"integers outside the codebook", *(k for k in FORGERIES if "codebook" in k)}


@st.composite
def forged(draw: st.DrawFn, kind: str) -> bytes:
    """A forged file, which is none of the valid ones."""
    files = [file for file in originals() if kind not in _OF_CODEBOOKS or file.names(*CODEBOOKS)]
    file = draw(st.sampled_from(files))
    data = FORGERIES[kind](draw, file)
    assume(data != file.data)
    return data
