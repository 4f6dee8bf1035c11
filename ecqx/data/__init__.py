"""Data sets as tensors."""

from ecqx.data.archives import ARCHIVES
from ecqx.data.audio import RATE, Disturbance, Mfcc
from ecqx.data.cifar import cifar, cifar_source
from ecqx.data.digits import digits
from ecqx.data.folder import image_folder
from ecqx.data.speech import speech_commands, speech_source
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.data.voc import voc, voc_source

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
