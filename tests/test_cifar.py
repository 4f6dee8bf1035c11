"""CIFAR from made archives in the official layout: the splits, and what is refused unopened."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from ecqx.data import TensorData
from ecqx.data.cifar_archives import cifar
from ecqx.data.tensors import Split
from ecqx.errors import InputError

OFFICIAL = {10: CIFAR10, 100: CIFAR100}
BATCHES = {10: [f"data_batch_{i}" for i in range(1, 6)], 100: ["train"]}
TEST, META = {10: "test_batch", 100: "test"}, {10: "batches.meta", 100: "meta"}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@dataclass
class Made:
    """A small archive with the official names, and the images and labels that are in it."""

    root: Path
    classes: int
    images: np.ndarray[Any, np.dtype[np.uint8]]
    labels: list[int]
    test: int
    names: list[str]

    @property
    def folder(self) -> Path:
        return self.root / OFFICIAL[self.classes].base_folder

    @property
    def archive(self) -> Path:
        return self.root / OFFICIAL[self.classes].filename

    def load(self, **options: Any) -> TensorData:
        return cifar(self.root, self.classes, **({"validation": 12} | options))


def make(
    root: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 10, train: int = 60, test: int = 15
) -> Made:
    """Write the archive, and have torchvision expect its checksums instead of the official ones."""
    rng = np.random.default_rng(classes)
    images = rng.integers(0, 256, (train + test, 3 * 32 * 32), dtype=np.uint8)
    labels = (np.arange(train + test) % classes).tolist()
    names = [f"thing {i}" for i in range(classes)]
    made = Made(root, classes, images, labels, test, names)
    folder, files = made.folder, [*BATCHES[classes], TEST[classes]]
    folder.mkdir(parents=True)
    size = train // len(BATCHES[classes])
    key = "labels" if classes == 10 else "fine_labels"
    for i, name in enumerate(files):
        rows = slice(i * size, (i + 1) * size) if name != TEST[classes] else slice(train, None)
        batch = {"data": images[rows], key: labels[rows], "coarse_labels": [0] * size}
        (folder / name).write_bytes(pickle.dumps(batch))
    key = "label_names" if classes == 10 else "fine_label_names"
    (folder / META[classes]).write_bytes(pickle.dumps({key: names, "coarse_label_names": ["x"]}))
    with tarfile.open(made.archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    official = OFFICIAL[classes]
    sums = [[name, md5(folder / name)] for name in files]
    monkeypatch.setattr(official, "train_list", sums[:-1])
    monkeypatch.setattr(official, "test_list", sums[-1:])
    checked = official.meta | {"md5": md5(folder / META[classes])}
    monkeypatch.setattr(official, "meta", checked)
    monkeypatch.setattr(official, "tgz_md5", md5(made.archive))
    shutil.rmtree(folder)
    return made


@pytest.fixture(params=[10, 100])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return make(tmp_path, monkeypatch, request.param)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets nothing out; the addresses that were asked for."""
    asked: list[str] = []

    def get(_: requests.Session, url: str, **__: Any) -> None:
        asked.append(url)
        raise requests.exceptions.SSLError

    monkeypatch.setattr(requests.Session, "get", get)
    return asked


def samples(split: Split) -> list[tuple[bytes, int]]:
    pairs = zip(split.inputs, split.targets.tolist(), strict=True)
    return [(image.numpy().tobytes(), label) for image, label in pairs]


