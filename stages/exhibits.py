"""What the report shows of single networks: relevances of weights and inputs, and masks of images.

Each is shown of two networks: one decoded from its file, that of the run of ECQx which the settings
name under ``evaluate.layers``, and the one in full precision that this run started from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.coding.bitstream import load
from ecqx.coding.coded_state import read_coded_state
from ecqx.data.tensors import Split, TensorData
from ecqx.experiment.task import Task
from ecqx.modules import evaluation_mode, main_output
from ecqx.relevance.attribution import with_weight_relevance
from ecqx.relevance.canonizers import build_canonizer
from ecqx.relevance.composites import build_composite
from ecqx.relevance.output import output_relevance
from ecqx.relevance.settings import LRP
from ecqx.relevance.weights import weight_relevance
from ecqx.training.objectives import SEGMENTATION, objective_of
from stages import paths

Tensors = dict[str, Tensor]

# What relevances of the report are measured on: samples at most, and their elements at most.
RELEVANCE_SAMPLES, RELEVANCE_ELEMENTS = 512, 2**21
# Relevance of inputs: under a flat rule for the first layer, all inputs of an MLP have the same.
INPUT_COMPOSITE = "epsilon_plus"
BEFORE, AFTER = "full precision", "decoded"


@dataclass(frozen=True)
class Networks:
    """The networks of a task by kind: in full precision and, if a run is shown, decoded."""

    task: str
    data: TensorData
    models: dict[str, nn.Module]


def networks(
    suite: str,
    tasks: Mapping[str, Task],
    seeds: Mapping[str, int],
    decoded: Mapping[str, tuple[Mapping[str, Any], Path]],
) -> list[Networks]:
    """The networks of each task; ``decoded`` are the runs that are shown, with their files.

    A task without such a run has only the network of its seed of ``seeds`` in full precision.
    """
    found = []
    for name, task in tasks.items():
        run, path = decoded.get(name, ({"seed": seeds[name]}, None))
        start = read_coded_state(paths.checkpoint(suite, name, run["seed"]))
        states = {BEFORE: start.state} | ({} if path is None else {AFTER: load(path)})
        models = {kind: task.build() for kind in states}
        for kind, model in models.items():
            model.load_state_dict(states[kind])
        found.append(Networks(name, task.load_data(torch.device("cpu")), models))
    return found


def relevances(networks: Sequence[Networks], lrp: LRP) -> Tensors:
    """Weights and relevances of first and last layer, before and after, on validation data.

    Returns
    -------
    dict of str to Tensor
        ``TASK/LAYER/weight`` and ``TASK/LAYER/relevance`` in full precision, and the same with
        ``decoded`` in front of the last word where a run is shown.
    """
    tensors: Tensors = {}
    for shown in networks:
        split = shown.data.validation
        count = min(RELEVANCE_SAMPLES, RELEVANCE_ELEMENTS // split.inputs[0].numel())
        inputs, targets = next(split.batches(max(1, count)))
        for kind, model in shown.models.items():
            relevance = weight_relevance(
                model, inputs, targets, lrp.composite, lrp.canonizer, lrp.output, lrp.weight_rule
            )
            weights, prefix = dict(model.named_parameters()), "" if kind == BEFORE else f"{kind} "
            for layer in (list(relevance)[0], list(relevance)[-1]):  # noqa: RUF015
                tensors[f"{shown.task}/{layer}/{prefix}weight"] = weights[layer]
                tensors[f"{shown.task}/{layer}/{prefix}relevance"] = relevance[layer]
    return tensors


def samples(
    networks: Sequence[Networks], canonizer: str, count: int
) -> tuple[Tensors, dict[str, tuple[str, ...]]]:
    """Up to ``count`` test samples with the relevance of their inputs and, in segmentation, masks.

    Returns
    -------
    (dict of str to Tensor, dict of str to tuple of str)
        ``TASK/input``, of shape (N, H, W) or, images, (N, C, H, W), and ``TASK/relevance KIND``;
        ``TASK/label`` and ``TASK/label KIND`` where a sample has one class; ``TASK/image``,
        ``TASK/truth`` and ``TASK/KIND`` in segmentation. KIND is "full precision" or "decoded".
        And the names of each task's classes.
    """
    tensors: Tensors = {}
    classes: dict[str, tuple[str, ...]] = {}
    for shown in networks if count else ():
        name, data, models = shown.task, shown.data, shown.models
        split = _few(data.test, count)
        classes[name] = data.classes
        tensors[f"{name}/input"] = _pictures(split)
        if split.targets.ndim == 1:
            tensors[f"{name}/label"] = split.targets
        for kind, model in models.items():
            relevance, labels = input_relevance(model, split, canonizer)
            tensors[f"{name}/relevance {kind}"] = relevance
            if split.targets.ndim == 1:
                tensors[f"{name}/label {kind}"] = labels
        if objective_of(data.test.targets) is SEGMENTATION and AFTER in models:
            first = data.test.take(count)
            tensors[f"{name}/image"] = first.inputs
            tensors[f"{name}/truth"] = first.targets
            tensors |= {f"{name}/{kind}": _mask(model, first) for kind, model in models.items()}
    return tensors, classes


def input_relevance(model: nn.Module, split: Split, canonizer: str) -> tuple[Tensor, Tensor]:
    """Relevance of the inputs for the logits of their true classes, and the predicted classes.

    Relevance has shape (N, H, W), summed over the channels of images; a vector is one row. Each
    sample is a batch of its own, so that its relevance does not depend on the others.
    """
    composite = with_weight_relevance(build_composite(INPUT_COMPOSITE), lambda *_: None)
    composite.canonizers = [build_canonizer(canonizer)]
    found: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluation_mode(model), composite.context(model) as attributed, torch.enable_grad():
        for inputs, targets in split.batches(1):
            inputs.requires_grad_()
            logits = main_output(attributed(inputs))
            start = output_relevance(logits.detach(), targets, "output")
            found += torch.autograd.grad(logits, inputs, start)
            labels.append(logits.argmax(1))
    relevance = torch.cat(found)
    if relevance.ndim == 4:
        relevance = relevance.sum(1)
    return relevance.reshape(len(split), -1, relevance.shape[-1]), torch.cat(labels)


def _few(split: Split, count: int) -> Split:
    """The first sample of each of the first classes; of other tasks the first samples."""
    if split.targets.ndim > 1:
        return split.take(count)
    first: dict[int, int] = {}
    for index, label in enumerate(split.targets.tolist()):
        first.setdefault(label, index)
    chosen = list(first.values())[:count]
    return replace(split, inputs=split.inputs[chosen], targets=split.targets[chosen])


def _pictures(split: Split) -> Tensor:
    """Images as they are stored, anything else as a network gets it, one value a place."""
    if split.inputs.dtype == torch.uint8:
        return split.inputs
    inputs = torch.cat([inputs for inputs, _ in split.batches(1)])
    if inputs.ndim == 4:
        inputs = inputs.mean(1)
    return inputs.reshape(len(split), -1, inputs.shape[-1])


@torch.no_grad()
def _mask(model: nn.Module, split: Split) -> Tensor:
    """Predicted class of each pixel, uint8 of shape (N, H, W)."""
    with evaluation_mode(model):
        masks = [main_output(model(x)).argmax(1) for x, _ in split.batches(1)]
    return torch.cat(masks).to(torch.uint8)
