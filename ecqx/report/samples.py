"""The figures of test samples: relevance of their inputs, and segmentation masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.errors import InputError
from ecqx.report.charts import pictures, shaded
from ecqx.report.evidence import Evidence
from ecqx.report.records import PAPER_METHOD
from ecqx.report.render import Figure, Panel
from ecqx.report.style import COLUMN, DIVERGING

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Records = Sequence[Mapping[str, Any]]
# "TASK/…" → arrays of test samples; `stages.exhibits.samples` lists the names.
Samples = Mapping[str, NDArray[Any]]
# Task → names of its classes, in the order of the labels.
Classes = Mapping[str, Sequence[str]]

BEFORE, AFTER = "full precision", "decoded"
# Pictures of a row of masks, from left to right.
KINDS = ("image", "truth", BEFORE, AFTER)
# Label of the pixels that have no class.
IGNORED = 255
# Cells of a map along each side, at most.
CELLS = 64


def build_input_figures(evidence: Evidence, samples: Samples, classes: Classes) -> list[Figure]:
    """Test samples with the relevance of their inputs, one figure for each task that has some."""
    return [
        _inputs(evidence, task, samples, classes.get(task, ()))
        for task in evidence.tasks
        if f"{task}/input" in samples
    ]


def _inputs(evidence: Evidence, task: str, samples: Samples, classes: Sequence[str]) -> Figure:
    kinds = [kind for kind in (BEFORE, AFTER) if f"{task}/relevance {kind}" in samples]
    panels = []
    for i, pixels in enumerate(samples[f"{task}/input"]):
        maps = [(kind, pool(samples[f"{task}/relevance {kind}"][i])) for kind in kinds]
        largest = max(float(np.abs(values).max()) for _, values in maps) or 1.0
        # One scale for all maps of a sample; relevance 0 has the middle colour.
        shown = [(kind, shaded(0.5 + values / largest / 2, DIVERGING)) for kind, values in maps]
        title = _labels(task, samples, classes, i, kinds)
        panels.append(picture_row(title, [("input", _input(pixels)), *shown]))
    different = " of different classes" if f"{task}/label" in samples else ""
    return Figure(
        f"relevance_inputs_{task}",
        f"Relevance of inputs: {evidence.tasks[task]}",
        f"The first test samples{different}, and how much each input speaks for (red) or against "
        "(blue) what is true of them, by layer-wise relevance propagation (composite "
        f"epsilon_plus): {' and '.join(kinds)}. Both maps of a sample have the same scale. "
        f"Data: {evidence.data(task)}.",
        "Test samples with maps of the relevance of their inputs. "
        + " ".join(f"{panel.title}." for panel in panels),
        panels,
        columns=min(2, len(panels)),
    )


def _input(pixels: NDArray[Any]) -> Bytes:
    """An image, (C, H, W), as it is; anything else, (H, W), in shades of grey."""
    if pixels.ndim == 3:
        return np.asarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))
    values = pool(pixels)
    low, high = float(values.min()), float(values.max())
    return shaded((values - low) / ((high - low) or 1.0), ("#000000", "#ffffff"))


def _labels(
    task: str, samples: Samples, classes: Sequence[str], index: int, kinds: Sequence[str]
) -> str:
    """True class of a sample, and the class that each network predicts."""
    if f"{task}/label" not in samples:
        return f"test sample {index + 1}"

    def named(key: str) -> str:
        label = int(samples[f"{task}/{key}"][index])
        return classes[label] if label < len(classes) else str(label)

    found = ", ".join(f"{kind}: {named(f'label {kind}')}" for kind in kinds)
    return f"true class {named('label')}; {found}"


def build_masks_figures(
    evidence: Evidence, samples: Samples, classes: Classes, layers: Records
) -> list[Figure]:
    """Images with their true, full-precision and decoded masks, one figure per task.

    ``layers`` name the run of ECQx that the decoded masks are of.

    Raises
    ------
    InputError
        If a task has some of the samples only, or a label without a name.
    """
    figures = []
    for task in evidence.tasks:
        missing = [kind for kind in KINDS if f"{task}/{kind}" not in samples]
        if not missing:
            own = {kind: samples[f"{task}/{kind}"] for kind in KINDS}
            figures.append(_masks(evidence, task, own, classes.get(task, ()), layers))
        elif len(missing) < len(KINDS):
            raise InputError(
                f"samples: '{task}/{missing[0]}' is missing, but others of the task are not"
            )
    return figures


def _masks(
    evidence: Evidence,
    task: str,
    samples: Mapping[str, Bytes],
    classes: Sequence[str],
    layers: Records,
) -> Figure:
    palette = voc_palette()
    masks = {kind: samples[kind] for kind in KINDS[1:]}
    labels = np.unique(np.concatenate([mask.ravel() for mask in masks.values()])).tolist()
    key = {
        _class_name(task, label, classes): f"#{bytes(palette[label].tolist()).hex()}"
        for label in labels
    }
    panels: list[Panel] = []
    for i, image in enumerate(samples["image"]):
        shown = [(kind, palette[mask[i]]) for kind, mask in masks.items()]
        images = [("image", image.transpose(1, 2, 0)), *shown]
        # Only the first row has the legend.
        panels.append(picture_row(f"image {i + 1}", images, None if panels else key))
    labelled = samples["truth"] != IGNORED
    agreement = 100 * float((masks[AFTER] == masks[BEFORE])[labelled].mean())
    count = "first test image" if len(panels) == 1 else f"first {len(panels)} test images"
    return Figure(
        f"masks_{task}",
        f"Masks: {evidence.tasks[task]}",
        f"Suite {evidence.suite}, {count}: image, true mask, the mask by the "
        "checkpoint that quantization starts from, and the one by the model decoded from its file"
        f"{_run_words(task, layers)}. The two masks agree in {agreement:.1f} % of the pixels. "
        f"White pixels have no label and do not count. Data: {evidence.data(task)}.",
        f"The {count} with true, full-precision and decoded masks side by side, showing "
        f"{', '.join(key)}.",
        panels,
        key=key,
        columns=1,
    )


def _class_name(task: str, label: int, classes: Sequence[str]) -> str:
    if label == IGNORED:
        return "ignored"
    if label >= len(classes):
        raise InputError(f"samples: label {label} of task {task} has no name in classes")
    return classes[label]


def _run_words(task: str, layers: Records) -> str:
    own = (one for one in layers if (one["task"], one["method"]) == (task, PAPER_METHOD))
    run = next(own, None)
    if run is None:
        return ""
    return f" (ECQx, {run['bits']} bit, Λ {run['lam']:g}, seed {run['seed']})"


def voc_palette() -> Bytes:
    """Colours of Pascal VOC's masks, but white for ignored pixels.

    The bits of a label go, from the lowest on, to red, green and blue in turn, in each colour from
    the highest bit down: label 1 is dark red, 2 dark green, 3 both, 8 a darker red.

    Returns
    -------
    ndarray of uint8, shape (256, 3)
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    colours[IGNORED] = 255
    return colours


def picture_row(
    title: str, images: Sequence[tuple[str, Bytes]], key: Mapping[str, str] | None = None
) -> Panel:
    """A panel of pictures side by side, one column of a page wide."""
    return Panel(title, pictures(images, COLUMN - 4, key or {}), fixed=True)


def pool(values: NDArray[Any], cells: int = CELLS) -> Floats:
    """Means over blocks, so that no side is longer than ``cells``; the last ones may be smaller."""
    pooled = np.asarray(values, dtype=np.float64)
    for side in (0, 1):
        length = pooled.shape[side]
        starts = np.arange(0, length, math.ceil(length / cells))
        sizes = np.diff([*starts, length])
        sums = np.add.reduceat(pooled, starts, axis=side)
        pooled = sums / (sizes[:, None] if side == 0 else sizes)
    return pooled