def refusal(made: Made, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        made.load(**options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- the splits ------------------------------------------------------------------------------------


def test_splits_hold_every_image_once_with_its_label(made: Made) -> None:
    data = made.load()
    assert [len(s) for s in (data.train, data.validation, data.test)] == [48, 12, 15]
    for split in (data.train, data.validation, data.test):
        assert split.inputs.shape == (len(split), 3, 32, 32)
        assert (split.inputs.dtype, split.targets.dtype) == (torch.uint8, torch.int64)
        assert split.inputs.is_contiguous()
    expected = [
        (image.tobytes(), label) for image, label in zip(made.images, made.labels, strict=True)
    ]
    assert Counter(samples(data.train) + samples(data.validation)) == Counter(expected[:60])
    assert samples(data.test) == expected[60:]
    assert (data.classes, data.label) == (tuple(made.names), f"cifar{made.classes}")


def test_validation_images_may_train_too(made: Made) -> None:
    apart, whole = made.load(), made.load(overlap=True)
    assert len(whole.train) == len(apart.train) + len(apart.validation)
    assert torch.equal(whole.validation.inputs, apart.validation.inputs)
    assert whole.label != apart.label


def test_the_split_depends_on_the_seed_alone(made: Made) -> None:
    first, again, other = made.load(seed=3), made.load(seed=3), made.load(seed=4)
    assert samples(first.validation) == samples(again.validation)
    assert samples(first.train) == samples(again.train)
    assert samples(first.validation) != samples(other.validation)
    assert samples(first.test) == samples(other.test)


def test_only_training_is_augmented(made: Made) -> None:
    data = made.load()
    plain, training = data.test.preparation, data.train.preparation
    assert data.validation.preparation == plain
    assert (plain.flip, plain.padding) == (False, 0)
    assert (training.flip, training.padding) == (True, 4)
    assert (training.mean, training.deviation) == (plain.mean, plain.deviation)


def test_pixels_are_standardized_as_published(made: Made) -> None:
    preparation = made.load().test.preparation
    black, _ = preparation(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.zeros(1), None)
    white, _ = preparation(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.zeros(1), None)
    expected = {
        10: ([-125.3 / 63.0, -123.0 / 62.1, -113.9 / 66.7], [129.7 / 63, 132 / 62.1, 141.1 / 66.7]),
        100: (
            [-0.5071 / 0.2673, -0.4865 / 0.2564, -0.4409 / 0.2762],
            [0.4929 / 0.2673, 0.5135 / 0.2564, 0.5591 / 0.2762],
        ),
    }[made.classes]
    torch.testing.assert_close(black.flatten(), torch.tensor(expected[0]))
    torch.testing.assert_close(white.flatten(), torch.tensor(expected[1]))


def test_a_saved_data_set_is_the_same(made: Made, tmp_path: Path) -> None:
    data = made.load()
    data.save(tmp_path / "data.safetensors")
    again = TensorData.load(tmp_path / "data.safetensors")
    assert samples(again.train) == samples(data.train)
    assert again.train.preparation == data.train.preparation
    assert (again.classes, again.label) == (data.classes, data.label)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [0, -1, 60, 61])
def test_an_impossible_validation_split(made: Made, validation: int) -> None:
    assert f"validation: {validation} images" in refusal(made, validation=validation)


def test_other_numbers_of_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classes: 20"):
        cifar(tmp_path, classes=20)


# -- files -----------------------------------------------------------------------------------------


def test_the_archive_is_needed_once(made: Made, offline: list[str]) -> None:
    first = made.load()
    made.archive.unlink()
    assert samples(made.load().train) == samples(first.train)
    assert list(made.root.glob("[!.]*")) == [made.folder]
    assert offline == []


@pytest.mark.parametrize(
    ("classes", "url"),
    [
        (10, "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
        (100, "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"),
    ],
)
def test_what_is_missing_is_fetched_from_the_official_place(
    tmp_path: Path, offline: list[str], classes: int, url: str
) -> None:
    with pytest.raises(InputError) as caught:
        cifar(tmp_path, classes)
    assert offline == [url]
    official = OFFICIAL[classes]
    assert f"{official.base_folder} or {official.filename}" in str(caught.value)
    assert f"CIFAR-{classes}:" in str(caught.value)


def test_another_archive_is_not_unpacked(made: Made) -> None:
    made.archive.write_bytes(made.archive.read_bytes()[:-1])
    assert str(made.archive) in refusal(made)
    assert not made.folder.exists()


class Malicious:
    """Runs code of its own when it is unpickled: it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def damage(path: Path, how: str, marker: Path) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-10])
    elif how == "no pickle":
        path.write_bytes(b"<html>")
    elif how == "another":
        path.write_bytes(pickle.dumps({"data": "other"}))
    elif how == "malicious":
        path.write_bytes(pickle.dumps(Malicious(marker)))
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how", ["missing", "truncated", "no pickle", "another", "malicious", "a folder"]
)
@pytest.mark.parametrize("which", ["first", "last", "test", "meta"])
def test_a_damaged_file_is_named_and_never_unpickled(made: Made, which: str, how: str) -> None:
    made.load()
    name = {
        "first": BATCHES[made.classes][0],
        "last": BATCHES[made.classes][-1],
        "test": TEST[made.classes],
        "meta": META[made.classes],
    }[which]
    marker = made.root / "marker"
    damage(made.folder / name, how, marker)
    message = refusal(made)
    assert str(made.folder / name) in message
    assert f"delete {made.folder}" in message
    assert not marker.exists()
    if how == "malicious":
        pickle.loads((made.folder / name).read_bytes())
        assert marker.exists()  # it would have been made, had anything opened the file


def test_deleting_the_folder_helps_as_the_message_says(made: Made) -> None:
    first = made.load()
    (made.folder / META[made.classes]).unlink()
    refusal(made)
    shutil.rmtree(made.folder)
    assert samples(made.load().train) == samples(first.train)
