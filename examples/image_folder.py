"""A network of torchvision on your own pictures: quantize, write to a file, load it elsewhere.

The pictures lie in a folder (or an archive of it) as ``train/CLASS/PICTURE`` and
``test/CLASS/PICTURE``; a tenth of the training pictures is held out to choose the best epoch by.

    python examples/image_folder.py ~/pictures --model mobilenet_v2

starts from torchvision's weights for ImageNet, which are downloaded once; ``--weights FILE`` starts
from a checkpoint of your own, ``--weights random`` from nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import ecqx
from ecqx.coding.checkpoint import read_state
from ecqx.data import image_folder
from ecqx.models.loading import load_weights
from ecqx.models.weights import imagenet_weights
from ecqx.training.evaluation import evaluate
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

# Of the pictures that torchvision's weights were trained on.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, help="folder or archive with train/ and test/")
    parser.add_argument("--model", default="resnet18", help="any name of torchvision.models")
    parser.add_argument("--weights", default="imagenet", help="imagenet, random or a checkpoint")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--lam", type=float, default=0.05, help="higher is sparser")
    parser.add_argument("--epochs", type=int, default=2, help="with quantized weights")
    parser.add_argument("--tuning", type=int, default=1, help="epochs before, in full precision")
    parser.add_argument("--output", type=Path, default=Path("model.ecqx"))
    return parser.parse_args(arguments)


def start(model: nn.Module, name: str, weights: str) -> None:
    """Give the network the weights to start from; a last layer that does not fit stays random."""
    if weights == "imagenet":
        load_weights(model, imagenet_weights(name, Path("datasets")), "ImageNet's weights")
    elif weights != "random":
        load_weights(model, read_state(weights), weights)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.manual_seed(0)
    pictures = {"size": options.size, "mean": MEAN, "deviation": DEVIATION}
    data = image_folder(options.pictures, validation=None, **pictures)
    model = ecqx.models.build(options.model, num_classes=len(data.classes))
    start(model, options.model, options.weights)

    tuning = FitSettings(epochs=options.tuning, lr=1e-4, batch_size=32)
    Trainer(model, data.train, data.validation, tuning).fit(progress=True)
    print(f"full precision: {evaluate(model, data.test):.1%} of the test pictures are right")

    quantizer = ecqx.ECQx(model, bits=options.bits, lam=options.lam, relevance=ecqx.LRP())
    training = FitSettings(epochs=options.epochs, lr=1e-4, batch_size=32)
    Trainer(model, data.train, data.validation, training, quantizer=quantizer).fit(progress=True)
    print(quantizer.summary())
    size = ecqx.save(options.output, quantizer)

    elsewhere = ecqx.models.build(options.model, num_classes=len(data.classes))
    elsewhere.load_state_dict(ecqx.load(options.output))
    before = sum(4 * parameter.numel() for parameter in model.parameters())
    print(f"from the file: {evaluate(elsewhere, data.test):.1%} of the test pictures are right")
    print(f"{options.output}: {size.total:,} bytes, {before / size.total:.1f} times smaller")


if __name__ == "__main__":
    main()
