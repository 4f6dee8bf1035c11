"""The digits and their splits, batches and their preparation, and files of all that."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.data import Preparation, Split, TensorData, digits, tensors
from ecqx.data.tensors import METADATA_KEY
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
    assert data.classes == tuple("0123456789")
    assert data.label == "digits"


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
        assert part.preparation == whole.preparation
    assert same(digits(limit=10_000), data)
    # A slice is not called what the whole is.
    assert sliced.label != data.label


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


# -- preparation -----------------------------------------------------------------------------------

IGNORED = 255
Pixels = NDArray[Any]


def images(count: int, height: int = 5, width: int = 7, channels: int = 3) -> Tensor:
    """Images whose every pixel is another one, none of them black."""
    shape = (count, channels, height, width)
    size = channels * height * width
    return (torch.arange(count * size).reshape(shape) % 251 + 1).to(torch.uint8)


def label_maps(count: int, height: int = 5, width: int = 7) -> Tensor:
    """A label a pixel that tells where it belongs, 0 to height * width - 1."""
    return (
        torch.arange(height * width, dtype=torch.uint8)
        .reshape(1, height, width)
        .repeat(count, 1, 1)
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("training", [False, True])
def test_pixels_are_normalized_per_channel(training: bool) -> None:
    mean, deviation = (0.1, 0.5, 0.9), (0.2, 1.0, 3.0)
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), np.uint8))
    found, _ = Preparation(mean, deviation)(stored, torch.zeros(6), seeded() if training else None)
    expected = np.empty(stored.shape)
    for channel in range(3):
        pixels = stored.numpy()[:, channel].astype(np.float64)
        expected[:, channel] = (pixels / 255 - mean[channel]) / deviation[channel]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_without_settings_nothing_happens() -> None:
    stored, targets = images(3), label_maps(3)
    for generator in (None, seeded()):
        found = Preparation()(stored, targets, generator)
        assert found[0] is stored
        assert found[1] is targets


FULL = Preparation((0.5,) * 3, (0.25,) * 3, flip=True, padding=2, draws=True)


def test_evaluation_leaves_nothing_to_chance() -> None:
    versions = torch.stack([images(4), images(4).flip(0)], dim=1)
    plain = Preparation(FULL.mean, FULL.deviation)
    found, labels = FULL(versions, label_maps(4), None)
    assert torch.equal(found, plain(versions[:, 0], label_maps(4), None)[0])
    assert torch.equal(labels, label_maps(4))


def test_the_generator_alone_decides() -> None:
    versions = torch.stack([images(8), images(8).flip(0)], dim=1)
    torch.manual_seed(1)
    first = FULL(versions, label_maps(8), seeded(3))
    torch.manual_seed(2)
    again, other = (
        FULL(versions, label_maps(8), seeded(3)),
        FULL(versions, label_maps(8), seeded(4)),
    )
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def crop_of(padding: int, image: Pixels, labels: Pixels, cut: Pixels) -> tuple[int, int]:
    """Where a cut lies in an image, told by its labels; everything is checked to lie there."""
    height, width = labels.shape
    row, column = np.argwhere(cut != IGNORED)[0]
    top, left = np.divmod(int(cut[row, column]), width)
    down, right = top - row, left - column
    for i in range(height):
        for j in range(width):
            inside = 0 <= i + down < height and 0 <= j + right < width
            assert cut[i, j] == (labels[i + down, j + right] if inside else IGNORED)
    assert max(abs(down), abs(right)) <= padding
    return int(down), int(right)


def test_crops_reach_every_offset_and_labels_move_along() -> None:
    stored, labels = images(400), label_maps(400)
    cuts, cut_labels = Preparation(padding=2)(stored, labels, seeded())
    assert (cuts.dtype, cuts.shape) == (stored.dtype, stored.shape)
    assert (cut_labels.dtype, cut_labels.shape) == (labels.dtype, labels.shape)
    offsets = set()
    for image, cut, cut_label in zip(stored, cuts, cut_labels, strict=True):
        down, right = crop_of(2, image.numpy(), labels[0].numpy(), cut_label.numpy())
        offsets.add((down, right))
        outside = cut_label == IGNORED
        assert not cut[:, outside].any()  # the rim is black
        assert torch.equal(cut[:, ~outside], image.flatten(1)[:, cut_label[~outside].long()])
    assert offsets == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_flips_turn_half_of_the_images_with_their_labels() -> None:
    stored, labels = images(400), label_maps(400)
    found, found_labels = Preparation(flip=True)(stored, labels, seeded())
    turned = 0
    for image, new, label, new_label in zip(stored, found, labels, found_labels, strict=True):
        if torch.equal(new, image):
            assert torch.equal(new_label, label)
        else:
            assert np.array_equal(new.numpy(), image.numpy()[:, :, ::-1])
            assert np.array_equal(new_label.numpy(), label.numpy()[:, ::-1])
            turned += 1
    assert 160 < turned < 240


@pytest.mark.parametrize("targets", [torch.arange(9), torch.ones(9, 4)])
def test_targets_of_whole_images_stay(targets: Tensor) -> None:
    _, found = Preparation(flip=True, padding=3)(images(9), targets, seeded())
    assert found is targets


def test_training_draws_one_version_of_each_sample() -> None:
    versions = torch.arange(600.0).reshape(200, 3, 1)
    found, _ = Preparation(draws=True)(versions, torch.zeros(200), seeded())
    chosen = found.flatten().long() - 3 * torch.arange(200)
    counts = torch.bincount(chosen, minlength=3).tolist()
    assert sum(counts) == 200
    assert min(counts) > 40
    first, _ = Preparation(draws=True)(versions, torch.zeros(200), None)
    assert torch.equal(first, versions[:, 0])


@pytest.mark.parametrize("fits", [True, False])
def test_a_split_moves_to_a_device_or_batch_by_batch(
    data: TensorData, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = data.validation
    needed = split.inputs.nbytes + split.targets.nbytes
    monkeypatch.setattr(tensors, "free_memory", lambda device: 2 * needed - (0 if fits else 1))
    moved = split.to("meta")
    assert moved.inputs.is_meta == moved.targets.is_meta == fits
    for x, y in moved.batches(100, torch.Generator().manual_seed(0)):
        assert x.is_meta
        assert y.is_meta


def test_a_split_that_stays_gives_the_same_batches(
    data: TensorData, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(data.train.batches(64, torch.Generator().manual_seed(0)))
    monkeypatch.setattr(tensors, "free_memory", lambda device: 0)
    found = list(data.train.to("cpu").batches(64, torch.Generator().manual_seed(0)))
    for (x, y), (other_x, other_y) in zip(expected, found, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_tensors_of_a_file_are_read_as_they_are_needed(tmp_path: Path) -> None:
    """A split larger than the memory could be trained on."""
    split = Split(torch.ones(2**15, 2**12, dtype=torch.uint8), torch.zeros(2**15))
    TensorData(split, split.take(1), split.take(1), ("one",), "ones").save(tmp_path / "large")
    del split
    before = private_memory()
    loaded = TensorData.load(tmp_path / "large").train
    x, _ = next(loaded.batches(64, torch.Generator().manual_seed(0)))
    assert x.float().mean() == 1
    assert private_memory() - before < loaded.inputs.nbytes / 4


def private_memory() -> int:
    """Memory of this process that no file stands for, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_batches_prepare_what_they_take() -> None:
    split = Split(images(20), torch.arange(20), Preparation((0.0,) * 3, (1 / 255,) * 3, flip=True))
    for generator in (None, seeded(5)):
        for inputs, targets in split.batches(8, generator):
            for image, number in zip(inputs, targets, strict=True):
                original = split.inputs[number].float()
                both = torch.stack([original, original.flip(-1)])
                assert float((image - both).abs().amax(dim=(1, 2, 3)).min()) < 1e-3
                if generator is None:
                    assert float((image - original).abs().max()) < 1e-3


