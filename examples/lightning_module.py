"""Lightning: a module as it is, with a quantizer attached to its optimizer.

    python examples/lightning_module.py

trains a small network on scikit-learn's digits in full precision, then with quantized weights
(ECQx), and writes it to a file. The lines that a module without a quantizer does not have are
marked; `Trainer` needs none. Accumulated batches, clipping, mixed precision, several processes,
checkpoints and resuming from them are Lightning's own.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import ecqx
from ecqx.data import digits
from ecqx.training.evaluation import evaluate

try:
    import lightning as L  # noqa: N812
except ImportError:
    raise SystemExit("Lightning is not installed: pip install 'ecqx[lightning]'") from None


class Classifier(L.LightningModule):
    """A network for digits; with ``output`` its weights are quantized, and written to that file."""

    def __init__(self, output: Path | None = None, lam: float = 0.05, lr: float = 3e-3) -> None:
        super().__init__()
        self.output, self.lam, self.lr = output, lam, lr
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
            nn.Linear(512, 10),
        )
        self.quantizer: ecqx.ECQx | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        if self.quantizer is not None:
            self.quantizer.targets(y)  # this, for ECQx
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        if self.output is not None:
            # Here, and not in __init__: the model has reached its device, the processes are known.
            group = distributed.group.WORLD if distributed.is_available() else None
            self.quantizer = ecqx.ECQx(
                self.net, lam=self.lam, relevance=ecqx.LRP(), process_group=group
            )
            self.quantizer.attach(optimizer)  # and this
        return optimizer

    def on_train_epoch_start(self) -> None:
        if self.quantizer is not None:
            self.quantizer.start_epoch()  # the average of relevance begins anew, as published

    def on_train_end(self) -> None:
        """Here, because after the training Lightning moves the model to the CPU."""
        if self.output is not None and self.trainer.is_global_zero:
            ecqx.save(self.output, self.quantizer)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two trainings")
    parser.add_argument("--lam", type=float, default=0.05, help="higher is sparser")
    parser.add_argument("--output", type=Path, default=Path("lightning.ecqx"))
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    L.seed_everything(0, verbose=False)
    data = digits()
    samples = TensorDataset(data.train.inputs, data.train.targets)
    batches = DataLoader(samples, batch_size=64, shuffle=True)

    plain = Classifier()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["enable_model_summary"] = False
    L.Trainer(max_epochs=options.epochs, **quiet).fit(plain, batches)
    print(f"full precision: {evaluate(plain.net.cpu(), data.test):.1%}")

    module = Classifier(options.output, lam=options.lam)
    module.load_state_dict(plain.state_dict())
    L.Trainer(max_epochs=options.epochs, gradient_clip_val=1.0, **quiet).fit(module, batches)
    restored = Classifier().net
    restored.load_state_dict(ecqx.load(options.output))
    print(f"from the file: {evaluate(restored, data.test):.1%}")
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
