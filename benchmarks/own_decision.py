"""What relevance of the model's own decision costs: ``python -m benchmarks.own_decision``.

On scikit-learn's digits, attached with targets and without, from the same networks, with the same
batches; accuracy on the test split after the last epoch.
"""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from statistics import mean, stdev

import torch
from tabulate import tabulate
from torch import nn

import ecqx
from ecqx.data import digits
from ecqx.models import build
from ecqx.training.evaluation import evaluate
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

# Networks, their settings and the number of seeds.
NETWORKS: dict[str, tuple[dict[str, int], int]] = {
    "mlp_gsc": ({"in_features": 64}, 10),
    "resnet20": ({"in_channels": 1}, 5),
}
LAMBDAS, EPOCHS, BATCH = (0.2, 0.5), 5, 64


def quantized(start: nn.Module, lam: float, seed: int, gives_targets: bool) -> tuple[float, int]:
    """Accuracy in percent and bytes of a network trained with a quantizer attached."""
    data, model = digits(seed), copy.deepcopy(start).train()
    quantizer = ecqx.ECQx(model, bits=4, lam=lam, relevance=ecqx.LRP())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    quantizer.attach(optimizer)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        quantizer.start_epoch()
        for x, y in data.train.batches(BATCH, order):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            if gives_targets:
                quantizer.targets(y)
            optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        size = ecqx.save(Path(folder) / "model.ecqx", quantizer)
    return 100 * evaluate(model, data.test), size.total


def with_error(values: list[float]) -> str:
    """Mean and standard error."""
    return f"{mean(values):+.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


def main() -> None:
    rows = []
    for name, (settings, seeds) in NETWORKS.items():
        found: dict[float, list[tuple[float, float, float, float]]] = {lam: [] for lam in LAMBDAS}
        for seed in range(seeds):
            torch.manual_seed(seed)
            data, model = digits(seed), build(name, num_classes=10, **settings)
            fit = FitSettings(epochs=10, lr=2e-3, batch_size=BATCH)
            Trainer(model, data.train, data.validation, fit, seed).fit()
            for lam in LAMBDAS:
                accuracy, size = quantized(model, lam, seed, gives_targets=True)
                other, other_size = quantized(model, lam, seed, gives_targets=False)
                found[lam].append((accuracy, size, other - accuracy, 100 * (other_size / size - 1)))
        for lam, numbers in found.items():
            accuracies, sizes, differences, growth = map(list, zip(*numbers, strict=True))
            shown = (f"{mean(accuracies):.2f}", f"{mean(sizes):,.0f}")
            rows.append((name, lam, seeds, *shown, with_error(differences), with_error(growth)))
    headers = ("network", "Λ", "seeds", "accuracy (%)", "bytes", "points", "bytes (%)")
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