def test_label_maps_become_classes() -> None:
    split = Split(images(6), label_maps(6))
    for _, targets in split.batches(4):
        assert targets.dtype == torch.int64
    floats = Split(images(6), torch.ones(6, 4))
    assert next(floats.batches(4))[1].dtype == torch.float32


# -- files -----------------------------------------------------------------------------------------


def test_data_come_back(data: TensorData, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "data.safetensors"
    data.save(path)
    assert same(TensorData.load(path), data)
    assert TensorData.load(path).classes == data.classes
    assert TensorData.load(path).label == data.label
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


PREPARATIONS = st.builds(
    Preparation,
    mean=st.lists(st.floats(0, 1), max_size=3).map(tuple),
    deviation=st.lists(st.floats(0.01, 1), max_size=3).map(tuple),
    flip=st.booleans(),
    padding=st.integers(0, 9),
    draws=st.booleans(),
)


@settings(max_examples=25)
@given(
    preparations=st.tuples(PREPARATIONS, PREPARATIONS, PREPARATIONS),
    classes=st.lists(st.text(), max_size=3).map(tuple),
    label=st.text(),
)
def test_what_is_said_of_the_data_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    preparations: tuple[Preparation, Preparation, Preparation],
    classes: tuple[str, ...],
    label: str,
) -> None:
    path = tmp_path_factory.mktemp("data") / "data.safetensors"
    parts = [Split(images(i + 1), label_maps(i + 1), p) for i, p in enumerate(preparations)]
    stored = TensorData(*parts, classes=classes, label=label)
    stored.save(path)
    found = TensorData.load(path)
    assert same(found, stored)
    assert [split.preparation for split in splits(found)] == list(preparations)
    assert found.train.inputs.dtype == found.train.targets.dtype == torch.uint8
    assert (found.classes, found.label) == (classes, label)


def test_files_without_what_is_said_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    digits(limit=3).save(path)
    tensors, _ = read_tensors(path)
    write_tensors(path, tensors)
    assert f"has no '{METADATA_KEY}' in its metadata" in refusal(path)


@pytest.mark.parametrize("missing", ["classes", "label", "preparation"])
def test_files_that_say_too_little(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "data.safetensors"
    digits(limit=3).save(path)
    tensors, about = read_tensors(path, METADATA_KEY)
    said = json.loads(about)
    del said[missing]
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(said)})
    assert f"not a data file of this suite, '{missing}' is missing" in refusal(path)


@pytest.mark.parametrize("missing", [f"{s}.{k}" for s in SPLITS for k in ("inputs", "targets")])
def test_files_of_something_else(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "data.safetensors"
    digits(limit=3).save(path)
    tensors, about = read_tensors(path, METADATA_KEY)
    del tensors[missing]
    write_tensors(path, tensors, {METADATA_KEY: about})
    assert f"not a data file of this suite, '{missing}' is missing" in refusal(path)
