"""Accuracy and loss of a file on a data set, without its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ecqx.coding.bitstream import load
from ecqx.coding.checkpoint import read_state
from ecqx.coding.container import MAGIC, metadata_of
from ecqx.coding.nnc_bitstream import load_nnc
from ecqx.coding.nnc_inspection import is_nnc
from ecqx.coding.tensor_files import read_metadata
from ecqx.errors import InputError
from ecqx.experiment.datasets import load_data
from ecqx.experiment.metadata import Described, from_texts
from ecqx.experiment.remarks import remark
from ecqx.experiment.settings import DATASETS, RunSettings
from ecqx.experiment.start import build_network, check_model
from ecqx.models.loading import load_weights
from ecqx.progress import announced
from ecqx.training.device import find_device
from ecqx.training.evaluation import scores_and_loss
from ecqx.training.objectives import Scores


@dataclass(frozen=True)
class FileAccuracy:
    """All metrics and the mean loss of a file on the test split of a data set."""

    file: Path
    model: str
    data: str
    samples: int
    scores: Scores
    loss: float

    @property
    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **{"file": str(self.file), "bytes": self.file.stat().st_size, "model": self.model},
            **{"data": self.data, "samples": self.samples},
            **{"scores": self.scores, "loss": self.loss},
        }

    @property
    def summary(self) -> str:
        """A table of one row."""
        from tabulate import tabulate

        title = f"test split of {self.data}, {self.samples:,} samples"
        header = (title, *self.scores, "loss")
        row = (self.model, *(f"{score:.2%}" for score in self.scores.values()), f"{self.loss:.4f}")
        right = ("left", *["right"] * (len(row) - 1))
        return tabulate([row], header, disable_numparse=True, colalign=right)


def file_accuracy(path: Path, settings: RunSettings, **given: Any) -> FileAccuracy:
    """Evaluate a file on the test split of a data set.

    Parameters
    ----------
    path : Path
        An .ecqx or .nnc file, or a checkpoint as of `ecqx.coding.checkpoint.read_state`.
    settings : RunSettings
        Places and device.
    **given
        ``model``, ``dataset`` and ``image_size`` in place of those of the file's metadata; None:
        those of the metadata.

    Raises
    ------
    InputError
        If model or data set are unknown or do not fit the file, or the file is none.
    """
    state, metadata = _contents(path)
    about = Described.of(path, metadata)
    model = given["model"] or about.model
    dataset = given["dataset"] or about.dataset
    for option, name in (("--model", model), ("--dataset", dataset)):
        if name is None:
            raise InputError(f"{path} does not say its {option[2:]}; {option} names it")
    if dataset not in DATASETS:
        raise InputError(
            f"{path} is of the data set {dataset!r}, which ecqx does not know; --dataset takes "
            f"{', '.join(DATASETS)}"
        )
    assert model is not None
    check_model(model)
    device = find_device(settings.device)
    size = given["image_size"] or (about.side if dataset in ("folder", "voc") else None)
    own = replace(settings, model=model, dataset=dataset, image_size=size)
    data = load_data(own)
    about.check_classes(path, data)
    data = about.normalized(path, data)
    network = build_network(model, data, seed=0)
    if load_weights(network, state, str(path)):
        raise InputError(
            f"{path} is a network for another number of classes than the {len(data.classes)} of "
            f"{data.label}"
        )
    if data.test.preparation.mean and not about.mean:
        remark(f"{path} has no input normalization; that of {data.label} is used")
    with announced("evaluating on the test split"):
        found, loss = scores_and_loss(network.to(device), data.test.to(device))
    return FileAccuracy(path, model, data.label, len(data.test), found, loss)


def _contents(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """The tensors of a file, and its metadata if it has any."""
    if is_nnc(path):
        return load_nnc(path), {}
    with path.open("rb") as file:
        is_ecqx = file.read(len(MAGIC)) == MAGIC
    if is_ecqx:
        return load(path), metadata_of(path)
    texts = read_metadata(path) if path.suffix == ".safetensors" else {}
    return read_state(path), from_texts(texts)
