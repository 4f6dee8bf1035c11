"""Forged bitstreams: flipped, cut, extended, wrong lengths, giant shapes, wrong checksums, random.

Half of them carry the checksum that belongs to them, so that they get past it to the decoder.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ecqx.assignment.centroids import MAX_BITS
from ecqx.assignment.codebooks import MOST_VALUES, Codebook, Form
from ecqx.coding import entropy_coder
from ecqx.coding.bitstream import save
from ecqx.coding.container import (
    DIGEST_BYTES,
    MAGIC,
    VERSIONS,
    body_length_bytes,
    pack,
    read_entries,
)
from ecqx.coding.quantized import CodebookTensor, CodedState, Quantized, QuantizedTensor
from ecqx.coding.tensor_coding import CODEBOOKS, LOSSY, QUANTIZED, WEIGHTS, Entry, Floats, varint

_FIXED = len(MAGIC) + 1


@dataclass(frozen=True)
class Original:
    """A good file and the entries that it holds."""

    data: bytes
    entries: dict[str, Entry]

    @property
    def version(self) -> int:
        """Version of the format."""
        return self.data[len(MAGIC)]

    @property
    def body(self) -> bytes:
        """What the checksum is of."""
        return self.data[_FIXED + body_length_bytes(len(self.data)) + DIGEST_BYTES :]


@dataclass(frozen=True)
class Forged:
    """A file to try: how it was made, and whether its checksum is the one of its contents."""

    kind: str
    sealed: bool
    data: bytes
    original: Original


def originals() -> list[Original]:
    """Good files that between them have every type of tensor.

    Three of them have grids of 2, 4 and 8 bits, and slices, and are of version 1 of the format; two
    have codebooks of both forms, small ones and large ones, and are of version 2.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    kinds: tuple[tuple[int, Form | None, Floats], ...] = (
        *((4, None, "raw"), (2, None, "published"), (8, None, "raw")),
        *((4, "values", "raw"), (4, "sums", "published")),
    )
    for bits, form, floats in kinds:
        state = {
            "empty": torch.zeros(0, 3),
            "head.scale": torch.randn((), generator=generator),
            "bn.running_mean": torch.randn(16, generator=generator),
            "bn.num_batches_tracked": torch.tensor(1234),
            "mask": torch.rand(40, generator=generator) > 0.5,
            "half": torch.randn(6, generator=generator).half(),
            "bfloat": torch.randn(2, 3, generator=generator).bfloat16(),
            "double": torch.randn(3, generator=generator).double(),
            **{
                f"index.{str(dtype).removeprefix('torch.')}": torch.arange(9).to(dtype)
                for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8)
            },
        }
        quantized = dict(_weights(bits, form, generator))
        state |= {name: tensor.values() for name, tensor in quantized.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.ecqx"
            save(path, CodedState(state, quantized), floats)
            found.append(Original(path.read_bytes(), read_entries(path)))
    return found


def _weights(
    bits: int, form: Form | None, generator: torch.Generator
) -> Iterator[tuple[str, Quantized]]:
    """Weights on grids of so many bits, or with codebooks but for the last one."""
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
        tensor: Quantized = QuantizedTensor(integers, 0.125, bits)
        if codebook is not None:
            tensor = CodebookTensor(integers, codebook)
        yield f"layers.{number}.weight", tensor


def forge(rng: random.Random, originals: Sequence[Original], sealed: bool) -> Forged:
    """One forged file."""
    original = rng.choice(originals)
    makers, often = (_SEALED, _OFTEN) if sealed else (_UNSEALED, ())
    if sealed and original.version == VERSIONS[1]:
        makers, often = makers | CODEBOOK_FORGERIES, (*often, *CODEBOOK_FORGERIES)
    name = rng.choice([*makers, *often])
    return Forged(name, sealed, makers[name](rng, original), original)


# -- with whatever checksum ------------------------------------------------------------------------


def _flipped(rng: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        flipped[rng.randrange(len(flipped))] ^= rng.choice([1 << rng.randrange(8), 255])
    return bytes(flipped)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _extended(rng: random.Random, data: bytes) -> bytes:
    count = rng.randrange(1, 2000)
    return data + (bytes(count) if rng.random() < 0.5 else rng.randbytes(count))


def _replaced(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(len(data))


def _shifted(rng: random.Random, data: bytes) -> bytes:
    """Bytes taken out or put in somewhere."""
    at, count = rng.randrange(len(data)), rng.randrange(1, 9)
    return data[:at] + (rng.randbytes(count) if rng.random() < 0.5 else b"") + data[at + count :]


def _wrong_length(rng: random.Random, original: Original) -> bytes:
    data = original.data
    rest = data[_FIXED + body_length_bytes(len(data)) :]
    return data[:_FIXED] + varint(rng.getrandbits(rng.randrange(1, 64))) + rest


def _wrong_checksum(rng: random.Random, original: Original) -> bytes:
    data, at = original.data, _FIXED + body_length_bytes(len(original.data))
    return data[:at] + rng.randbytes(DIGEST_BYTES) + data[at + DIGEST_BYTES :]


def _random(rng: random.Random, _: Original) -> bytes:
    start = rng.choice([b"", MAGIC, *(MAGIC + bytes([version]) for version in VERSIONS)])
    return start + rng.randbytes(rng.randrange(4000))


# -- with the checksum that belongs to it ----------------------------------------------------------


def seal(body: bytes, version: int) -> bytes:
    """A file of this body, with its checksum."""
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    return MAGIC + bytes([version]) + varint(len(body)) + digest + body


def _of_entries(original: Original, name: str, **changes: object) -> bytes:
    """The file with one entry changed; every length in it fits."""
    entries = dict(original.entries)
    entries[name] = replace(entries[name], **changes)  # type: ignore[arg-type]
    return pack(list(entries), list(entries.values()))


def _coded(rng: random.Random, original: Original) -> tuple[str, Entry]:
    """One of the entries that NNCodec's engine decodes."""
    decoded = (*WEIGHTS, LOSSY)
    names = [n for n, e in original.entries.items() if e.code in decoded and e.payload]
    name = rng.choice(names)
    return name, original.entries[name]


def _giant_shape(rng: random.Random, original: Original) -> bytes:
    """Dimensions of any size, of any entry."""
    name = rng.choice(list(original.entries))
    shape = [rng.getrandbits(rng.randrange(1, 64)) for _ in range(rng.randrange(1, 5))]
    return _of_entries(original, name, shape=tuple(shape))


def _other_shape(rng: random.Random, original: Original) -> bytes:
    """A shape that the length of the payload allows."""
    name, entry = _coded(rng, original)
    most = len(entry.payload) * entropy_coder.ELEMENTS_PER_BYTE
    elements = max(1, int(most * rng.random() ** 4))
    rows = rng.randrange(1, min(elements, 64) + 1)
    return _of_entries(original, name, shape=rng.choice([(elements,), (rows, elements // rows)]))


def _forged_payload(rng: random.Random, original: Original) -> bytes:
    """What the engine decodes, changed or at random, as long as before."""
    name, entry = _coded(rng, original)
    payload = bytes(entry.payload)
    change = rng.choice([_flipped, _cut, _shifted, _replaced])
    changed = change(rng, payload).ljust(len(payload), b"\0")[: len(payload)]
    return _of_entries(original, name, payload=changed)


def _other_length(rng: random.Random, original: Original) -> bytes:
    """A payload that is shorter or longer than its tensor needs."""
    name = rng.choice(list(original.entries))
    payload = bytes(original.entries[name].payload)
    change = rng.choice([_cut, _extended]) if payload else _extended
    return _of_entries(original, name, payload=change(rng, payload))


def _other_grid(rng: random.Random, original: Original) -> bytes:
    names = [n for n, entry in original.entries.items() if entry.code == QUANTIZED]
    step = float(np.float32(rng.choice([0.0, 0.5, 1e-45, 3e38, float("inf"), float("nan")])))
    return _of_entries(original, rng.choice(names), step=step, bits=rng.choice([0, 1, 2, 3, 8, 9]))


def _without_end(rng: random.Random, original: Original) -> bytes:
    """Few bytes that announce many elements: as slow as the engine can be made."""
    names = [n for n, entry in original.entries.items() if entry.code in WEIGHTS]
    highest = rng.choice([1, 7, 15, 63, 255])
    learned = entropy_coder.encode_integers(np.full((1, 4000), highest))
    claimed = 1 << rng.randrange(17, 23)
    payload = learned[: len(learned) // 2]
    payload = payload.ljust(-(-claimed // entropy_coder.ELEMENTS_PER_BYTE), b"\0")
    name = rng.choice(names)
    return _of_entries(original, name, shape=(1, claimed), payload=payload, bits=8)


def _random_body(rng: random.Random, _: Original) -> bytes:
    return seal(rng.randbytes(rng.randrange(2000)), rng.choice(VERSIONS))


def _other_version(rng: random.Random, original: Original) -> bytes:
    """A version that is not the one of the tensors' types, or that there is not."""
    (other,) = {*VERSIONS} - {original.version}
    return seal(original.body, rng.choice([other, other, 0, 3, 255]))


# -- codebooks, of files that have some ------------------------------------------------------------


def _codebook(rng: random.Random, original: Original) -> tuple[str, Entry, Codebook]:
    """One of the entries with a codebook."""
    found = [(n, e, e.codebook) for n, e in original.entries.items() if e.codebook is not None]
    name, entry, codebook = rng.choice(found)
    assert codebook is not None
    return name, entry, codebook


def _with_header(original: Original, entry: Entry, forged: bytes) -> bytes:
    """The file with the header of one entry replaced; no length is adapted."""
    return seal(original.body.replace(entry.header(), forged, 1), original.version)


def _other_numbers(rng: random.Random, original: Original) -> bytes:
    """Numbers that are none, too large to be summed up, equal, zero, in any order."""
    name, _, codebook = _codebook(rng, original)
    odd = (0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, *map(float, ("nan", "inf", "-inf")))
    numbers = codebook.numbers.clone()
    kind = rng.choice(["some odd", "all the same", "all odd", "another order"])
    if kind == "some odd":
        for _ in range(rng.choice([1, 1, 2])):
            numbers[rng.randrange(len(numbers))] = rng.choice([*odd, float(numbers[0])])
    elif kind == "another order":
        numbers = numbers[rng.sample(range(len(numbers)), len(numbers))]
    else:
        drawn = [rng.choice(odd[:6]) for _ in numbers]
        numbers = torch.tensor(drawn if kind == "all odd" else drawn[:1] * len(drawn))
    return _of_entries(original, name, codebook=replace(codebook, numbers=numbers))


def _other_count(rng: random.Random, original: Original) -> bytes:
    """More or fewer numbers, or a count that is not theirs."""
    name, entry, codebook = _codebook(rng, original)
    count = rng.choice([0, 1, 2, 3, 8, 9, rng.randrange(MOST_VALUES + 1), MOST_VALUES])
    if rng.random() < 0.5:
        numbers = torch.tensor([rng.uniform(-2, 2) for _ in range(count)])
        return _of_entries(original, name, codebook=replace(codebook, numbers=numbers))
    header = bytearray(entry.header())
    header[_before_count(entry)] = count
    return _with_header(original, entry, bytes(header))


def _before_count(entry: Entry) -> int:
    """Bytes of a header that stand before the count of the codebook's numbers."""
    return 1 + sum(len(varint(size)) for size in entry.shape)


def _other_form(rng: random.Random, original: Original) -> bytes:
    """The numbers of one form as those of the other, or of a type without numbers."""
    name, entry, _ = _codebook(rng, original)
    codes = [code for code in range(16) if code != entry.code]
    code = rng.choice([*codes, *4 * [code for code in CODEBOOKS if code != entry.code]])
    return _of_entries(original, name, code=code)


def _cut_codebook(rng: random.Random, original: Original) -> bytes:
    """Bytes of the numbers that are missing, or a file that ends among them."""
    _, entry, codebook = _codebook(rng, original)
    header, at = entry.header(), _before_count(entry)
    end = at + 1 + 4 * len(codebook.numbers)
    cut = rng.randrange(at, end)
    if rng.random() < 0.5:
        return _with_header(original, entry, header[:cut] + header[end:])
    body = original.body
    return seal(body[: body.index(header) + cut], original.version)


def _outside_codebook(rng: random.Random, original: Original) -> bytes:
    """Integers some of which may be none of the codebook's places."""
    name, entry, codebook = _codebook(rng, original)
    low, high = -codebook.zero, len(codebook) - 1 - codebook.zero
    reach = rng.choice([0, 0, 1, 2, 200])
    low, high = max(low - reach, -MOST_VALUES), min(high + reach, MOST_VALUES)
    integers = [rng.randint(low, high) for _ in range(np.prod(entry.shape, dtype=int))]
    payload = entropy_coder.encode_integers(np.array(integers).reshape(entry.shape))
    return _of_entries(original, name, payload=payload)


def _many_codebooks(rng: random.Random, original: Original) -> bytes:
    """As many codebooks as a few bytes can announce, large ones, of one size or of many."""
    _, entry, codebook = _codebook(rng, original)
    form, many = codebook.form, codebook.form == "sums"
    most, count = (MAX_BITS, 600) if many else (MOST_VALUES, 90)
    sizes = [most] * count if rng.random() < 0.5 else [most - i % most for i in range(count)]
    numbers = [torch.tensor([rng.gauss(0, 1) for _ in range(size)]) for size in sizes]
    empty = [
        replace(entry, codebook=Codebook.of(form, row), shape=(0,), payload=b"") for row in numbers
    ]
    return pack([f"{i}" for i in range(count)], empty)


_UNSEALED: dict[str, Callable[[random.Random, Original], bytes]] = {
    "flipped": lambda rng, original: _flipped(rng, original.data),
    "cut": lambda rng, original: _cut(rng, original.data),
    "extended": lambda rng, original: _extended(rng, original.data),
    "bytes taken out or put in": lambda rng, original: _shifted(rng, original.data),
    "wrong length": _wrong_length,
    "wrong checksum": _wrong_checksum,
    "random": _random,
}
_SEALED: dict[str, Callable[[random.Random, Original], bytes]] = {
    "flipped": lambda rng, file: seal(_flipped(rng, file.body), file.version),
    "cut": lambda rng, file: seal(_cut(rng, file.body), file.version),
    "extended": lambda rng, file: seal(_extended(rng, file.body), file.version),
    "bytes taken out or put in": lambda rng, file: seal(_shifted(rng, file.body), file.version),
    "giant shape": _giant_shape,
    "another shape": _other_shape,
    "forged payload": _forged_payload,
    "payload of another length": _other_length,
    "another grid": _other_grid,
    "elements without end": _without_end,
    "random": _random_body,
    "another version": _other_version,
}
CODEBOOK_FORGERIES: dict[str, Callable[[random.Random, Original], bytes]] = {
    "codebook of other numbers": _other_numbers,
    "codebook of another count": _other_count,
    "codebook of another form": _other_form,
    "codebook cut off": _cut_codebook,
    "integers outside the codebook": _outside_codebook,
    "many codebooks": _many_codebooks,
}
# What mostly reaches the decoder.
_OFTEN: tuple[str, ...] = 3 * ("flipped", "forged payload", "another shape", "another grid")
