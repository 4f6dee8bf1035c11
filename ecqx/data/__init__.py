"""Data sets as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecqx.lazy import lazy_names

if TYPE_CHECKING:
    from ecqx.data.archives import ARCHIVES
    from ecqx.data.audio import RATE, Disturbance, Mfcc
    from ecqx.data.cifar import cifar, cifar_source
    from ecqx.data.digits import digits
    from ecqx.data.folder import image_folder
    from ecqx.data.speech import speech_commands, speech_source
    from ecqx.data.tensors import Preparation, Split, TensorData
    from ecqx.data.voc import voc, voc_source

_HOMES = {
    "ARCHIVES": "ecqx.data.archives",
    "RATE": "ecqx.data.audio",
    "Disturbance": "ecqx.data.audio",
    "Mfcc": "ecqx.data.audio",
    "Preparation": "ecqx.data.tensors",
    "Split": "ecqx.data.tensors",
    "TensorData": "ecqx.data.tensors",
    "cifar": "ecqx.data.cifar",
    "cifar_source": "ecqx.data.cifar",
    "digits": "ecqx.data.digits",
    "image_folder": "ecqx.data.folder",
    "speech_commands": "ecqx.data.speech",
    "speech_source": "ecqx.data.speech",
    "voc": "ecqx.data.voc",
    "voc_source": "ecqx.data.voc",
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
