"""torchvision's pre-trained weights for a network to start from."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from ecqx.coding.checkpoint import read_state
from ecqx.errors import InputError
from ecqx.models.networks import MODELS


def imagenet_weights(name: str, root: Path) -> dict[str, Tensor]:
    """torchvision's default pre-trained weights of a network.

    Parameters
    ----------
    name : str
        A network of torchvision that is none of the suite's own: weights for ImageNet, for
        segmentation networks those for COCO images with the 21 classes of VOC.
    root : Path
        Folder that holds the file under its official name, or in ``models/``; it is downloaded
        there otherwise, and checked against the digest that its name carries.

    Returns
    -------
    dict of str to Tensor
        For `ecqx.models.loading.load_weights`.

    Raises
    ------
    InputError
        If there are none for this network, or the file cannot be had or read.
    """
    # Both would delay those who start from weights of their own.
    from ecqx.data.downloads import Source, provide

    url = _official_url(name)
    file = url.rpartition("/")[2]
    digest = re.search(r"[-_]([0-9a-f]{8,})\.", file)
    assert digest is not None
    source = Source(
        title=f"pre-trained weights of {name}",
        found_as=(file, f"models/{file}"),
        url=url,
        file=file,
        checksum=f"sha256:{digest[1]}",
    )
    state = read_state(provide(source, root))
    return {_present_name(key): tensor for key, tensor in state.items()}


def _official_url(name: str) -> str:
    import torchvision

    if name in MODELS or name not in torchvision.models.list_models():
        raise InputError(
            f"model {name}: there are no pre-trained weights; give a checkpoint, "
            "start from random ones, or choose another network of torchvision"
        )
    return str(torchvision.models.get_model_weights(name).DEFAULT.url)


def _present_name(name: str) -> str:
    """The name of today for that of the years when DenseNet's files were written."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)
