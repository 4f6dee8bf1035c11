"""Accuracy of the network decoded from a file, and the size of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecqx.coding.forms import Form
from ecqx.coding.quantized import first_order_entropy
from ecqx.data.tensors import TensorData
from ecqx.modules import is_excluded, is_weight
from ecqx.training.evaluation import scores
from ecqx.training.objectives import objective_of


def score_file(
    path: Path,
    form: Form,
    model: nn.Module,
    data: TensorData,
    exclude: Sequence[str] = (),
) -> dict[str, Any]:
    """Decode a file into a model, on the device of the data, and measure the network.

    Parameters whose name contains one of ``exclude`` were not to be quantized.

    Returns
    -------
    dict
        ``accuracy_validation`` and ``accuracy`` (validation and test split, fractions of one, by
        the task's metric), ``other_metrics`` (test split), ``sparsity`` (share of zeros among the
        quantized weights, in [0, 1]), ``entropy_bits_per_weight`` (first order),
        ``parameters`` (elements of all floating-point tensors), ``bytes`` and
        ``compression_ratio``.
    """
    model.load_state_dict(form.read(path))
    validation, test = scores(model, data.validation), scores(model, data.test)
    metric, *others = objective_of(data.test.targets).metrics
    parameters = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    size = path.stat().st_size
    return {
        "accuracy_validation": validation[metric],
        "accuracy": test[metric],
        "other_metrics": {name: test[name] for name in others},
        **_weight_statistics(model, exclude),
        "parameters": parameters,
        "bytes": size,
        "compression_ratio": 4 * parameters / size,
    }


@torch.no_grad()
def _weight_statistics(model: nn.Module, exclude: Sequence[str]) -> dict[str, float]:
    """Sparsity, and first-order entropy in bits per weight."""
    weights = [
        parameter
        for name, parameter in model.named_parameters()
        if is_weight(parameter) and not is_excluded(name, exclude)
    ]
    elements = sum(w.numel() for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    entropy = sum(first_order_entropy(w) * w.numel() for w in weights)
    return {"sparsity": zeros / elements, "entropy_bits_per_weight": entropy / elements}
