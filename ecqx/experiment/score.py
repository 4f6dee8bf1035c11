"""Accuracy of the network decoded from a file, and the size of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.coding.forms import Form
from ecqx.coding.quantized import first_order_entropy
from ecqx.data.tensors import TensorData
from ecqx.quantizers.parameters import survey
from ecqx.training.evaluation import scores, scores_and_correct
from ecqx.training.objectives import objective_of


def score_file(
    path: Path,
    form: Form,
    model: nn.Module,
    data: TensorData,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
) -> tuple[dict[str, Any], Tensor | None]:
    """Decode a file into a model, on the device of the data, and measure the network.

    ``exclude`` and ``include`` are those of the quantizer.

    Returns
    -------
    measured : dict
        ``accuracy_validation`` and ``accuracy`` (validation and test split, fractions of one, by
        the task's metric), ``other_metrics`` (test split), ``sparsity`` (share of zeros among the
        quantized weights, in [0, 1]), ``entropy_bits_per_weight`` (first order),
        ``parameters`` (elements of all floating-point tensors), ``bytes`` and
        ``compression_ratio``.
    correct : Tensor of bool, optional
        Of the test split, as `ecqx.training.evaluation.scores_and_correct`.
    """
    model.load_state_dict(form.read(path))
    validation = scores(model, data.validation)
    test, correct = scores_and_correct(model, data.test)
    metric, *others = objective_of(data.test.targets).metrics
    parameters = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    size = path.stat().st_size
    measured = {
        "accuracy_validation": validation[metric],
        "accuracy": test[metric],
        "other_metrics": {name: test[name] for name in others},
        **_weight_statistics(model, exclude, include),
        "parameters": parameters,
        "bytes": size,
        "compression_ratio": 4 * parameters / size,
    }
    return measured, correct


@torch.no_grad()
def _weight_statistics(
    model: nn.Module, exclude: Sequence[str], include: Sequence[str]
) -> dict[str, float]:
    """Sparsity, and first-order entropy in bits per weight, of what a quantizer takes."""
    parameters = survey(model, exclude, include)
    weights = [p.tensor for p in parameters if not p.kept and not p.shared_with]
    elements = sum(w.numel() for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    entropy = sum(first_order_entropy(w) * w.numel() for w in weights)
    return {"sparsity": zeros / elements, "entropy_bits_per_weight": entropy / elements}
