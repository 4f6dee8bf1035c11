"""Image folders and archives of them: which image lands where, and what is refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ecqx.data import Preparation, Split, TensorData, image_folder
from ecqx.data.archives import names
from ecqx.data.folder import DEVIATION, MEAN
from ecqx.errors import InputError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
CLASSES = ("ant", "bee", "cat")
TRAIN, TEST = 10, 4


def encoded(pixels: Pixels, kind: str = "png", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def drawn(seed: int, height: int = 8, width: int = 8) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Every image is another one, so that it can be found again.
IMAGES = {
    f"{split}/{name}/{i}.png": drawn(10_000 * first + 100 * label + i)
    for first, (split, count) in enumerate((("train", TRAIN), ("test", TEST)))
    for label, name in enumerate(CLASSES)
    for i in range(count)
}
FILES = {name: encoded(pixels) for name, pixels in IMAGES.items()}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(folder: Path) -> Path:
    """An archive beside a folder."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def load(path: Path, **options: Any) -> TensorData:
    return image_folder(path, **({"validation": 6, "size": 8} | options))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def splits(data: TensorData) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def samples(split: Split) -> Counter[tuple[bytes, int]]:
    pairs = zip(split.inputs, split.targets.tolist(), strict=True)
    return Counter((image.numpy().tobytes(), label) for image, label in pairs)


def same(a: TensorData, b: TensorData) -> bool:
    return (a.classes, a.label) == (b.classes, b.label) and all(
        torch.equal(x.inputs, y.inputs)
        and torch.equal(x.targets, y.targets)
        and x.preparation == y.preparation
        for x, y in zip(splits(a), splits(b), strict=True)
    )


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("root") / "things", FILES)


@pytest.fixture(scope="module")
def data(things: Path) -> TensorData:
    return load(things)


# -- what lands where ------------------------------------------------------------------------------


def test_every_image_is_there_with_its_label(data: TensorData) -> None:
    expected: dict[str, Counter[tuple[bytes, int]]] = {"train": Counter(), "test": Counter()}
    for name, pixels in IMAGES.items():
        split, word, _ = name.split("/")
        expected[split][pixels.transpose(2, 0, 1).tobytes(), CLASSES.index(word)] += 1
    train, validation, test = map(samples, splits(data))
    assert train + validation == expected["train"]
    assert not train & validation
    assert test == expected["test"]
    assert data.classes == CLASSES
    assert data.label == "things"


def test_types_and_preparation(data: TensorData) -> None:
    for split in splits(data):
        assert split.inputs.shape == (len(split), 3, 8, 8)
        assert (split.inputs.dtype, split.targets.dtype) == (torch.uint8, torch.int64)
    plain = Preparation(mean=MEAN, deviation=DEVIATION)
    assert data.validation.preparation == data.test.preparation == plain
    assert data.train.preparation == Preparation(MEAN, DEVIATION, flip=True, padding=1)


def test_constants_of_other_data(things: Path) -> None:
    data = load(things, mean=(0.1, 0.2, 0.3), deviation=(0.4, 0.5, 0.6), label="mine")
    assert data.label == "mine"
    for split in splits(data):
        assert split.preparation.mean == (0.1, 0.2, 0.3)
        assert split.preparation.deviation == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("top", ["", "./", "things/", "./some folder/"])
@pytest.mark.parametrize("kind", ["tar.xz", "tar.gz", "tar", "zip"])
def test_archives_in_any_order_are_as_the_folder(
    tmp_path: Path, data: TensorData, kind: str, top: str
) -> None:
    path = tmp_path / f"things.{kind}"
    order = np.random.default_rng(0).permutation(sorted(FILES))
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in order:
                archive.writestr(top + name, FILES[name])
    else:
        with tarfile.open(path, "w" if kind == "tar" else f"w:{kind[4:]}") as tar:  # type: ignore[call-overload]
            for name in order:
                entry = tarfile.TarInfo(top + name)
                entry.size = len(FILES[name])
                tar.addfile(entry, io.BytesIO(FILES[name]))
    assert same(load(path), data)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_image_of_a_class_is_left_out(tmp_path: Path, data: TensorData) -> None:
    image = encoded(drawn(1))
    others = {
        **dict.fromkeys(["train/loose.png", "loose.png", "valid/ant/0.png"], image),
        **dict.fromkeys(["train/ant/deep.png/0.png", "train/.hidden/0.png"], image),
        **dict.fromkeys(["test/ant/._0.png", ".cache/train/ant/0.png"], image),
        "train/ant/Thumbs.db": b"no image",
        "test/labels.csv": b"0,1\n",
        "README.md": b"a text",
    }
    path = write(tmp_path / "things", FILES | others)
    assert same(load(path), data)


