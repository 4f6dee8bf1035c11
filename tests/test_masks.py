"""The figures of segmentation masks."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import (
    CLASSES,
    MIXED_TASKS,
    chart_rows,
    make_layers,
    make_mixed_grid,
    make_samples,
    scales,
)
from PIL import Image

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.errors import InputError
from ecqx.report.evidence import Evidence
from ecqx.report.render import Figure
from ecqx.report.samples import build_masks_figures, voc_palette

REAL = Path("../shared/data/VOCdevkit/VOC2012/SegmentationClass")


def make_figures(
    samples: dict[str, Any], classes: list[str] = CLASSES, layers: Any = ()
) -> list[Figure]:
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


def pixels_of(url: str) -> np.ndarray:
    """The picture of a data URL without its frame; each cell is several pixels wide."""
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)))[1:-1, 1:-1]


def test_pictures_show_what_they_are_given() -> None:
    samples = make_samples("deeplab")
    (figure,) = make_figures(samples, layers=make_layers("deeplab"))
    assert figure.name == "masks_deeplab"
    assert len(figure.panels) == 3
    for i, panel in enumerate(figure.panels):
        rows = chart_rows(panel.chart)
        assert [row["name"] for row in rows] == ["image", "truth", "full precision", "decoded"]
        for row in rows:
            own = samples[f"deeplab/{row['name']}"][i]
            expected = own.transpose(1, 2, 0) if row["name"] == "image" else voc_palette()[own]
            shown = pixels_of(row["url"])
            factor = -(-shown.shape[0] // expected.shape[0])
            large = expected.repeat(factor, 0).repeat(factor, 1)[1:-1, 1:-1]
            assert (shown == large).all()
    agree = samples["deeplab/full precision"] == samples["deeplab/decoded"]
    agreeing = agree[samples["deeplab/truth"] != 255].mean()
    assert f"agree in {100 * agreeing:.1f} % of the pixels" in figure.caption
    assert "(ECQx, 4 bit, Λ 0.1, seed 0)" in figure.caption
    assert "voc2012 segmentation (14 images)" in figure.caption


def test_the_key_names_the_classes_that_occur() -> None:
    (figure,) = make_figures(make_samples("deeplab"))
    assert list(figure.key) == ["background", "thing 3", "thing 7", "thing 11", "ignored"]
    colours = [list(bytes.fromhex(colour[1:])) for colour in figure.key.values()]
    assert colours == voc_palette()[[0, 3, 7, 11, 255]].tolist()
    (legend,) = scales(figure.panels[0].chart, "color")
    assert legend == {"domain": list(figure.key), "range": list(figure.key.values())}


def test_tasks_without_samples_have_no_figure() -> None:
    assert make_figures({}) == []


def test_bad_samples_are_named() -> None:
    samples = make_samples("deeplab")
    with pytest.raises(InputError, match="label 11 of task deeplab has no name"):
        make_figures(samples, CLASSES[:11])
    del samples["deeplab/decoded"]
    with pytest.raises(InputError, match="'deeplab/decoded' is missing"):
        make_figures(samples)


def test_a_file_without_samples_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "samples.safetensors"
    write_tensors(path, {}, {"classes": json.dumps({})})
    assert read_tensors(path, "classes") == ({}, "{}")
