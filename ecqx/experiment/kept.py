"""What a run keeps beside its results: the progress of training, and the pre-trained network.

The names of these files hold a hash of all that their contents depend on, so that none is stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.experiment.prepare import Prepared
from ecqx.models.loading import load_weights
from ecqx.training.trainer import Epoch

# Packages that compute a training, beside this one.
PACKAGES = ("torch", "torchvision", "numpy", "numba")
_HISTORY = "ecqx_pretraining"


@dataclass(frozen=True)
class Kept:
    """Files for the network after pre-training, and for the state within both trainings."""

    pretrained: Path
    pretraining: Path
    training: Path

    @classmethod
    def of(cls, prepared: Prepared) -> Kept:
        """The files of an experiment; call it before training, which changes the weights.

        Those of pre-training do not depend on the settings of quantization.
        """
        settings = prepared.settings
        common = f"{settings.model}_{settings.dataset}"
        own = {"model": settings.model, "seed": settings.seed, "fit": asdict(settings.pretraining)}
        first, second = _keys(prepared, own, prepared.identity["settings"])
        return cls(
            settings.results / f"{common}_pretrained_{first}.safetensors",
            settings.results / f".{common}.{first}.pre-training.pt",
            settings.results / f".{settings.name}.{second}.training.pt",
        )

    @property
    def is_progress(self) -> bool:
        """Whether an interrupted run left its progress."""
        return self.pretraining.exists() or self.training.exists()

    def forget_progress(self) -> None:
        """Remove the progress of a run that is finished."""
        for progress in (self.pretraining, self.training):
            progress.unlink(missing_ok=True)

    def save_pretrained(self, model: nn.Module, history: Sequence[Epoch]) -> None:
        """Keep a pre-trained network."""
        epochs = json.dumps([asdict(epoch) for epoch in history])
        write_tensors(self.pretrained, model.state_dict(), {_HISTORY: epochs})

    def load_pretrained(self, model: nn.Module) -> list[Epoch]:
        """Load a network that was kept; ``InputError`` if the file is damaged."""
        state, epochs = read_tensors(self.pretrained, _HISTORY)
        load_weights(model, state, str(self.pretrained))
        return [Epoch(**epoch) for epoch in json.loads(epochs)]


def _keys(prepared: Prepared, *settings: Mapping[str, Any]) -> list[str]:
    """A hash of each of the settings with data, starting weights, device, packages and code."""
    versions = {name: version(name) for name in PACKAGES}
    places = [prepared.device.type, versions, _code()]
    common = [prepared.data.checksum(), digest(prepared.model), *places]
    parts = [json.dumps([own, *common]).encode() for own in settings]
    return [hashlib.sha256(part).hexdigest()[:16] for part in parts]


def digest(model: nn.Module) -> str:
    """A hash of a network's tensors."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@cache
def _code() -> str:
    """A hash of this package's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
