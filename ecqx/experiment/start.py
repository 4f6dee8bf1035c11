"""What an experiment starts from: its data and a network with weights, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ecqx import data, models
from ecqx.data.archives import names
from ecqx.data.downloads import is_at_hand
from ecqx.data.folder import DEVIATION as CIFAR_DEVIATION
from ecqx.data.folder import IMAGES
from ecqx.data.folder import MEAN as CIFAR_MEAN
from ecqx.data.tensors import TensorData
from ecqx.data.voc2012 import DEVIATION as IMAGENET_DEVIATION
from ecqx.data.voc2012 import MEAN as IMAGENET_MEAN
from ecqx.errors import InputError
from ecqx.experiment.settings import RunSettings
from ecqx.models.loading import load_weights
from ecqx.models.networks import MODELS
from ecqx.models.weights import imagenet_weights
from ecqx.modules import evaluation_mode, main_output
from ecqx.training.objectives import SEGMENTATION, objective_of

# Groups of packages that some data sets are read with.
EXTRAS = {"digits": "pipeline", "speech_commands": "speech"}
# Sides of images that fit CIFAR's networks, ImageNet's, and (published) those for segmentation.
SMALL, LARGE, PIXEL_LABELS = 32, 224, 256
# What networks raise on inputs that they are not made for.
UNFIT = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError)


def check_model(name: str) -> None:
    """Raise ``InputError`` if there is no network of this name."""
    import torchvision

    if name not in MODELS and name not in torchvision.models.list_models():
        raise InputError(
            f"--model: {name!r}, but there are {', '.join(MODELS)} and torchvision's networks"
        )


def labels_pixels(name: str) -> bool:
    """Whether a network is one of torchvision's for segmentation."""
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models.segmentation)


# -- data ------------------------------------------------------------------------------------------


def load_data(settings: RunSettings) -> TensorData:
    """Load the settings' data set, downloaded first where that is possible and needed.

    Raises
    ------
    InputError
        If it cannot be had, or a package that reads it is missing.
    """
    try:
        return _LOADERS[settings.dataset](settings)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(settings.dataset, "pipeline")
        raise InputError(
            f"--dataset {settings.dataset} needs {error.name}, which is not installed: "
            f"pip install 'ecqx[{extra}]'"
        ) from error


def _cifar10(settings: RunSettings) -> TensorData:
    return data.cifar(settings.data_path, 10)


def _cifar100(settings: RunSettings) -> TensorData:
    return data.cifar(settings.data_path, 100)


def _voc(settings: RunSettings) -> TensorData:
    if labels_pixels(settings.model):
        return data.voc(settings.data_path, "segmentation", settings.image_size or PIXEL_LABELS)
    return data.voc(settings.data_path, "classification", settings.image_size or LARGE)


def _folder(settings: RunSettings) -> TensorData:
    own = settings.model in MODELS
    return data.image_folder(
        settings.data_path,
        validation=_tenth(settings.data_path),
        size=settings.image_size or (SMALL if own else LARGE),
        mean=CIFAR_MEAN if own else IMAGENET_MEAN,
        deviation=CIFAR_DEVIATION if own else IMAGENET_DEVIATION,
    )


def _tenth(path: Path) -> int:
    """A tenth of an image folder's training images."""
    images = [n for n in names(path) if n.startswith("train/") and n.lower().endswith(IMAGES)]
    return max(1, len(images) // 10)


def _digits(settings: RunSettings) -> TensorData:
    return data.digits()


def _speech_commands(settings: RunSettings) -> TensorData:
    full = is_at_hand(data.speech_source("full"), settings.data_path)
    return data.speech_commands(
        settings.data_path, "full" if full else "test", processes=max(1, settings.workers)
    )


_LOADERS: dict[str, Callable[[RunSettings], TensorData]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "voc": _voc,
    "folder": _folder,
    "digits": _digits,
    "speech_commands": _speech_commands,
}


# -- network ---------------------------------------------------------------------------------------


def build_network(name: str, loaded: TensorData, seed: int) -> nn.Module:
    """Build a network that fits the data, with random weights.

    Raises
    ------
    InputError
        If the data are of a kind, a size or a number of channels that the network cannot take.
    """
    inputs, targets = next(loaded.train.batches(2))
    classes = len(loaded.classes)
    shape = "×".join(map(str, inputs.shape[1:]))
    torch.manual_seed(seed)
    try:
        model = models.build(name, num_classes=classes, **_input_size(name, inputs))
        with torch.no_grad(), evaluation_mode(model):
            logits = main_output(model(inputs))
    except UNFIT as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--model {name} does not take {loaded.label}, inputs of {shape} ({reason})"
        ) from error
    _check_restorable(name, model)
    objective = objective_of(loaded.train.targets)
    wanted: tuple[int, ...] = (len(inputs), classes)
    if objective is SEGMENTATION:
        wanted += tuple(targets.shape[1:])
    if tuple(logits.shape) != wanted:
        kind = "each pixel" if objective is SEGMENTATION else "each sample as a whole"
        raise InputError(f"--model {name} does not fit {loaded.label}, which labels {kind}")
    return model


def _check_restorable(name: str, model: nn.Module) -> None:
    """Raise ``InputError`` for the few networks whose tensors alone do not restore them."""
    try:
        model.load_state_dict(dict(model.state_dict()))
    except ValueError as error:
        raise InputError(
            f"--model {name}: its tensors alone do not restore it ({error})"
        ) from error


def _input_size(name: str, inputs: Tensor) -> dict[str, int]:
    """Settings of the suite's own networks, which take inputs of any size."""
    if name == "mlp_gsc":
        return {"in_features": inputs[0].numel()}
    return {"in_channels": inputs.shape[1]} if name in MODELS else {}


def load_start(
    model: nn.Module, settings: RunSettings, state: Mapping[str, Tensor] | None
) -> tuple[str, list[str]]:
    """Give a network the weights that the settings ask for.

    Parameters
    ----------
    model : Module
        With random weights.
    settings : RunSettings
    state : mapping of str to Tensor, optional
        What the checkpoint of the settings holds.

    Returns
    -------
    (str, list of str)
        What the weights are called in results, and the tensors that remain random.

    Raises
    ------
    InputError
        If the weights do not fit or cannot be had.
    """
    if state is not None and settings.model_path is not None:
        return settings.model_path.name, load_weights(model, state, str(settings.model_path))
    if settings.model_rand_int or settings.model in MODELS:
        return "random weights", []
    path = settings.data_path
    pretrained = imagenet_weights(settings.model, path.parent if path.is_file() else path)
    source = f"torchvision's weights of {settings.model}"
    return source, load_weights(model, pretrained, source)