def test_endings_in_capitals_and_other_formats(tmp_path: Path) -> None:
    kinds = {"JPG": "jpeg", "jpeg": "jpeg", "bmp": "bmp", "webp": "webp", "PNG": "png"}
    files = {
        f"{split}/a/{i}.{ending}": encoded(np.full((8, 8, 3), 40 * i, np.uint8), kind)
        for split in ("train", "test")
        for i, (ending, kind) in enumerate(kinds.items())
    }
    data = load(write(tmp_path / "things", files), validation=1)
    levels = data.test.inputs.double().mean((1, 2, 3)).tolist()
    assert levels == pytest.approx([0, 40, 80, 120, 160], abs=3)


@pytest.mark.parametrize(
    ("name", "label"),
    [("my.data", "my.data"), ("v0.02.tar.gz", "v0.02"), ("a.b.zip", "a.b"), ("x.tar", "x")],
)
def test_the_label_is_the_name(tmp_path: Path, name: str, label: str) -> None:
    path = tmp_path / name
    if name == "my.data":
        write(path, FILES)
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in FILES.items():
                archive.writestr(file, content)
    else:
        folder = write(tmp_path / "folder", FILES)
        with tarfile.open(path, "w:gz" if name.endswith(".gz") else "w") as tar:
            tar.add(folder, ".")
    assert load(path).label == label


# -- validation ------------------------------------------------------------------------------------


def test_validation_has_the_same_share_of_every_class(data: TensorData) -> None:
    assert torch.bincount(data.validation.targets).tolist() == [2, 2, 2]
    assert torch.bincount(data.train.targets).tolist() == [8, 8, 8]


def test_the_seed_draws_what_validates(things: Path, data: TensorData) -> None:
    assert same(load(things, seed=0), data)
    other = load(things, seed=1)
    assert samples(other.validation) != samples(data.validation)
    assert samples(other.test) == samples(data.test)


def test_overlap_leaves_everything_in_training(things: Path, data: TensorData) -> None:
    whole = load(things, overlap=True)
    assert samples(whole.train) == samples(data.train) + samples(data.validation)
    assert samples(whole.validation) == samples(data.validation)
    assert samples(whole.test) == samples(data.test)


@pytest.mark.parametrize("count", [-1, 0, TRAIN * 3, TRAIN * 3 + 1])
def test_validation_must_leave_something_on_both_sides(things: Path, count: int) -> None:
    message = refusal(things, validation=count)
    assert f"validation: {count} images, but it must be 1 to 29" in message
    assert len(load(things, validation=29).train) == len(load(things, validation=1).validation) == 1


# -- images of other kinds -------------------------------------------------------------------------


def one_image(root: Path, content: bytes, ending: str = "png", size: int = 8) -> Tensor:
    """What becomes of an image, the only one of the test split."""
    files = {"train/a/0.png": FILES["train/ant/0.png"], "train/a/1.png": FILES["train/ant/1.png"]}
    write(root, files | {f"test/a/x.{ending}": content})
    return load(root, validation=1, size=size).test.inputs[0]


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_get_three_equal_channels(tmp_path: Path, mode: str) -> None:
    image = one_image(tmp_path, encoded(drawn(3), mode=mode))
    expected = np.asarray(Image.fromarray(drawn(3)).convert(mode).convert("L"))
    for channel in image:
        assert np.array_equal(channel.numpy(), expected)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_and_palettes(tmp_path: Path, mode: str) -> None:
    # Few colours, so that the palette has them all.
    pixels = (drawn(4) // 128) * 255
    image = one_image(tmp_path, encoded(pixels, mode=mode))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_four_channels_of_print(tmp_path: Path) -> None:
    content = encoded(np.full((8, 8, 3), (200, 100, 50), np.uint8), "jpeg", "CMYK")
    image = one_image(tmp_path, content, "jpg")
    assert image.double().mean((1, 2)).tolist() == pytest.approx([200, 100, 50], abs=4)


@pytest.mark.parametrize(("height", "width"), [(8, 24), (24, 8), (8, 8)])
def test_the_centre_is_cut_out(tmp_path: Path, height: int, width: int) -> None:
    pixels = drawn(5, height, width)
    top, left = (height - 8) // 2, (width - 8) // 2
    expected = pixels[top : top + 8, left : left + 8].transpose(2, 0, 1)
    image = one_image(tmp_path, encoded(pixels)).numpy()
    assert np.array_equal(image, expected)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (64, 64), (100, 40), (1, 300)])
