"""Tensor files and quantizer checkpoints: what is written comes back, what is broken is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecqx.bitstream import QuantizedTensor
from ecqx.centroids import MAX_BITS, MIN_BITS
from ecqx.checkpoint import (
    METADATA_KEY,
    read_coded_state,
    read_tensors,
    section,
    write_coded_state,
    write_tensors,
)
from ecqx.errors import InputError
from ecqx.quantizer import ECQx

ALL_BITS = range(MIN_BITS, MAX_BITS + 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def one_line(path: Path, read: Callable[[Path], object] = read_coded_state) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def same_bits(a: Tensor, b: Tensor) -> bool:
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


# -- tensor files ----------------------------------------------------------------------------------


def test_tensors_come_back(path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "float": torch.tensor([0.1, -0.0, float("nan"), float("inf")]),
        "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 3),
        "view": shared.T,
        "twin": shared,
        "grad": nn.Parameter(torch.ones(2)),
    }
    write_tensors(path, tensors, {"note": "first"})
    back, note = read_tensors(path, "note")
    assert note == "first"
    assert set(back) == set(tensors)
    assert all(same_bits(back[name], tensor.detach()) for name, tensor in tensors.items())
    assert read_tensors(path)[1] == ""


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    write_tensors(path, {"x": torch.ones(2)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(path, {"x": torch.zeros(2)}, {"note": 3})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_folders_are_made_and_files_are_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.safetensors"
    write_tensors(path, {"x": torch.ones(2)})
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("read", [read_tensors, read_coded_state])
def test_no_safetensors_file(path: Path, read: Callable[[Path], object]) -> None:
    assert "no such file" in one_line(path, read)
    for content in (b"", b"\0" * 7, b"PK\3\4 zip", b"\xff" * 200, b"{}"):
        path.write_bytes(content)
        assert "not a readable safetensors file" in one_line(path, read)
    path.unlink()
    path.mkdir()
    one_line(path, read)


def test_cut_off_files(path: Path) -> None:
    write_coded_state(path, *quantized(4).coded_state())
    whole = path.read_bytes()
    for length in [*range(0, 400, 7), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        one_line(path)


def test_missing_metadata(path: Path) -> None:
    write_tensors(path, {"x": torch.ones(2)})
    assert "has no 'note' in its metadata" in one_line(path, lambda p: read_tensors(p, "note"))
    assert f"has no '{METADATA_KEY}'" in one_line(path)


def test_section() -> None:
    state = {"a.b": torch.tensor(1), "a.b.c": torch.tensor(2), "ab.c": torch.tensor(3)}
    assert {name: int(t) for name, t in section(state, "a").items()} == {"b": 1, "b.c": 2}
    assert section(state, "c") == {}


# -- quantizer checkpoints -------------------------------------------------------------------------


def quantized(bits: int, positive: bool = False) -> ECQx:
    torch.manual_seed(bits)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 20))
    if positive:
        model[3].weight.data.abs_()
    return ECQx(model, bits=bits, lam=0.0)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_a_quantized_model_comes_back(path: Path, bits: int, positive: bool) -> None:
    q = quantized(bits, positive)
    state, tensors = q.coded_state()
    write_coded_state(path, state, tensors)
    coded = read_coded_state(path)
    assert list(coded.state) == list(state)
    assert all(same_bits(coded.state[name], state[name]) for name in state)
    assert list(coded.quantized) == list(tensors) == ["0.weight", "3.weight"]
    for name, tensor in coded.quantized.items():
        assert torch.equal(tensor.integers.int(), tensors[name].integers.int())
        assert (tensor.step, tensor.bits) == (q.grids[name].step, bits)
    if positive:
        # The widest integers there are, where a byte with a sign may not do.
        assert int(coded.quantized["3.weight"].integers.max()) == 2**bits - 1


@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_outermost_integers_of_every_grid(path: Path, bits: int) -> None:
    half = 2 ** (bits - 1)
    integers = torch.tensor([[-half, half - 1, half, 1 - half, 2 * half - 1, 0]])
    write_coded_state(
        path, {"w": torch.zeros(1, 6)}, {"w": QuantizedTensor(integers, 2.0**-20, bits)}
    )
    coded = read_coded_state(path)
    assert torch.equal(coded.quantized["w"].integers.int(), integers.int())
    assert torch.equal(coded.state["w"], integers.float() * 2.0**-20)


def test_integers_take_a_byte_up_to_seven_bits(path: Path) -> None:
    sizes = {}
    for bits in ALL_BITS:
        write_coded_state(path, *quantized(bits).coded_state())
        sizes[bits] = load_file(path)["integers.3.weight"].element_size()
    assert sizes == {**dict.fromkeys(range(2, 8), 1), 8: 2}


# -- broken checkpoints ----------------------------------------------------------------------------

Damage = Callable[[dict[str, Tensor], dict[str, Any]], object]


def damaged(path: Path, damage: Damage) -> str:
    """The refusal of a checkpoint after ``damage`` to its tensors and its metadata."""
    write_coded_state(path, *quantized(4).coded_state())
    tensors, metadata = read_tensors(path, METADATA_KEY)
    about = json.loads(metadata)
    damage(tensors, about)
    save_file(tensors, path, {METADATA_KEY: json.dumps(about)})
    return one_line(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, _: tensors.pop("integers.0.weight"),
        lambda tensors, _: tensors.pop("step.3.weight"),
        lambda tensors, _: tensors.pop("model.1.running_mean"),
        lambda tensors, _: tensors.update({"step.0.weight": torch.ones(2)}),
        lambda _, about: about.pop("bits"),
        lambda _, about: about.pop("names"),
        lambda _, about: about["bits"].pop("0.weight"),
        lambda _, about: about["names"].append("5.weight"),
        lambda _, about: about.update(names=None),
        lambda _, about: about.update(names=[["0.weight"]]),
        lambda _, about: about.update(bits=7),
    ],
)
def test_incomplete_checkpoints(path: Path, damage: Damage) -> None:
    assert "not a whole quantizer checkpoint" in damaged(path, damage)


@pytest.mark.parametrize("metadata", ["", "{", "[]", "3", '"names"', "null", '{"names": 3}'])
def test_metadata_that_is_none(path: Path, metadata: str) -> None:
    save_file({"model.x": torch.ones(2)}, path, {METADATA_KEY: metadata})
    assert "not a whole quantizer checkpoint" in one_line(path)
