"""The figures of segmentation: images with their true, full-precision and decoded masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ecqx.errors import InputError
from ecqx.report.curves import suite_and_data
from ecqx.report.evidence import Evidence
from ecqx.report.style import HEADING_HEIGHT, NEUTRAL, Picture, canvas, finish, heading

Bytes = NDArray[np.uint8]
# "TASK/KIND" → images (N, 3, H, W) or masks (N, H, W), uint8.
Samples = Mapping[str, Bytes]

IMAGE, TRUTH, FULL_PRECISION, DECODED = KINDS = ("image", "truth", "full precision", "decoded")
IGNORED = 255
CELL, GAP, LEGEND_ROW, LEGEND_COLUMNS = 2.3, 0.08, 0.24, 5
TITLE_ROW = 0.3


def build_masks_figures(
    evidence: Evidence,
    samples: Samples,
    classes: Mapping[str, Sequence[str]],
    layers: Sequence[Mapping[str, Any]],
) -> list[Picture]:
    """One figure per task that has samples.

    Parameters
    ----------
    evidence : Evidence
    samples : mapping of str to ndarray
        ``TASK/image``, uint8 of shape (N, 3, H, W), and the masks ``TASK/truth``,
        ``TASK/full precision`` and ``TASK/decoded``, uint8 of shape (N, H, W) with 255 for ignored
        pixels.
    classes : mapping of str to sequence of str
        Task → names of the classes, in the order of the labels.
    layers : sequence of mapping
        Records of the layers that are shown; the decoded masks are of the same run of ECQx.

    Raises
    ------
    InputError
        If a task has some of the samples only, or a label without a name.
    """
    return [
        _figure(evidence, task, _of_task(samples, task), classes.get(task, ()), layers)
        for task in evidence.tasks
        if any(f"{task}/{kind}" in samples for kind in KINDS)
    ]


def _of_task(samples: Samples, task: str) -> dict[str, Bytes]:
    for kind in KINDS:
        if f"{task}/{kind}" not in samples:
            raise InputError(f"samples: '{task}/{kind}' is missing, but others of the task are not")
    return {kind: samples[f"{task}/{kind}"] for kind in KINDS}


def _figure(
    evidence: Evidence,
    task: str,
    samples: Mapping[str, Bytes],
    classes: Sequence[str],
    layers: Sequence[Mapping[str, Any]],
) -> Picture:
    masks = {kind: samples[kind] for kind in KINDS[1:]}
    entries = _legend_entries(task, masks, classes)
    count, height, width = samples[TRUTH].shape
    cell_height = CELL * height / width
    legend_height = LEGEND_ROW * (math.ceil(len(entries) / LEGEND_COLUMNS) + 1)
    total = HEADING_HEIGHT + TITLE_ROW + count * (cell_height + GAP) + legend_height
    figure = canvas(len(KINDS) * (CELL + GAP) + GAP, total, None)
    for row in range(count):
        top = HEADING_HEIGHT + TITLE_ROW + row * (cell_height + GAP)
        for column, kind in enumerate(KINDS):
            pixels = samples[kind][row]
            shown = pixels.transpose(1, 2, 0) if kind == IMAGE else voc_palette()[pixels]
            _cell(figure, shown, column, top, cell_height, kind if row == 0 else "")
    figure.legend(
        handles=entries, loc="lower center", ncols=min(len(entries), LEGEND_COLUMNS), frameon=False
    )
    title = f"Masks: {evidence.tasks[task]}"
    heading(figure, title, f"{suite_and_data(evidence, [task])}, {_images(count)}")
    agreement = f"{100 * (masks[DECODED] == masks[FULL_PRECISION]).mean():.1f} %"
    return finish(
        figure,
        f"masks_{task}",
        title,
        f"Image, true mask, the mask by the checkpoint that quantization starts from, and the one "
        f"by the model decoded from its file{_run_in_words(task, layers)}. The two masks agree in "
        f"{agreement} of the pixels. White pixels have no label and do not count. "
        f"Data: {evidence.data(task)}.",
        f"{_images(count).capitalize()} with true, full-precision and decoded masks side by side, "
        f"showing {', '.join(str(entry.get_label()) for entry in entries)}.",
    )


def _images(count: int) -> str:
    return "first test image" if count == 1 else f"first {count} test images"


def _cell(
    figure: Figure, pixels: Bytes, column: int, top: float, height: float, title: str
) -> None:
    """One picture at its place, in inches from the left and from the top."""
    whole_width, whole_height = (float(side) for side in figure.get_size_inches())
    left, bottom = GAP + column * (CELL + GAP), whole_height - top - height
    axes = figure.add_axes(
        (left / whole_width, bottom / whole_height, CELL / whole_width, height / whole_height)
    )
    axes.imshow(pixels, interpolation="nearest")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    # White masks would have no edge.
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.set_title(title)


def _legend_entries(task: str, masks: Mapping[str, Bytes], classes: Sequence[str]) -> list[Patch]:
    """The classes that occur in some mask, by label; ignored pixels last."""
    labels = np.unique(np.concatenate([mask.ravel() for mask in masks.values()])).tolist()
    entries = []
    for label in labels:
        if label != IGNORED and label >= len(classes):
            raise InputError(f"samples: label {label} of task {task} has no name in classes")
        name = "ignored" if label == IGNORED else classes[label]
        colour = tuple(voc_palette()[label] / 255)
        entries.append(Patch(facecolor=colour, edgecolor=NEUTRAL, linewidth=0.6, label=name))
    return entries


def _run_in_words(task: str, layers: Sequence[Mapping[str, Any]]) -> str:
    for layer in layers:
        if (layer["task"], layer["method"]) == (task, "ECQx"):
            run = f"ECQx, {layer['bits']} bit, Λ {layer['lam']:g}, seed {layer['seed']}"
            return f" ({run})"
    return ""


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
        channel, place = bit % 3, 7 - bit // 3
        colours[:, channel] |= ((labels >> bit & 1) << place).astype(np.uint8)
    colours[IGNORED] = 255
    return colours
