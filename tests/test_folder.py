"""Image folders and archives of them: which image lands where, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
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
from ecqx.data.folder import DEVIATION, MEAN
from ecqx.errors import InputError, InputWarning

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
        for file in filter(Path.is_file, sorted(folder.rglob("*"))):
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
        **dict.fromkeys(["train/.hidden/0.png", "train/ant/.thumbs/0.png"], image),
        **dict.fromkeys(["test/ant/._0.png", ".cache/train/ant/0.png"], image),
        "train/ant/Thumbs.db": b"no image",
        "train/bee/old/Thumbs.DB": b"no image",
        "test/cat/LICENSE": b"a text",
        # Ghostscript is never started, whatever the name.
        "test/cat/drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "test/labels.csv": b"0,1\n",
        "README.md": b"a text",
    }
    path = write(tmp_path / "things", FILES | others)
    for place in (path, zipped(path)):
        with pytest.warns(InputWarning) as caught:
            assert same(load(place), data)
        assert str(caught[0].message) == (
            f"{place}: skips files, 7 in all: 2 .db (train/ant/Thumbs.db), 1 .eps "
            "(test/cat/drawing.eps), 3 outside of train/<class>/ and test/<class>/ (loose.png), 1 "
            "without a suffix (test/cat/LICENSE)"
        )


def test_nothing_is_said_where_nothing_is_skipped(things: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(things)


# Every format that Pillow writes without loss, or nearly, and its suffixes.
KINDS = {
    **{"JPG": "jpeg", "jpeg": "jpeg", "bmp": "bmp", "webp": "webp", "PNG": "png"},
    **{"jfif": "jpeg", "TIF": "tiff", "tiff": "tiff", "gif": "gif", "ppm": "ppm", "AVIF": "avif"},
    **{"tga": "tga", "jp2": "jpeg2000", "pcx": "pcx", "mpo": "mpo", "qoi": "qoi", "ico": "ico"},
}


@pytest.mark.parametrize("ending", KINDS)
def test_endings_in_capitals_and_other_formats(tmp_path: Path, ending: str) -> None:
    pixels = np.full((16, 16, 3), (40, 120, 200), np.uint8)
    image = one_image(tmp_path, encoded(pixels, KINDS[ending]), ending)
    assert image.double().mean((1, 2)).tolist() == pytest.approx([40, 120, 200], abs=5)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"GRIB"])
def test_a_program_is_not_started_by_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """The content decides what Pillow opens, not the suffix."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", started)
    with pytest.raises(InputError, match=r"test/a/x\.png: damaged, or not an image"):
        one_image(tmp_path, content)


def test_images_at_any_depth_are_of_the_class(tmp_path: Path, data: TensorData) -> None:
    deep = {}
    for name, content in FILES.items():
        split, word, image = name.split("/")
        below = "" if word == "ant" else f"{image[0]}.png/" if word == "bee" else "by/day/"
        deep[f"{split}/{word}/{below}{image}"] = content
    found = load(write(tmp_path / "things", deep))
    assert found.classes == CLASSES
    for split, expected in zip(splits(found), splits(data), strict=True):
        assert torch.bincount(split.targets).tolist() == torch.bincount(expected.targets).tolist()
    assert samples(found.test) == samples(data.test)


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["split", "class", "image", "deep"])
def test_links_are_followed(tmp_path: Path, data: TensorData, level: str) -> None:
    pool, root = write(tmp_path / "pool", FILES), tmp_path / "things"
    for name in FILES:
        split, word, image = name.split("/")
        parts = {"split": [split], "class": [split, word], "image": [split, word, image]}
        part = Path(*parts.get(level, [split, word]))
        place = root / part / "more" if level == "deep" else root / part
        if not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(pool / part)
    assert same(load(root), data)


def test_links_do_not_lead_in_a_circle(tmp_path: Path, data: TensorData) -> None:
    root = write(tmp_path / "things", FILES)
    (root / "train/ant/up").symlink_to("..")
    (root / "train/bee/self").symlink_to(".")
    (root / "test/cat/all").symlink_to(root)
    (root / "train/ant/me").symlink_to("me")
    (root / "train/ant/me").unlink()
    assert same(load(root), data)
    # One folder in two places is no circle.
    (root / "train/dog").symlink_to("ant")
    (root / "test/dog").symlink_to("ant")
    assert load(root).classes == (*CLASSES, "dog")


@pytest.mark.parametrize("target", ["/nowhere/0.png", "99.png"])
def test_a_link_to_nothing_is_named(tmp_path: Path, target: str) -> None:
    root = write(tmp_path / "things", FILES)
    (root / "test/bee/99.png").symlink_to(target)
    assert refusal(root) == f"{root}: test/bee/99.png: a link to a file that is not there"


def test_links_in_an_archive_are_named(tmp_path: Path, data: TensorData) -> None:
    root = write(tmp_path / "things", FILES)
    (root / "train/ant/more").symlink_to("../bee")
    (root / "train/ant/99.png").symlink_to("0.png")
    path = tmp_path / "things.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(root, ".")
    with pytest.warns(InputWarning, match=r"2 symbolic links, which are not followed in an archiv"):
        assert same(load(path), data)


# -- names -----------------------------------------------------------------------------------------


def test_one_name_in_two_forms_is_one_class(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    places = [("train", composed), ("test", apart), ("train", apart)]
    places += [("train", "tea"), ("train", "tea"), ("test", "tea")]
    files = {f"{split}/{word}/{i}.png": encoded(drawn(i)) for i, (split, word) in enumerate(places)}
    root = write(tmp_path / "things", files)
    for place in (root, zipped(root)):
        found = load(place, validation=1, overlap=True)
        assert found.classes == (composed, "tea")
        assert torch.bincount(found.train.targets).tolist() == [2, 2]


def test_class_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root = write(tmp_path / "things", FILES)
    for split in ("train", "test"):
        folder = root / split / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        (folder / "0.png").write_bytes(FILES["train/ant/0.png"])
    assert "the name of class 'caf\\udce9' is not UTF-8; rename its folders" in refusal(root)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    root = write(
        tmp_path / "things",
        without(*(f"{s}/{w}" for s in ("train", "test") for w in ("bee", "cat"))),
    )
    assert refusal(root) == f"{root}: has one class alone, ant; there must be at least two"
    assert "one class alone" in refusal(zipped(root))


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
    names = ("train/a/0.png", "train/a/1.png", "train/b/0.png", "test/b/0.png")
    write(root, dict.fromkeys(names, FILES["train/ant/0.png"]) | {f"test/a/x.{ending}": content})
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


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    """Each quarter of the picture, stored in the way that the tag undoes."""
    seen = np.zeros((16, 16, 3), np.uint8)
    seen[:8, :8], seen[:8, 8:], seen[8:, :8] = (220, 20, 20), (20, 220, 20), (20, 20, 220)
    # How a camera that is held so stores what is seen (EXIF 2.3, tag 0x0112).
    stored = {
        **{1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1]},
        **{5: seen.transpose(1, 0, 2), 6: np.rot90(seen), 8: np.rot90(seen, -1)},
        7: seen[::-1, ::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"quality": 100} if kind in ("jpeg", "webp") else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(file, kind, exif=exif, **options)
    image = one_image(tmp_path, file.getvalue(), kind, size=16).permute(1, 2, 0).numpy()
    for rows in (slice(1, 7), slice(9, 15)):
        for columns in (slice(1, 7), slice(9, 15)):
            difference = image[rows, columns].astype(int) - seen[rows, columns]
            assert np.abs(difference).max() < 40


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
