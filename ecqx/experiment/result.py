"""The result of an experiment: tables for a person, and a record for a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ecqx.assignment.mixed_precision import bits_in_words
from ecqx.experiment.metadata import metadata_of
from ecqx.experiment.prepare import Prepared
from ecqx.modules import meant_by
from ecqx.training.objectives import Scores
from ecqx.training.trainer import Epoch

# What `score_file` measures beside accuracy, as far as a result shows it.
_MEASURES = ("sparsity", "entropy_bits_per_weight", "bytes", "compression_ratio")


@dataclass(frozen=True)
class Result:
    """The outcome of one experiment.

    Attributes
    ----------
    prepared : Prepared
        What was run.
    scores : dict of str to Scores
        All metrics on the test split: ``start``, ``pre-trained`` if there was such a training,
        ``quantized``, ``decoded file``.
    history : sequence of Epoch
        Of the quantized training.
    not_quantized : sequence of str
        Parameters of more than one dimension that are no weights or were excluded.
    file : mapping
        From `ecqx.experiment.score.score_file`.
    remarks : sequence of str
        What a person should look at again.
    """

    prepared: Prepared
    scores: dict[str, Scores]
    history: Sequence[Epoch]
    not_quantized: Sequence[str]
    file: Mapping[str, Any]
    remarks: Sequence[str] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The result as plain values, without what depends on place or time."""
        settings = self.prepared.settings
        return {
            **self.prepared.identity,
            "fit": asdict(settings.training),
            "method": settings.method,
            "scores": self.scores,
            "epochs": [asdict(epoch) for epoch in self.history],
            "not_quantized": list(self.not_quantized),
            **self._measures,
            "file": settings.model_file.name,
            "metadata": metadata_of(self.prepared.data, settings.names),
            "remarks": list(self.remarks),
        }

    @property
    def _measures(self) -> dict[str, float]:
        return {name: self.file[name] for name in _MEASURES}

    @property
    def numbers(self) -> dict[str, float]:
        """Accuracies and measures of the file, by name, for trackers."""
        accuracies = {
            f"test/{stage}/{metric}": value
            for stage, scores in self.scores.items()
            for metric, value in scores.items()
        }
        return accuracies | self._measures

    @property
    def summary(self) -> str:
        """Two tables: the metrics on the test split by stage, and facts about run and file."""
        from tabulate import tabulate

        data, metrics = self.prepared.data, list(self.scores["start"])
        title = f"test split of {data.label}, {len(data.test):,} samples"
        rows = [
            (stage, *(f"{scores[metric]:.2%}" for metric in metrics))
            for stage, scores in self.scores.items()
        ]
        right = ("left", *["right"] * len(metrics))
        accuracies = tabulate(rows, (title, *metrics), disable_numparse=True, colalign=right)
        about = tabulate(self._about(), tablefmt="plain", disable_numparse=True)
        return f"{accuracies}\n\n{about}"

    def _about(self) -> list[tuple[str, str]]:
        settings, file = self.prepared.settings, self.file
        quantizer = f"{settings.method}, {bits_in_words(settings.bits)}, Lambda {settings.lam:g}"
        rows = [
            ("model", f"{settings.model}, from {self.prepared.start}"),
            ("quantizer", quantizer + (f", p {settings.p:g}" if settings.lrp else "")),
            ("epochs", f"{len(self.history)} of {settings.epochs}"),
            ("sparsity", f"{file['sparsity']:.2%}"),
            ("entropy", f"{file['entropy_bits_per_weight']:.3f} bits per weight (first order)"),
            ("size", f"{file['bytes']:,} bytes"),
            ("compression ratio", f"{file['compression_ratio']:.2f}"),
            ("file", str(settings.model_file)),
            ("numbers", str(settings.record_file)),
        ]
        excluded = {n for part in settings.exclude for n in meant_by(part, self.not_quantized)}
        others = [name for name in self.not_quantized if name not in excluded]
        if others:
            rows.insert(2, ("no weights", ", ".join(others)))
        if excluded:
            named = " or ".join(settings.exclude)
            rows.insert(2, ("not quantized", f"{len(excluded)} tensors named {named}"))
        return rows