def test_other_sizes_are_scaled(tmp_path: Path, height: int, width: int) -> None:
    pixels = np.full((height, width, 3), (10, 120, 250), np.uint8)
    image = one_image(tmp_path, encoded(pixels), size=32)
    assert image.shape == (3, 32, 32)
    assert np.array_equal(
        image.permute(1, 2, 0).numpy(), pixels[:1, :1].repeat(32, 0).repeat(32, 1)
    )


def test_scaling_keeps_what_is_above_and_left(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :, 0], pixels[:, :32, 1] = 200, 100
    image = one_image(tmp_path, encoded(pixels), size=16)
    assert image[0, :7].unique().tolist() == [200]
    assert image[0, 9:].unique().tolist() == [0]
    assert image[1, :, :7].unique().tolist() == [100]
    assert image[1, :, 9:].unique().tolist() == [0]


# -- faults ----------------------------------------------------------------------------------------


def without(*beginnings: str) -> dict[str, bytes]:
    return {name: content for name, content in FILES.items() if not name.startswith(beginnings)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split(tmp_path: Path, split: str) -> None:
    path = write(tmp_path / "things", without(split))
    assert refusal(path) == f"{path}: has no images in {split}/<class>/"
    write(path, {f"{split}/ant/notes.txt": b"no image", f"{split}/0.png": FILES["test/ant/0.png"]})
    assert refusal(path) == f"{path}: has no images in {split}/<class>/"


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_must_be_in_both_splits(tmp_path: Path, split: str) -> None:
    path = write(tmp_path / "things", without(f"{split}/bee/"))
    problem = "class bee needs images in both train/ and test/"
    assert refusal(path) == f"{path}: {problem}"
    (path / split / "bee").mkdir()
    assert refusal(path) == f"{path}: {problem}"
    assert refusal(zipped(path)) == f"{zipped(path)}: {problem}"


def test_an_empty_folder_is_a_class_without_images(tmp_path: Path) -> None:
    path = write(tmp_path / "things", FILES)
    for split in ("train", "test"):
        (path / split / "dog").mkdir()
    assert refusal(path) == f"{path}: class dog needs images in both train/ and test/"


@pytest.mark.parametrize("empty", [False, True])
def test_nothing_there(tmp_path: Path, empty: bool) -> None:
    path = tmp_path / "things"
    if empty:
        path.mkdir()
    problem = "has no images in train/<class>/" if empty else "no such file or folder"
    assert refusal(path) == f"{path}: {problem}"


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(file, "png")
    return file.getvalue()


def bad_images() -> Iterable[tuple[str, bytes]]:
    jpeg = encoded(drawn(6, 64, 64), "jpeg")
    yield "cut.jpg", jpeg[: len(jpeg) // 2]
    yield "cut.png", FILES["train/ant/0.png"][:-30]
    yield "text.png", b"no image\n"
    yield "empty.webp", b""
    yield "sixteen_bits.png", deep()


@pytest.mark.parametrize(
    ("name", "content"), [*bad_images()], ids=lambda v: v if str(v) == v else ""
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, content: bytes, split: str
) -> None:
    path = write(tmp_path / "things", FILES | {f"{split}/bee/{name}": content})
    message = refusal(path)
    assert message.startswith(f"{path}: {split}/bee/{name}: ")
    assert " at 0x" not in message  # no address in memory, which would differ from run to run
    packed = zipped(path)
    assert refusal(packed) == message.replace(str(path), str(packed))


def test_images_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "things", FILES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    assert "ant/0.png: " in refusal(path)


# -- the real images -------------------------------------------------------------------------------


def test_the_real_archive_has_the_layout(shared: Path) -> None:
    path = shared / "data" / "cifar10-jpeg.tar.xz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    parts = [name.split("/") for name in names(path)]
    counts = Counter((split, word) for split, word, _ in parts)
    assert set(counts.values()) == {5000, 1000}
    assert {split: sum(s == split for s, _ in counts) for split in ("train", "test")} == {
        "train": 10,
        "test": 10,
    }
    assert all(file.endswith(".jpg") for *_, file in parts)
