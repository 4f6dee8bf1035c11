"""Hugging Face's Trainer: a vision transformer, with a quantizer attached to its optimizer.

    python examples/hf_trainer.py

trains a small ViT, built from its configuration, on scikit-learn's digits in full precision, then
with quantized weights (ECQx), and writes it to a file. Nothing is downloaded. The Trainer is given
the optimizer that the quantizer is attached to; accumulated batches, clipping, mixed precision,
schedules, checkpoints and resuming from them are its own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

import ecqx
from ecqx.data import digits
from ecqx.data.tensors import Split
from ecqx.training.evaluation import evaluate

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainingArguments,
        ViTConfig,
        ViTForImageClassification,
    )
except ImportError:
    raise SystemExit("transformers is not installed: pip install 'ecqx[transformers]'") from None


class QuantizedTrainer(Trainer):
    """A Trainer that gives the labels of each batch to its quantizer, for relevance."""

    def __init__(self, *args: Any, quantizer: ecqx.ECQx, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.quantizer = quantizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **more: Any
    ) -> Any:
        self.quantizer.targets(inputs["labels"])
        return super().compute_loss(model, inputs, *args, **more)


class Epochs(TrainerCallback):
    """The average of relevance begins anew in each epoch, as published."""

    def __init__(self, quantizer: ecqx.ECQx) -> None:
        self.quantizer = quantizer

    def on_epoch_begin(self, *args: Any, **more: Any) -> None:
        self.quantizer.start_epoch()


def network() -> ViTForImageClassification:
    """A ViT of patches of 2x2 pixels."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 2, "initializer_range": 0.2}  # 0.02 is meant for a wider network
    images = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    return ViTForImageClassification(ViTConfig(**sizes, **images))


def samples(split: Split) -> list[dict[str, Tensor]]:
    return [
        {"pixel_values": x, "labels": y} for x, y in zip(split.inputs, split.targets, strict=True)
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two trainings")
    parser.add_argument("--lam", type=float, default=0.02, help="higher is sparser")
    parser.add_argument("--output", type=Path, default=Path("transformers.ecqx"))
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    data = digits()
    training, model = samples(data.train), network()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model, settings, train_dataset=training).train()
        print(f"full precision: {evaluate(model, data.test):.1%}")

        # On its device before it is quantized; the processes are known by now.
        model.to(settings.device)
        group = distributed.group.WORLD if distributed.is_available() else None
        quantizer = ecqx.ECQx(model, lam=options.lam, relevance=ecqx.LRP(), process_group=group)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        quantizer.attach(optimizer)
        QuantizedTrainer(
            model,
            settings,
            train_dataset=training,
            optimizers=(optimizer, None),
            callbacks=[Epochs(quantizer)],
            quantizer=quantizer,
        ).train()
    size = ecqx.save(options.output, quantizer)
    restored = network()
    restored.load_state_dict(ecqx.load(options.output))
    print(f"from the file: {evaluate(restored, data.test):.1%}")
    print(f"{options.output}: {size.total:,} bytes")


if __name__ == "__main__":
    main()
