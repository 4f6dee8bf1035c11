"""The figures of segmentation masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import (
    CLASSES,
    MIXED_TASKS,
    assert_readable,
    make_layers,
    make_mixed_grid,
    make_samples,
)
from matplotlib.figure import Figure
from PIL import Image

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.errors import InputError
from ecqx.report.evidence import Evidence
from ecqx.report.masks_figure import build_masks_figures, voc_palette
from ecqx.report.style import Picture, house_style

REAL = Path("../shared/data/VOCdevkit/VOC2012/SegmentationClass")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Collects the figures that are written instead of writing them."""
    figures: list[Figure] = []

    def collect(self: Figure, *_: Any, **__: Any) -> None:
        if self not in figures:
            figures.append(self)

    monkeypatch.setattr(Figure, "savefig", collect)
    with house_style():
        yield figures


def make_pictures(
    samples: dict[str, Any], classes: list[str] = CLASSES, layers: Any = ()
) -> list[Picture]:
    evidence = Evidence.collect("made", MIXED_TASKS, make_mixed_grid("deeplab"))
    return build_masks_figures(evidence, samples, {"deeplab": classes}, layers)


def test_palette_is_that_of_real_masks() -> None:
    files = sorted(REAL.glob("*.png"))
    if not files:
        pytest.skip(f"no VOC masks in {REAL}")
    official = np.array(Image.open(files[0]).getpalette(), np.uint8).reshape(-1, 3)
    assert (voc_palette()[:21] == official[:21]).all()


def test_palette_by_hand() -> None:
    palette = voc_palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 3: (128, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128)}
    assert {label: tuple(palette[label].tolist()) for label in known} == known
    assert palette[255].tolist() == [255, 255, 255]
    assert len(np.unique(palette[:255], axis=0)) == 255


def test_pictures_show_what_they_are_given(drawn: list[Figure]) -> None:
    samples = make_samples("deeplab")
    made = make_pictures(samples, layers=make_layers("deeplab"))
    assert [picture.name for picture in made] == ["masks_deeplab"]
    shown = [np.asarray(axes.images[0].get_array()) for axes in drawn[0].axes]
    assert [axes.get_title() for axes in drawn[0].axes[:5]] == [
        *("image", "truth", "full precision", "decoded", ""),
    ]
    for row in range(3):
        image, truth, *masks = shown[4 * row : 4 * row + 4]
        assert (image == samples["deeplab/image"][row].transpose(1, 2, 0)).all()
        unlabelled = samples["deeplab/truth"][row] == 255
        assert (truth[unlabelled] == 255).all()
        assert (truth[~unlabelled] == 255).all(axis=-1).sum() == 0
        for mask, kind in zip(masks, ("full precision", "decoded"), strict=True):
            assert (mask == voc_palette()[samples[f"deeplab/{kind}"][row]]).all()
    agreeing = (samples["deeplab/full precision"] == samples["deeplab/decoded"]).mean()
    assert f"agree in {100 * agreeing:.1f} % of the pixels" in made[0].caption
    assert "(ECQx, 4 bit, Λ 0.1, seed 0)" in made[0].caption
    assert "voc2012 segmentation (14 images)" in made[0].caption


def test_legend_names_the_classes_that_occur(drawn: list[Figure]) -> None:
    make_pictures(make_samples("deeplab"))
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("background", "thing 3", "thing 7", "thing 11", "ignored"),
    ]
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    assert np.allclose(np.array(colours) * 255, voc_palette()[[0, 3, 7, 11, 255]])


def test_masks_of_many_classes_are_readable(drawn: list[Figure]) -> None:
    samples = make_samples("deeplab", count=4, height=64, width=64)
    samples["deeplab/decoded"] = np.arange(4 * 64 * 64).reshape(4, 64, 64).astype(np.uint8) % 21
    make_pictures(samples, ["background", *(f"diningtable {i}" for i in range(20))])
    assert_readable(drawn[0])
    legend = drawn[0].legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_window_extent()) for axes in drawn[0].axes)
    boxes = [axes.get_window_extent() for axes in drawn[0].axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_tasks_without_samples_have_no_figure() -> None:
    assert make_pictures({}) == []


def test_bad_samples_are_named() -> None:
    samples = make_samples("deeplab")
    with pytest.raises(InputError, match="label 11 of task deeplab has no name"):
        make_pictures(samples, CLASSES[:11])
    del samples["deeplab/decoded"]
    with pytest.raises(InputError, match="'deeplab/decoded' is missing"):
        make_pictures(samples)


def test_a_file_without_samples_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    write_tensors(path, {}, {"classes": json.dumps({})})
    assert read_tensors(path, "classes") == ({}, "{}")
