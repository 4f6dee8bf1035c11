"""A network of your own, with grouped and depthwise convolutions, trained in a loop of your own.

    python examples/depthwise.py

trains it on scikit-learn's digits in full precision, then with quantized weights (ECQx), writes it
to a file, and to an ONNX file whose weights are integers. What differs from a plain loop of PyTorch
is marked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ecqx
from ecqx.data import TensorData, digits
from ecqx.training.evaluation import evaluate


class Depthwise(nn.Module):
    """Blocks of a depthwise convolution and a grouped one across the channels."""

    def __init__(self, channels: int = 32, blocks: int = 2, groups: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1, bias=False)]
        for _ in range(blocks):
            layers += [
                *(nn.BatchNorm2d(channels), nn.ReLU()),
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                *(nn.BatchNorm2d(channels), nn.ReLU()),
                nn.Conv2d(channels, channels, 1, groups=groups, bias=False),
            ]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(4 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return logits


def train(
    model: nn.Module, data: TensorData, epochs: int, quantizer: ecqx.ECQx | None = None
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if quantizer is not None:
        quantizer.attach(optimizer)  # this
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        model.train()
        if quantizer is not None:
            quantizer.start_epoch()  # and this
        for x, y in data.train.batches(64, order):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if quantizer is not None:
                quantizer.targets(y)  # and this
            optimizer.step()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two trainings")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--lam", type=float, default=0.05, help="higher is sparser")
    parser.add_argument("--output", type=Path, default=Path("depthwise.ecqx"))
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    data = digits()
    model = Depthwise()
    train(model, data, options.epochs)
    print(f"full precision: {evaluate(model, data.test):.1%}")

    quantizer = ecqx.ECQx(model, bits=options.bits, lam=options.lam, relevance=ecqx.LRP())
    train(model, data, options.epochs, quantizer)
    print(f"quantized: {evaluate(model, data.test):.1%}")
    print(quantizer.summary())

    ecqx.save(options.output, quantizer)
    restored = Depthwise()
    restored.load_state_dict(ecqx.load(options.output))
    print(f"from the file: {evaluate(restored, data.test):.1%}")
    onnx = options.output.with_suffix(".onnx")
    ecqx.export_onnx(onnx, quantizer, data.test.inputs[:2])
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")
    print(f"{onnx}: {onnx.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
