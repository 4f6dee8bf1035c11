"""The digits and their splits, files of them, and batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from ecqx.checkpoint import write_tensors
from ecqx.data import Split, TensorData, digits
from ecqx.errors import InputError

SPLITS = ("train", "validation", "test")
SAMPLES = 1797


def splits(data: TensorData) -> list[Split]:
    return [data.train, data.validation, data.test]


def pixels(data: TensorData) -> list[NDArray[np.int64]]:
    """The splits' images as pixels of 0 to 16 again: each row is one image."""
    flat = [split.inputs.double().flatten(1) for split in splits(data)]
    low, high = min(float(s.min()) for s in flat), max(float(s.max()) for s in flat)
    scaled = [(s - low) / (high - low) * 16 for s in flat]
    assert all(float((s - s.round()).abs().max()) < 1e-3 for s in scaled)
    return [s.round().long().numpy() for s in scaled]


def same(a: TensorData, b: TensorData) -> bool:
    return all(
        torch.equal(x.inputs, y.inputs) and torch.equal(x.targets, y.targets)
        for x, y in zip(splits(a), splits(b), strict=True)
    )


@pytest.fixture(scope="module")
def data() -> TensorData:
    return digits()


# -- the splits ------------------------------------------------------------------------------------


def test_sizes_and_types(data: TensorData) -> None:
    assert [len(split) for split in splits(data)] == [1077, 270, 450]
    for split in splits(data):
        assert split.inputs.shape == (len(split), 1, 8, 8)
        assert (split.inputs.dtype, split.targets.dtype) == (torch.float32, torch.int64)
    assert data.num_classes == 10


@pytest.mark.parametrize("seed", [0, 3])
def test_splits_are_disjoint_and_hold_every_image_with_its_label(seed: int) -> None:
    data = digits(seed)
    images, labels = load_digits(return_X_y=True)
    expected = Counter((tuple(image), label) for image, label in zip(images, labels, strict=True))
    assert max(expected.values()) == 1  # no image is there twice, so none can be in two splits
    found = Counter(
        (tuple(image), label)
        for rows, split in zip(pixels(data), splits(data), strict=True)
        for image, label in zip(rows, split.targets.tolist(), strict=True)
    )
    assert found == expected


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_splits_are_stratified(seed: int) -> None:
    whole = np.bincount(load_digits().target)
    for split in splits(digits(seed)):
        counts = np.bincount(split.targets.numpy(), minlength=10)
        assert np.abs(counts - whole * len(split) / SAMPLES).max() <= 1.5


def test_standardized_by_the_training_split_alone(data: TensorData) -> None:
    train = pixels(data)[0]
    mean, deviation = train.mean(), train.std()
    for rows, split in zip(pixels(data), splits(data), strict=True):
        expected = (rows - mean) / deviation
        np.testing.assert_allclose(split.inputs.flatten(1).numpy(), expected, atol=1e-5)
    assert float(data.train.inputs.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(data.train.inputs.double().std(correction=0)) == pytest.approx(1, abs=1e-6)
    # Another mean than that of all images, or of the test images: the check above tells them apart.
    assert abs(mean - load_digits().data.mean()) / deviation > 1e-4


def test_the_split_follows_from_the_seed() -> None:
    assert same(digits(5), digits(5))
    np.random.seed(123)
    torch.manual_seed(123)
    assert same(digits(5), digits(5))
    assert not same(digits(5), digits(6))


def test_a_slice_is_the_beginning(data: TensorData) -> None:
    sliced = digits(limit=20)
    assert [len(split) for split in splits(sliced)] == [20, 20, 20]
    for part, whole in zip(splits(sliced), splits(data), strict=True):
        assert torch.equal(part.inputs, whole.inputs[:20])
        assert torch.equal(part.targets, whole.targets[:20])
    assert same(digits(limit=10_000), data)


# -- batches ---------------------------------------------------------------------------------------


def numbered(count: int) -> Split:
    return Split(torch.arange(count).float()[:, None], torch.arange(count))


@pytest.mark.parametrize("size", [1, 4, 7, 20, 64])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_batches_cover_everything_once(size: int, seed: int | None) -> None:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    seen: list[int] = []
    sizes: list[int] = []
    for inputs, targets in numbered(20).batches(size, generator):
        assert torch.equal(inputs[:, 0].long(), targets)
        seen += targets.tolist()
        sizes.append(len(targets))
    assert sizes == [size] * (20 // size) + [20 % size] * (20 % size > 0)
    assert sorted(seen) == list(range(20))
    assert (seen == list(range(20))) == (seed is None)


def test_the_generator_draws_the_order() -> None:
    def order(generator: torch.Generator) -> list[int]:
        return torch.cat([y for _, y in numbered(50).batches(8, generator)]).tolist()

    first, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    torch.manual_seed(4)
    one = order(first)
    torch.manual_seed(5)
    assert order(again) == one
    assert order(first) != one


# -- files -----------------------------------------------------------------------------------------


def test_data_come_back(data: TensorData, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "data.safetensors"
    data.save(path)
    assert same(TensorData.load(path), data)
    first = path.read_bytes()
    digits().save(path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["data.safetensors"]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        TensorData.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    assert "no such file" in refusal(path)
    digits(limit=5).save(path)
    whole = path.read_bytes()
    for content in (b"", b"no tensors", whole[:100], whole[:-1], b"\xff" + whole[1:]):
        path.write_bytes(content)
        assert "not a readable safetensors file" in refusal(path)


@pytest.mark.parametrize("missing", [f"{s}.{k}" for s in SPLITS for k in ("inputs", "targets")])
def test_files_of_something_else(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "data.safetensors"
    tensors: dict[str, Tensor] = {}
    for name, split in zip(SPLITS, splits(digits(limit=3)), strict=True):
        tensors |= {f"{name}.inputs": split.inputs, f"{name}.targets": split.targets}
    del tensors[missing]
    write_tensors(path, tensors)
    assert f"not a data file of this suite, '{missing}' is missing" in refusal(path)
