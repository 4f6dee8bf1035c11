"""Metadata of a file: what comes back, what is refused, and that they change nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forging import seal
from hypothesis import given
from hypothesis import strategies as st

import ecqx
from ecqx.coding.container import DIGEST_BYTES, MAGIC, MAX_METADATA, code_metadata, read_metadata
from ecqx.coding.entries import varint
from ecqx.errors import InputError

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}
ABOUT = {"model": "resnet20", "classes": ["Gänseblümchen", "rose"], "input": {"mean": [0.5, 1e-9]}}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT).filter(
        lambda value: value not in (math.inf, -math.inf)
    ),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


def written(path: Path, metadata: Any = None) -> bytes:
    ecqx.save(path, STATE, metadata=metadata)
    return path.read_bytes()


@given(st.dictionaries(TEXT, VALUES, min_size=1))
def test_what_json_holds_comes_back_in_any_order(metadata: dict[str, Any]) -> None:
    data = code_metadata(metadata)
    assert read_metadata(memoryview(data)) == metadata
    assert json.loads(data) == metadata
    assert code_metadata(dict(reversed(metadata.items()))) == data


def test_a_file_with_metadata_is_the_file_without_and_its_json(tmp_path: Path) -> None:
    path = tmp_path / "m.ecqx"
    plain, file = written(path), written(path, ABOUT)
    about = '{"classes":["Gänseblümchen","rose"],"input":{"mean":[0.5,1e-09]},"model":"resnet20"}'
    body = plain[len(MAGIC) + 2 + DIGEST_BYTES :]
    assert (plain[4], file[4]) == (1, 3)
    assert file == seal(varint(len(about.encode())) + about.encode() + body, 3)
    contents = ecqx.inspect(path)
    assert contents.metadata == ABOUT
    assert contents.size.total == len(file)
    state = ecqx.load(path)
    assert all(torch.equal(state[name], tensor) for name, tensor in STATE.items())
    assert written(path, {}) == plain
    assert ecqx.inspect(path).metadata == {}


def test_keys_and_tuples_become_what_json_has(tmp_path: Path) -> None:
    path = tmp_path / "m.ecqx"
    written(path, {10: ("a", "b"), 9: None})
    assert ecqx.inspect(path).metadata == {"10": ["a", "b"], "9": None}


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": float("nan")},
        {"std": [math.inf]},
        {"tensor": torch.zeros(2)},
        {"mean": np.zeros(3, np.float32)},
        {("a", "b"): 1},
        {"lone": "\ud800"},
        ["classes"],
        "classes",
        {"classes": "x" * MAX_METADATA},
    ],
    ids=lambda metadata: repr(metadata)[:20],
)
def test_what_json_cannot_hold_is_one_line_and_leaves_the_file(
    metadata: Any, tmp_path: Path
) -> None:
    path = tmp_path / "m.ecqx"
    before = written(path)
    with pytest.raises(InputError, match=r"^metadata [^\n]+$"):
        ecqx.save(path, STATE, metadata=metadata)
    assert path.read_bytes() == before


def test_nested_too_deeply() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="metadata"):
        code_metadata({"deep": deep})
    del deep


def test_metadata_without_their_version_and_a_version_without_them(tmp_path: Path) -> None:
    path = tmp_path / "m.ecqx"
    file = written(path, ABOUT)
    body = file[len(MAGIC) + 1 + 2 + DIGEST_BYTES :]
    for data in (
        seal(body, 1),
        seal(b"\0" + body, 3),
        seal(b"\2{}" + body, 3),
        seal(b'\x09{"a": 1} ' + body, 3),
        seal(varint(1 << 40) + body, 3),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"^{path} is no valid bitstream: [^\n]+$"):
            ecqx.load(path)
