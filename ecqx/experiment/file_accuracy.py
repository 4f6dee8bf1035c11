"""Accuracy and loss of a file on a data set, without its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from ecqx.experiment.settings import DATASETS, RunSettings
from ecqx.experiment.start import build_network, check_model
from ecqx.models.loading import load_weights
from ecqx.progress import announced
from ecqx.training.device import find_device
from ecqx.training.evaluation import scores_and_loss


def file_accuracy(path: Path, settings: RunSettings, **given: Any) -> dict[str, Any]:
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

    Returns
    -------
    dict
        ``file``, ``bytes``, ``model``, ``data`` (its name), ``samples``, ``scores`` (all metrics by
        name) and ``loss`` (the mean).

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
    network = build_network(model, data, seed=0)
    if load_weights(network, state, str(path)):
        raise InputError(
            f"{path} is a network for another number of classes than the {len(data.classes)} of "
            f"{data.label}"
        )
    data = about.prepared(data)
    with announced("evaluating on the test split"):
        scores, loss = scores_and_loss(network.to(device), data.test.to(device))
    return {
        **{"file": str(path), "bytes": path.stat().st_size, "model": model},
        **{"data": data.label, "samples": len(data.test), "scores": scores, "loss": loss},
    }


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
