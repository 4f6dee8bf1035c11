"""Data sets as tensors."""

from typing import TYPE_CHECKING

from ecqx.lazy import lazy_names

if TYPE_CHECKING:
    from ecqx.data.audio import Disturbance, Mfcc
    from ecqx.data.cifar_archives import cifar
    from ecqx.data.digit_images import digits
    from ecqx.data.folder import image_folder
    from ecqx.data.speech import speech_commands
    from ecqx.data.tensors import Preparation, Split, TensorData
    from ecqx.data.voc2012 import voc

_HOMES = {
    "Disturbance": "ecqx.data.audio",
    "Mfcc": "ecqx.data.audio",
    "Preparation": "ecqx.data.tensors",
    "Split": "ecqx.data.tensors",
    "TensorData": "ecqx.data.tensors",
    "cifar": "ecqx.data.cifar_archives",
    "digits": "ecqx.data.digit_images",
    "image_folder": "ecqx.data.folder",
    "speech_commands": "ecqx.data.speech",
    "voc": "ecqx.data.voc2012",
}
__all__ = ["Disturbance", "Mfcc", "Preparation", "Split", "TensorData"]
__all__ += ["cifar", "digits", "image_folder", "speech_commands", "voc"]
__getattr__ = lazy_names(__name__, _HOMES)
