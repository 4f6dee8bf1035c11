"""What the report shows of single networks: relevances of weights, and masks of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.bitstream import load
from ecqx.data import Split
from ecqx.modes import evaluation_mode
from ecqx.objectives import SEGMENTATION, main_output
from ecqx.relevance import weight_relevance
from stages import paths
from stages.quantize import load_full_precision
from stages.settings import Suite
from stages.tasks import load_data, network

# What relevances of the report are measured on: samples at most, and their elements at most.
RELEVANCE_SAMPLES, RELEVANCE_ELEMENTS = 512, 2**21
# Test images of a segmentation task that the report shows.
SHOWN = 4


def relevances(suite: str, wanted: Suite) -> dict[str, Tensor]:
    """Weights and relevances of first and last layer, start of the first seed, validation data."""
    lrp = wanted.quantize.relevance.build()
    tensors: dict[str, Tensor] = {}
    for name, task in wanted.tasks.items():
        model = load_full_precision(suite, task, paths.checkpoint(suite, name, wanted.seeds[0]))
        split = load_data(suite, task).validation
        count = min(RELEVANCE_SAMPLES, RELEVANCE_ELEMENTS // split.inputs[0].numel())
        inputs, targets = next(split.batches(max(1, count)))
        relevance = weight_relevance(
            model, inputs, targets, lrp.composite, lrp.canonizer, lrp.output, lrp.weight_rule
        )
        weights = dict(model.named_parameters())
        for layer in (list(relevance)[0], list(relevance)[-1]):  # noqa: RUF015
            tensors[f"{name}/{layer}/weight"] = weights[layer]
            tensors[f"{name}/{layer}/relevance"] = relevance[layer]
    return tensors


def masks(
    suite: str, wanted: Suite, runs: Sequence[dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Test images of segmentation tasks with their masks: true, in full precision, decoded.

    The decoded model is that of the ECQx run whose layers the report shows.

    Returns
    -------
    (dict of str to Tensor, dict of str to tuple of str)
        ``TASK/image``, ``TASK/truth``, ``TASK/full precision`` and ``TASK/decoded``, and the names
        of each task's classes.
    """
    tensors: dict[str, Tensor] = {}
    classes: dict[str, tuple[str, ...]] = {}
    shown = wanted.report.layers.model_dump()
    for run in runs:
        task = wanted.tasks[run["task"]]
        is_shown = all(run[key] == value for key, value in shown.items())
        if run["method"] != "ECQx" or run["sweep"] != "grid" or not is_shown:
            continue
        data = load_data(suite, task)
        split = data.test.take(SHOWN)
        if split.objective is not SEGMENTATION:
            continue
        start = load_full_precision(suite, task, paths.checkpoint(suite, run["task"], run["seed"]))
        decoded = network(task)
        decoded.load_state_dict(load(paths.bitstream(suite, run["run_id"])))
        classes[run["task"]] = data.classes
        tensors[f"{run['task']}/image"] = split.inputs
        tensors[f"{run['task']}/truth"] = split.targets
        tensors[f"{run['task']}/full precision"] = _mask(start, split)
        tensors[f"{run['task']}/decoded"] = _mask(decoded, split)
    return tensors, classes


@torch.no_grad()
def _mask(model: nn.Module, split: Split) -> Tensor:
    """Predicted class of each pixel, uint8 of shape (N, H, W)."""
    with evaluation_mode(model):
        masks = [main_output(model(x)).argmax(1) for x, _ in split.batches(1)]
    return torch.cat(masks).to(torch.uint8)
