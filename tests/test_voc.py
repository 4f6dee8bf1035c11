"""Pascal VOC2012 from made trees in the official layout, and from real images where there are."""

from __future__ import annotations

import hashlib
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.voc import DATASET_YEAR_DICT

from ecqx.data import TensorData
from ecqx.data.tensors import Split
from ecqx.data.voc2012 import voc
from ecqx.errors import InputError

Labels = NDArray[np.uint8]
TREE = "VOCdevkit/VOC2012"
SIDE = 20
NAMES = [f"2012_{i:06}" for i in range(24)]


def things(i: int) -> list[str]:
    """What is on the made image of a number."""
    return [["aeroplane"], ["tvmonitor", "person"], ["person", "person", "cat"]][i % 3]


def mask(i: int) -> Labels:
    """A mask whose labels tell its number: background, three classes, void."""
    labels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    labels[2:9, 3:8] = 1 + i % 20
    labels[9:15, 3:8] = 1 + (7 * i) % 20
    labels[0] = 255
    return labels


def write_mask(path: Path, labels: Labels) -> None:
    image = Image.fromarray(labels, mode="P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)


def grey(i: int) -> int:
    """A shade that tells an image's number through JPEG."""
    return 5 + 10 * i


def annotation(names: list[str]) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{k % 2}</difficult>"
        f"<part><name>head</name></part></object>"
        for k, name in enumerate(names)
    )
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A made tree with everything: the lists differ between the tasks, as the official ones do."""
    tree = tmp_path / "data" / TREE
    for folder in ("JPEGImages", "SegmentationClass", "Annotations"):
        (tree / folder).mkdir(parents=True)
    for i, name in enumerate(NAMES):
        Image.new("RGB", (SIDE, SIDE), (grey(i),) * 3).save(tree / f"JPEGImages/{name}.jpg")
        (tree / f"Annotations/{name}.xml").write_text(annotation(things(i)))
    for i in range(0, 24, 2):
        write_mask(tree / f"SegmentationClass/{NAMES[i]}.png", mask(i))
    write_lists(tree, "Main", NAMES[:10], NAMES[10:])
    write_lists(tree, "Segmentation", NAMES[:12:2], NAMES[12::2])
    return tmp_path / "data"


def write_lists(tree: Path, kind: str, train: list[str], val: list[str]) -> None:
    (tree / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
    for which, names in (("train", train), ("val", val), ("trainval", train + val)):
        (tree / f"ImageSets/{kind}/{which}.txt").write_text("".join(f"{n}\n" for n in names))


def splits(data: TensorData) -> list[Split]:
    return [data.train, data.validation, data.test]


def numbers(split: Split) -> list[int]:
    """The numbers of a split's made images, from the shade of their centres."""
    side = split.inputs.shape[-1]
    return [round((float(x) - 5) / 10) for x in split.inputs[:, 0, side // 2, side // 2]]


def all_numbers(data: TensorData) -> list[int]:
    return [i for split in splits(data) for i in numbers(split)]


def refusal(root: Path, task: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        voc(root, task, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- classification --------------------------------------------------------------------------------


def test_things_are_labelled_from_annotations(root: Path) -> None:
    data = voc(root, "classification", crop=8)
    assert (len(data.classes), list(data.classes)) == (20, sorted(data.classes))
    for split in splits(data):
        assert split.inputs.shape == (len(split), 3, 8, 8)
        assert (split.inputs.dtype, split.targets.dtype) == (torch.uint8, torch.float32)
        for i, target in zip(numbers(split), split.targets, strict=True):
            named = {data.classes[k] for k in target.nonzero().flatten().tolist()}
            assert named == set(things(i))
            assert set(target.tolist()) <= {0.0, 1.0}


def test_classification_cuts_both_lists_together(root: Path) -> None:
    data = voc(root, "classification", crop=8)
    # A fifth of 24 tests, a fifth of the remaining 19 validates.
    assert [len(split) for split in splits(data)] == [15, 4, 5]
    assert sorted(all_numbers(data)) == list(range(24))
    assert len(voc(root, "classification", crop=8, validation=0.5).validation) in (9, 10)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_the_splits_depend_on_the_seed_alone(root: Path, task: Any) -> None:
    first, again, other = (
        [numbers(split) for split in splits(voc(root, task, crop=8, validation=0.4, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first[:2] != other[:2]
    assert (first[2] == other[2]) == (task == "segmentation")


def test_without_annotations_masks_tell_the_things(root: Path) -> None:
    shutil.rmtree(root / TREE / "Annotations")
    shutil.rmtree(root / TREE / "ImageSets/Main")
    data = voc(root, "classification", crop=2)
    assert sorted(all_numbers(data)) == list(range(0, 24, 2))
    for split in splits(data):
        for i, target in zip(numbers(split), split.targets, strict=True):
            present = set(mask(i).flatten().tolist()) - {0, 255}
            assert {k + 1 for k in target.nonzero().flatten().tolist()} == present


# -- segmentation ----------------------------------------------------------------------------------


def test_pixels_are_labelled_from_masks(root: Path) -> None:
    data = voc(root, "segmentation", crop=SIDE)
    assert data.classes[0] == "background"
    assert data.classes[1:] == voc(root, "classification", crop=2).classes
    for split in splits(data):
        assert split.targets.dtype == torch.uint8
        for i, target in zip(numbers(split), split.targets, strict=True):
            assert np.array_equal(target, mask(i))


def test_segmentation_tests_on_the_official_list(root: Path) -> None:
    data = voc(root, "segmentation", crop=8)
    assert numbers(data.test) == list(range(12, 24, 2))
    assert sorted(numbers(data.train) + numbers(data.validation)) == list(range(0, 12, 2))
    assert len(data.validation) == 1


@pytest.mark.parametrize("crop", [1, 7, 8, SIDE, 25, 26])
def test_a_crop_is_the_centre_of_image_and_mask(root: Path, crop: int) -> None:
    test = voc(root, "segmentation", crop=crop).test
    for i, image, target in zip(numbers(test), test.inputs, test.targets, strict=True):
        rim = abs(crop - SIDE) // 2
        inside = slice(rim, rim + min(crop, SIDE))
        if crop <= SIDE:
            assert np.array_equal(target, mask(i)[inside, inside])
        else:
            assert np.array_equal(target[inside, inside], mask(i))
            outside = np.ones((crop, crop), dtype=bool)
            outside[inside, inside] = False
            assert set(target.numpy()[outside].tolist()) == {255}
            assert set(image.numpy()[:, outside].flatten().tolist()) == {0}


def test_sides_are_cropped_on_their_own(root: Path) -> None:
    """Wide and low: cut at the left and right, padded above and below."""
    wide = np.repeat(np.arange(1, 11, dtype=np.uint8)[None], 4, axis=0)
    name = NAMES[12]
    write_mask(root / TREE / f"SegmentationClass/{name}.png", wide)
    Image.fromarray(wide * 20).save(root / TREE / f"JPEGImages/{name}.jpg", quality=100)
    test = voc(root, "segmentation", crop=6).test
    assert test.targets[0].tolist() == [
        *([[255] * 6]),
        *([[3, 4, 5, 6, 7, 8]] * 4),
        *([[255] * 6]),
    ]
    expected = torch.tensor([0, *[1] * 4, 0])[:, None] * torch.arange(3, 9)[None] * 20
    assert (test.inputs[0].long() - expected).abs().max() < 6


@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("resize", [7, 10, 40])
def test_scaling_mixes_pixels_and_never_labels(root: Path, resize: int, mode: str) -> None:
    name = NAMES[12]
    labels = np.zeros((SIDE, 2 * SIDE), dtype=np.uint8)
    labels[:, SIDE:] = 20
    path = root / TREE / f"SegmentationClass/{name}.png"
    write_mask(path, labels)
    if mode == "L":
        Image.fromarray(labels).save(path)
    # Grey, since JPEG itself mixes colours.
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, 2 * SIDE), dtype=np.uint8)
    Image.fromarray(noise).save(root / TREE / f"JPEGImages/{name}.jpg", quality=100)
    test = voc(root, "segmentation", crop=2 * resize, resize=resize).test
    middle = slice(resize // 2, resize // 2 + resize)
    assert set(test.targets[0][middle].flatten().tolist()) == {0, 20}
    assert (test.targets[0][middle, : resize - 1] == 0).all()
    assert (test.targets[0][middle, resize + 1 :] == 20).all()
    assert set(test.targets[0][: resize // 2].flatten().tolist()) == {255}
    assert not test.inputs[0][:, : resize // 2].any()
    assert test.inputs[0][:, middle].float().std() < 0.8 * noise.std()


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_only_training_flips(root: Path, task: Any) -> None:
    data = voc(root, task, crop=8)
    assert [split.preparation.flip for split in splits(data)] == [True, False, False]
    assert [split.preparation.padding for split in splits(data)] == [0, 0, 0]
    ((grey_half, _),) = data.test.take(1).batches(1)
    pixel = data.test.inputs[0, :, 0, 0].double() / 255
    expected = (pixel - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(grey_half[0, :, 0, 0], expected.float())


# -- what it is called, and where it is found ------------------------------------------------------


@pytest.mark.parametrize(("task", "count"), [("classification", 24), ("segmentation", 12)])
def test_a_reduced_tree_is_labelled_as_such(root: Path, task: Any, count: int) -> None:
    assert voc(root, task, crop=2).label == f"voc2012 {task} ({count} images)"


@pytest.mark.parametrize("annotated", [True, False])
def test_a_whole_tree_has_its_plain_label(root: Path, annotated: bool) -> None:
    """A thousand names of the same few files; labels from masks are not the official ones."""
    tree = root / TREE
    many = [f"{i:04}" for i in range(1000)]
    for name in many:
        for folder, end in (
            *(("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("Annotations", "xml")),
        ):
            (tree / folder / f"{name}.{end}").symlink_to(tree / folder / f"{NAMES[0]}.{end}")
    for kind in ("Main", "Segmentation"):
        write_lists(tree, kind, many[:500], many[500:])
    if not annotated:
        shutil.rmtree(tree / "Annotations")
    assert voc(root, "segmentation", crop=2).label == "voc2012 segmentation"
    expected = "voc2012 classification" + ("" if annotated else " (1000 images)")
    assert voc(root, "classification", crop=2).label == expected


def same(a: TensorData, b: TensorData) -> bool:
    return all(
        torch.equal(x.inputs, y.inputs) and torch.equal(x.targets, y.targets)
        for x, y in zip(splits(a), splits(b), strict=True)
    )


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_the_tree_may_lie_bare_or_in_the_official_archive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Any
) -> None:
    data = voc(root, task, crop=8)
    bare, packed = tmp_path / "bare", tmp_path / "packed"
    shutil.copytree(root / TREE, bare / "VOC2012")
    assert same(voc(bare, task, crop=8), data)
    packed.mkdir()
    archive = packed / "VOCtrainval_11-May-2012.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root / "VOCdevkit", "VOCdevkit")
    message = refusal(packed, task)
    assert str(archive) in message
    assert "delete it" in message
    digits = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(DATASET_YEAR_DICT["2012"], "md5", digits)
    assert same(voc(packed, task, crop=8), data)
    archive.unlink()
    assert same(voc(packed, task, crop=8), data)


def test_what_is_missing_is_fetched_from_the_official_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def get(_: requests.Session, url: str, **__: Any) -> None:
        asked.append(url)
        raise requests.exceptions.SSLError

    monkeypatch.setattr(requests.Session, "get", get)
    message = refusal(tmp_path, "segmentation")
    assert len(asked) == 1
    assert asked[0].endswith("/VOCtrainval_11-May-2012.tar")
    assert f"{TREE} or VOC2012 or VOCtrainval_11-May-2012.tar" in message


# -- faults ----------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


FILES = {
    "image": f"JPEGImages/{NAMES[12]}.jpg",
    "mask": f"SegmentationClass/{NAMES[12]}.png",
    "annotation": f"Annotations/{NAMES[12]}.xml",
}


@pytest.mark.parametrize(
    ("task", "which"),
    [
        *(("segmentation", "image"), ("segmentation", "mask")),
        *(("classification", "image"), ("classification", "annotation")),
    ],
)
@pytest.mark.parametrize("harm", [Path.unlink, truncate, cut_to_nothing])
def test_a_damaged_file_is_named(
    root: Path, task: Any, which: str, harm: Callable[[Path], None]
) -> None:
    path = root / TREE / FILES[which]
    harm(path)
    assert str(path) in refusal(root, task, crop=8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<annotation><object><name>cat</name>", "not a readable annotation"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "not a readable annotation"),
        ("<html/>", "holds <html>, not an <annotation>"),
        (annotation(["cat", "unicorn"]), "'unicorn' is not one of the 20 classes"),
        ("<annotation><object/></annotation>", "'' is not one of the 20 classes"),
    ],
)
def test_a_wrong_annotation(root: Path, content: str, expected: str) -> None:
    path = root / TREE / FILES["annotation"]
    path.write_text(content)
    message = refusal(root, "classification", crop=8)
    assert str(path) in message
    assert expected in message


def test_a_mask_of_another_size(root: Path) -> None:
    path = root / TREE / FILES["mask"]
    write_mask(path, mask(12)[:-1])
    message = refusal(root, "segmentation", crop=8)
    assert str(path) in message
    assert "(20, 19)" in message
    assert "(20, 20)" in message


def test_a_mask_in_colour(root: Path) -> None:
    path = root / TREE / FILES["mask"]
    Image.new("RGB", (SIDE, SIDE)).save(path)
    assert f"{path}: its pixels are RGB" in refusal(root, "segmentation", crop=8)


def test_a_mask_of_no_class(root: Path) -> None:
    path = root / TREE / FILES["mask"]
    write_mask(path, np.full((SIDE, SIDE), 21, dtype=np.uint8))
    assert f"{path}: has label 21" in refusal(root, "segmentation", crop=8)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Chunks with right lengths and checksums, whatever they hold."""
    packed = (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"IHDR", b"\0\0")],
        [(b"IHDR", struct.pack(">IIBBBBB", 2**20, 2**20, 8, 3, 0, 0, 0))],
        [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 3, 0, 0, 0)), (b"zTXt", b"k\0\1x")],
        [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 3, 0, 0, 0)), (b"IDAT", b"broken")],
    ],
    ids=["short header", "huge", "unknown compression", "no pixels"],
)
def test_a_mask_that_is_malformed_but_not_cut(
    root: Path, chunks: list[tuple[bytes, bytes]]
) -> None:
    path = root / TREE / FILES["mask"]
    path.write_bytes(png(*chunks, (b"IEND", b"")))
    assert f"{path}: not a complete image" in refusal(root, "segmentation", crop=8)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize("which", ["train", "val"])
def test_a_missing_or_empty_list(root: Path, task: Any, which: str) -> None:
    kind = {"classification": "Main", "segmentation": "Segmentation"}[task]
    path = root / TREE / f"ImageSets/{kind}/{which}.txt"
    path.write_text("\n \n")
    assert f"{path}: names no image" in refusal(root, task, crop=8)
    path.write_bytes(b"\xff\xfe")
    assert f"{path}: the list of images is missing or unreadable" in refusal(root, task, crop=8)
    path.unlink()
    assert f"{path}: the list of images is missing or unreadable" in refusal(root, task, crop=8)


def test_an_image_for_training_and_testing(root: Path) -> None:
    write_lists(root / TREE, "Segmentation", NAMES[:4], NAMES[3:6])
    message = refusal(root, "segmentation", crop=8)
    assert "val.txt" in message
    assert NAMES[3] in message


@pytest.mark.parametrize(
    ("task", "train", "val", "enough"),
    [
        *(("segmentation", 1, 5, False), ("segmentation", 2, 5, False)),
        *(("segmentation", 3, 1, True), ("classification", 1, 1, False)),
        *(("classification", 2, 1, False), ("classification", 2, 2, True)),
    ],
)
def test_few_images(root: Path, task: Any, train: int, val: int, enough: bool) -> None:
    kind = {"classification": "Main", "segmentation": "Segmentation"}[task]
    chosen = NAMES[::2]
    write_lists(root / TREE, kind, chosen[:train], chosen[train : train + val])
    if enough:
        data = voc(root, task, crop=8)
        assert [len(split) for split in splits(data)] == [2, 1, 1]
    else:
        message = refusal(root, task, crop=8)
        assert "too few images" in message
        assert str(root / TREE / "ImageSets" / kind) in message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        *(({"crop": 0}, "crop"), ({"resize": 0}, "resize"), ({"task": "detection"}, "task")),
        *(({"validation": 0.0}, "validation"), ({"validation": 1.0}, "validation")),
    ],
)
def test_impossible_settings(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    assert refusal(tmp_path, **{"task": "segmentation", **options}).startswith(f"{named}: ")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from(["image", "mask", "annotation"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    kept=st.floats(0.2, 1),
)
def test_changed_bytes_load_or_are_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    which: str,
    places: list[tuple[float, int]],
    kept: float,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    tree = folder / TREE
    for name in ("JPEGImages", "SegmentationClass", "Annotations"):
        (tree / name).mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (SIDE, SIDE)).save(tree / f"JPEGImages/{NAMES[i]}.jpg")
        write_mask(tree / f"SegmentationClass/{NAMES[i]}.png", mask(i))
        (tree / f"Annotations/{NAMES[i]}.xml").write_text(annotation(things(i)))
    for kind in ("Main", "Segmentation"):
        write_lists(tree, kind, NAMES[:3], NAMES[3:4])
    path = tree / FILES[which].replace(NAMES[12], NAMES[3])
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[int(place * (len(content) - 1))] = value
    path.write_bytes(content[: int(kept * len(content))])
    task: Any = "classification" if which == "annotation" else "segmentation"
    message = f"{path}: loaded"
    try:
        voc(folder, task, crop=8)
    except InputError as error:
        message = str(error)
    shutil.rmtree(folder)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


# -- real images -----------------------------------------------------------------------------------


@pytest.fixture
def real(shared: Path) -> Path:
    folder = shared / "data"
    if not (folder / TREE / "JPEGImages").is_dir():
        pytest.skip("no VOC2012 images in shared/data")
    return folder


def test_real_images_for_segmentation(real: Path) -> None:
    data = voc(real, "segmentation")
    assert [len(split) for split in splits(data)] == [3, 1, 10]
    assert data.label == "voc2012 segmentation (14 images)"
    order = (real / TREE / "ImageSets/Segmentation/val.txt").read_text().split()
    for name, image, target in zip(order, data.test.inputs, data.test.targets, strict=True):
        with Image.open(real / TREE / f"JPEGImages/{name}.jpg") as opened:
            pixels = np.asarray(opened.convert("RGB"))
        with Image.open(real / TREE / f"SegmentationClass/{name}.png") as opened:
            labels = np.asarray(opened)
        centre = tuple(n // 2 for n in labels.shape)
        assert image[:, 112, 112].tolist() == pixels[centre].tolist()
        assert int(target[112, 112]) == labels[centre]
        assert set(target.flatten().tolist()) <= {*labels.flatten().tolist(), 255}


def test_real_images_for_classification(real: Path) -> None:
    data = voc(real, "classification")
    assert [len(split) for split in splits(data)] == [9, 2, 3]
    assert data.label == "voc2012 classification (14 images)"
    assert all(split.targets.any(dim=1).all() for split in splits(data))
    with Image.open(real / TREE / "JPEGImages/2007_000032.jpg") as opened:
        whole = torch.from_numpy(np.array(opened.convert("RGB")))
    top, left = ((side - 224) // 2 for side in whole.shape[:2])
    wanted = whole[top : top + 224, left : left + 224].permute(2, 0, 1)
    found = [
        {data.classes[k] for k in target.nonzero().flatten().tolist()}
        for split in splits(data)
        for image, target in zip(split.inputs, split.targets, strict=True)
        if torch.equal(image, wanted)
    ]
    # Two aeroplanes and their people, as the official annotation of this image has it too.
    assert found == [{"aeroplane", "person"}]
