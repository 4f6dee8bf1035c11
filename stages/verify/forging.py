"""Forged bitstreams: flipped, cut, extended, wrong lengths, giant shapes, wrong checksums, random.

Half of them carry the checksum that belongs to them, so that they get past it to the decoder.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ecqx import entropy_coder
from ecqx.bitstream import CodedState, QuantizedTensor, save
from ecqx.container import DIGEST_BYTES, MAGIC, VERSIONS, body_length_bytes, pack, read_entries
from ecqx.tensor_coding import LOSSY, QUANTIZED, Entry, varint

_FIXED = len(MAGIC) + 1


@dataclass(frozen=True)
class Original:
    """A good file and the entries that it holds."""

    data: bytes
    entries: dict[str, Entry]

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
    """Good files that between them have every type of tensor, bit widths 2, 4 and 8, and slices."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 3, 3, 3), (16, 8, 1, 1), (20, 64), (33,))
    found = []
    for bits, floats in ((4, "raw"), (2, "published"), (8, "raw")):
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
        quantized = {}
        for number, shape in enumerate(shapes):
            half = 2 ** (bits - 1)
            integers = torch.randint(-half, half, shape, generator=generator)
            integers *= torch.rand(shape, generator=generator) > 0.3 * number
            quantized[f"layers.{number}.weight"] = QuantizedTensor(integers, 0.125, bits)
        state |= {name: 0.125 * tensor.integers for name, tensor in quantized.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.ecqx"
            save(path, CodedState(state, quantized), "raw" if floats == "raw" else "published")
            found.append(Original(path.read_bytes(), read_entries(path)))
    return found


def forge(rng: random.Random, originals: Sequence[Original], sealed: bool) -> Forged:
    """One forged file."""
    makers = _SEALED if sealed else _UNSEALED
    name = rng.choice([*makers, *(_OFTEN if sealed else ())])
    original = rng.choice(originals)
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
    start = rng.choice([b"", MAGIC, MAGIC + bytes([VERSIONS[0]])])
    return start + rng.randbytes(rng.randrange(4000))


# -- with the checksum that belongs to it ----------------------------------------------------------


def seal(body: bytes) -> bytes:
    """A file of this body, with its checksum."""
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    return MAGIC + bytes([VERSIONS[0]]) + varint(len(body)) + digest + body


def _of_entries(original: Original, name: str, **changes: object) -> bytes:
    """The file with one entry changed; every length in it fits."""
    entries = dict(original.entries)
    entries[name] = replace(entries[name], **changes)  # type: ignore[arg-type]
    return pack(list(entries), list(entries.values()))


def _coded(rng: random.Random, original: Original) -> tuple[str, Entry]:
    """One of the entries that NNCodec's engine decodes."""
    names = [n for n, e in original.entries.items() if e.code in (QUANTIZED, LOSSY) and e.payload]
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
    names = [n for n, entry in original.entries.items() if entry.code == QUANTIZED]
    highest = rng.choice([1, 7, 15, 63, 255])
    learned = entropy_coder.encode_integers(np.full((1, 4000), highest))
    claimed = 1 << rng.randrange(17, 23)
    payload = learned[: len(learned) // 2]
    payload = payload.ljust(-(-claimed // entropy_coder.ELEMENTS_PER_BYTE), b"\0")
    name = rng.choice(names)
    return _of_entries(original, name, shape=(1, claimed), payload=payload, bits=8)


def _random_body(rng: random.Random, _: Original) -> bytes:
    return seal(rng.randbytes(rng.randrange(2000)))


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
    "flipped": lambda rng, original: seal(_flipped(rng, original.body)),
    "cut": lambda rng, original: seal(_cut(rng, original.body)),
    "extended": lambda rng, original: seal(_extended(rng, original.body)),
    "bytes taken out or put in": lambda rng, original: seal(_shifted(rng, original.body)),
    "giant shape": _giant_shape,
    "another shape": _other_shape,
    "forged payload": _forged_payload,
    "payload of another length": _other_length,
    "another grid": _other_grid,
    "elements without end": _without_end,
    "random": _random_body,
}
# What mostly reaches the decoder.
_OFTEN = 3 * ("flipped", "forged payload", "another shape", "another grid")
