"""torchvision's pre-trained weights, as a starting point."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from ecqx.coding.checkpoint import read_state
from ecqx.errors import InputError
from ecqx.models.networks import MODELS

# What works without pre-trained weights.
START = "start from a checkpoint of your own or from random weights"


def imagenet_weights(name: str, root: Path, otherwise: str = START) -> dict[str, Tensor]:
    """torchvision's default pre-trained weights of a network, downloaded if they are missing.

    Classification networks have weights for ImageNet, segmentation networks for COCO images with
    the 21 classes of VOC; the suite's own networks have none. ``root`` is a folder with the file
    under its official name, there or in ``models/``; ``otherwise`` says in messages what works
    without it.
    """
    # Imported here because starting from a checkpoint needs no download.
    from ecqx.data.downloads import Source, provide

    url = _official_url(name)
    file = url.rpartition("/")[2]
    digest = re.search(r"[-_]([0-9a-f]{8,})\.", file)
    assert digest is not None
    source = Source(
        title=f"pre-trained weights of {name}",
        found_as=(file, f"models/{file}"),
        url=url,
        checksum=f"sha256:{digest[1]}",
        otherwise=otherwise,
    )
    state = read_state(provide(source, root))
    return {_current_name(key): tensor for key, tensor in state.items()}


def _official_url(name: str) -> str:
    import torchvision

    if name in MODELS or name not in torchvision.models.list_models():
        raise InputError(
            f"model {name}: there are no pre-trained weights; give a checkpoint, "
            "start from random weights, or choose another network of torchvision"
        )
    return str(torchvision.models.get_model_weights(name).DEFAULT.url)


def _current_name(name: str) -> str:
    """DenseNet's files have names of parameters that torchvision has changed since."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)
