"""The interactive charts of segmentation masks: the class of each pixel on hover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from ecqx.report.charts import Chart, Key, Panel, Spec, chart_of
from ecqx.report.evidence import Evidence
from ecqx.report.masks_figure import IGNORED, IMAGE, KINDS, TRUTH, Bytes, Samples, voc_palette
from ecqx.report.relevance_charts import picture_trace, side_by_side
from ecqx.report.style import Picture


def build_mask_charts(
    evidence: Evidence,
    samples: Samples,
    classes: Mapping[str, Sequence[str]],
    pictures: Sequence[Picture],
) -> list[Chart]:
    """A chart for each figure of masks; parameters as for `build_masks_figures`."""
    named = {picture.name: picture for picture in pictures}
    charts = []
    for task in evidence.tasks:
        picture = named.get(f"masks_{task}")
        if picture:
            charts.append(_chart(picture, task, samples, classes[task]))
    return charts


def _chart(picture: Picture, task: str, samples: Samples, classes: Sequence[str]) -> Chart:
    masks = {kind: samples[f"{task}/{kind}"] for kind in KINDS[1:]}
    labels = np.unique(np.concatenate([mask.ravel() for mask in masks.values()])).tolist()
    names = ["ignored" if label == IGNORED else classes[label] for label in labels]
    colours = ["#{:02x}{:02x}{:02x}".format(*voc_palette()[label]) for label in labels]
    panels = [
        _panel(
            f"Image {i + 1}",
            samples[f"{task}/{IMAGE}"][i],
            {kind: np.searchsorted(labels, mask[i]) for kind, mask in masks.items()},
            names,
            colours,
        )
        for i in range(len(masks[TRUTH]))
    ]
    keys = [Key(name, colour, "box") for name, colour in zip(names, colours, strict=True)]
    return replace(chart_of(picture, panels, keys), kind="strips")


def _panel(
    title: str,
    image: Bytes,
    masks: Mapping[str, Bytes],
    names: Sequence[str],
    colours: Sequence[str],
) -> Panel:
    traces = [picture_trace(image, max(image.shape))]
    traces += [_mask(mask, names, colours) for mask in masks.values()]
    return side_by_side(title, traces, KINDS, image.shape[-2:])


def _mask(mask: Bytes, names: Sequence[str], colours: Sequence[str]) -> Spec:
    """A mask as runs of equal labels, row by row, which the page lays out again."""
    runs = [[int(label), len(list(run))] for label, run in groupby(mask.ravel().tolist())]
    count = len(names)
    steps = [[(i + j) / count, colour] for i, colour in enumerate(colours) for j in (0, 1)]
    return {
        "type": "heatmap",
        "meta": {"runs": runs, "width": mask.shape[1], "names": list(names)},
        "zmin": -0.5,
        "zmax": count - 0.5,
        "colorscale": steps,
        "showscale": False,
        "hovertemplate": "row %{y}, column %{x}: %{text}<extra></extra>",
    }
