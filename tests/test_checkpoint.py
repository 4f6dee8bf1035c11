"""Tensor files and quantizer checkpoints: what is written comes back, what is broken is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecqx.assignment.bits import MAX_BITS, MIN_BITS
from ecqx.coding import bitstream
from ecqx.coding.checkpoint import read_state
from ecqx.coding.coded_state import METADATA_KEY, read_coded_state, write_coded_state
from ecqx.coding.quantized import QuantizedTensor
from ecqx.coding.tensor_files import read_tensors, section, write_tensors
from ecqx.errors import InputError
from ecqx.quantizers.ecqx import ECQx

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


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.safetensors"
    write_tensors(path, {"x": torch.ones(2)})
    assert path.is_file()


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
    for length in [0, 1, 7, 8, 9, 100, 399, len(whole) // 2, len(whole) - 1]:
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
    assert "not a complete quantizer checkpoint" in damaged(path, damage)


@pytest.mark.parametrize("metadata", ["", "{", "[]", "3", '"names"', "null", '{"names": 3}'])
def test_metadata_that_is_none(path: Path, metadata: str) -> None:
    save_file({"model.x": torch.ones(2)}, path, {METADATA_KEY: metadata})
    assert "not a complete quantizer checkpoint" in one_line(path)


# -- the state_dict in each form -------------------------------------------------------------------

KEYS = [None, "state_dict", "model", "model_state_dict", "net"]
NAMES = st.text("abcnet.0", min_size=1, max_size=12)
SHAPES = st.lists(st.integers(1, 3), max_size=4)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64])
# Names that would be taken for the entry of a training checkpoint are no dict there, but tensors.
STATES = st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), min_size=1, max_size=5)


def made(entries: dict[str, tuple[list[int], torch.dtype]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(entries))
    return {
        name: (100 * torch.randn(shape, generator=generator)).to(dtype)
        for name, (shape, dtype) in entries.items()
    }


def assert_read(path: Path, expected: dict[str, Tensor]) -> None:
    state = read_state(path)
    assert set(state) == set(expected)
    for name, tensor in state.items():
        assert same_bits(tensor, expected[name]), name
        assert not tensor.requires_grad


@given(STATES, st.sampled_from(KEYS), st.sampled_from(["", "module."]), st.booleans())
def test_states_of_torch_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    entries: dict[str, tuple[list[int], torch.dtype]],
    key: str | None,
    prefix: str,
    legacy: bool,
) -> None:
    state = made(entries)
    path = tmp_path_factory.mktemp("states") / "model.pth"
    content: dict[str, Any] = OrderedDict((prefix + name, t) for name, t in state.items())
    if key is not None:
        content = {"epoch": 3, "optimizer": {"lr": 0.1}, key: content}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert_read(path, state)


@given(STATES, st.sampled_from(["", "module."]))
def test_states_of_safetensors_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    entries: dict[str, tuple[list[int], torch.dtype]],
    prefix: str,
) -> None:
    state = made(entries)
    path = tmp_path_factory.mktemp("states") / "model.safetensors"
    write_tensors(path, {prefix + name: tensor for name, tensor in state.items()})
    assert_read(path, state)


def test_quantized_models_as_a_start(tmp_path: Path) -> None:
    q = quantized(3)
    expected = {name: tensor.clone() for name, tensor in q.model.state_dict().items()}
    q.save_checkpoint(tmp_path / "model.safetensors")
    assert_read(tmp_path / "model.safetensors", expected)
    bitstream.save(tmp_path / "model.ecqx", q)
    assert_read(tmp_path / "model.ecqx", expected)


def test_parameters_and_metadata_of_a_module(path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    expected = model.state_dict()
    torch.save(expected, path.with_suffix(".pt"))
    assert_read(path.with_suffix(".pt"), expected)
    torch.save(dict(model.named_parameters()), path.with_suffix(".pt"))
    assert_read(path.with_suffix(".pt"), dict(list(expected.items())[:4]))


def test_a_prefix_of_some_names_is_part_of_them(path: Path) -> None:
    state = {"module.weight": torch.ones(2, 2), "head.weight": torch.ones(2)}
    write_tensors(path, state)
    assert_read(path, state)


def test_the_published_checkpoint(shared: Path) -> None:
    state = read_state(shared / "models" / "resnet20.pt")
    assert next(iter(state)) == "conv1.weight"
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(t.numel() for n, t in state.items() if not n.endswith(statistics)) == 269_722


class Malicious:
    """Unpickled as pickle does by itself, it makes a folder."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt"])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"state_dict": {"w": evil}}])
def test_a_checkpoint_cannot_run_code(
    tmp_path: Path, suffix: str, wrap: Callable[[Malicious], object]
) -> None:
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(wrap(Malicious(sentinel))))
    assert sentinel.exists()  # so the file does harm where it is not read safely
    sentinel.rmdir()
    path = tmp_path / f"model.{suffix}"
    for save in (torch.save, lambda content, p: p.write_bytes(pickle.dumps(content))):
        save(wrap(Malicious(sentinel)), path)
        assert "no checkpoint that can be loaded safely" in one_line(path, read_state)
        assert not sentinel.exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "ecqx"])
def test_files_that_are_not_there_or_not_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    assert "no such file" in one_line(path, read_state)
    path.mkdir()
    assert "not a folder" in one_line(path, read_state)
    path.rmdir()
    state = {"w": torch.randn(50, 50), "b": torch.randn(50)}
    if suffix == "ecqx":
        bitstream.save(path, state)
    elif suffix == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        one_line(path, read_state)
    path.write_bytes(b"no checkpoint, but text\n" * 50)
    one_line(path, read_state)


@pytest.mark.parametrize(
    "content",
    [{}, [], 3, torch.ones(2), {1: torch.ones(2)}, {"epoch": 3}, {"state_dict": {}}, {"net": None}],
)
def test_checkpoints_without_a_state(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert "holds no state_dict" in one_line(tmp_path / "model.pt", read_state)


@pytest.mark.parametrize("value", [3, "text", {"a": 1}, torch.eye(3).to_sparse()])
def test_values_that_are_no_dense_tensors(tmp_path: Path, value: object) -> None:
    torch.save({"weight": torch.ones(2, 2), "odd": value}, tmp_path / "model.pt")
    assert "tensor odd: is not a dense tensor" in one_line(tmp_path / "model.pt", read_state)


def test_whole_models_are_refused_with_what_would_be_right(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert "save the model's state_dict" in one_line(tmp_path / "model.pt", read_state)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "Permission denied" in one_line(path, read_state)
