"""Data sets as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecqx.lazy import lazy_names

if TYPE_CHECKING:
    from ecqx.data.archives import ARCHIVES
    from ecqx.data.audio import RATE, Disturbance, Mfcc
    from ecqx.data.cifar_archives import cifar, cifar_source
    from ecqx.data.digit_images import digits
    from ecqx.data.folder import image_folder
    from ecqx.data.speech import speech_commands, speech_source
    from ecqx.data.tensors import Preparation, Split, TensorData
    from ecqx.data.voc2012 import voc, voc_source

_HOMES = {
    "ARCHIVES": "ecqx.data.archives",
    "RATE": "ecqx.data.audio",
    "Disturbance": "ecqx.data.audio",
    "Mfcc": "ecqx.data.audio",
    "Preparation": "ecqx.data.tensors",
    "Split": "ecqx.data.tensors",
    "TensorData": "ecqx.data.tensors",
    "cifar": "ecqx.data.cifar_archives",
    "cifar_source": "ecqx.data.cifar_archives",
    "digits": "ecqx.data.digit_images",
    "image_folder": "ecqx.data.folder",
    "speech_commands": "ecqx.data.speech",
    "speech_source": "ecqx.data.speech",
    "voc": "ecqx.data.voc2012",
    "voc_source": "ecqx.data.voc2012",
}

__all__ = [
    "ARCHIVES",
    "RATE",
    "Disturbance",
    "Mfcc",
    "Preparation",
    "Split",
    "TensorData",
    "cifar",
    "cifar_source",
    "digits",
    "image_folder",
    "speech_commands",
    "speech_source",
    "voc",
    "voc_source",
]

__getattr__ = lazy_names(__name__, _HOMES)
