"""What an experiment gave: numbers for a person, and the same ones for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecqx.experiment.settings import EXCLUDED, RunSettings
from ecqx.training.objectives import Scores
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Epoch

# Settings that say where and how loudly, not what; the checkpoint goes by its file's name.
_LEFT_OUT = (
    *("data_path", "results", "workers", "verbose", "model_path"),
    *("tracker", "wandb", "wandb_key", "wandb_run_name"),
)


@dataclass(frozen=True)
class Result:
    """The outcome of one experiment.

    Attributes
    ----------
    settings : RunSettings
    fit : FitSettings
        Of the quantized training.
    device : str
        Where the networks ran.
    start : str
        Weights that it started from.
    data : str
        What results call the data set.
    samples : dict of str to int
        Of each split.
    scores : dict of str to Scores
        All metrics on the test split, by stage: ``start``, ``pre-trained`` where there was such a
        training, ``quantized``, ``decoded file``.
    history : sequence of Epoch
        Of the quantized training; accuracies of the validation split.
    kept : sequence of str
        Parameters of more than one dimension that are not quantized.
    sparsity : float
        Share of quantized weights that are zero.
    entropy : float
        First-order entropy of the integers, bits per weight, mean over the quantized weights.
    size : int
        Of the file, in bytes.
    compression_ratio : float
        Four bytes for each float element over the size of the file.
    """

    settings: RunSettings
    fit: FitSettings
    device: str
    start: str
    data: str
    samples: dict[str, int]
    scores: dict[str, Scores]
    history: Sequence[Epoch]
    kept: Sequence[str]
    sparsity: float
    entropy: float
    size: int
    compression_ratio: float

    @property
    def record(self) -> dict[str, Any]:
        """All of it as plain values, without what differs from place to place or time to time."""
        settings = result_settings(self.settings)
        return {
            "settings": settings | {"device": self.device, "exclude": EXCLUDED},
            "fit": asdict(self.fit),
            "method": self.settings.method,
            "start": self.start,
            "data": self.data,
            "samples": self.samples,
            "scores": self.scores,
            "epochs": [asdict(epoch) for epoch in self.history],
            "not_quantized": list(self.kept),
            "sparsity": self.sparsity,
            "entropy_bits_per_weight": self.entropy,
            "bytes": self.size,
            "compression_ratio": self.compression_ratio,
            "file": encoded_model(self.settings).name,
        }

    @property
    def numbers(self) -> dict[str, float]:
        """What it comes down to, by name."""
        accuracies = {
            f"test/{stage}/{metric}": value
            for stage, scores in self.scores.items()
            for metric, value in scores.items()
        }
        return accuracies | {
            "sparsity": self.sparsity,
            "entropy_bits_per_weight": self.entropy,
            "bytes": self.size,
            "compression_ratio": self.compression_ratio,
        }

    @property
    def summary(self) -> str:
        """Two tables: the metrics of the test split by stage, and what the file is like."""
        from tabulate import tabulate

        metrics = list(self.scores["start"])
        title = f"test split of {self.data}, {self.samples['test']:,} samples"
        rows = [
            (stage, *(f"{scores[metric]:.2%}" for metric in metrics))
            for stage, scores in self.scores.items()
        ]
        right = ("left", *["right"] * len(metrics))
        accuracies = tabulate(rows, (title, *metrics), disable_numparse=True, colalign=right)
        about = tabulate(self._about(), tablefmt="plain", disable_numparse=True)
        return f"{accuracies}\n\n{about}"

    def _about(self) -> list[tuple[str, str]]:
        settings = self.settings
        quantizer = f"{settings.method}, {settings.bits} bit, Lambda {settings.lam:g}"
        rows = [
            ("model", f"{settings.model}, from {self.start}"),
            ("quantizer", quantizer + (f", p {settings.p:g}" if settings.lrp else "")),
            ("epochs", f"{len(self.history)} of {settings.epochs}"),
            ("sparsity", f"{self.sparsity:.2%}"),
            ("entropy", f"{self.entropy:.3f} bits per weight (first order)"),
            ("size", f"{self.size:,} bytes"),
            ("compression ratio", f"{self.compression_ratio:.2f}"),
            ("file", str(encoded_model(settings))),
            ("numbers", str(record_file(settings))),
        ]
        if self.kept:
            named = " or ".join(EXCLUDED)
            rows.insert(2, ("not quantized", f"{len(self.kept)} tensors named {named}"))
        return rows


def result_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings that a result depends on, as plain values; weights and data not included."""
    found = {name: value for name, value in asdict(settings).items() if name not in _LEFT_OUT}
    return found | {"bitwidth": settings.bits}


def encoded_model(settings: RunSettings) -> Path:
    """The file that the quantized model is written to."""
    return settings.results / f"{settings.name}.ecqx"


def record_file(settings: RunSettings) -> Path:
    """The file that `Result.record` is written to."""
    return settings.results / f"{settings.name}.json"
