"""The network that an experiment starts from, with its weights, and whether it fits the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ecqx.coding.checkpoint import read_state
from ecqx.data.tensors import SPLITS, TensorData
from ecqx.errors import InputError, input_errors
from ecqx.experiment.datasets import load_data
from ecqx.experiment.settings import RunSettings
from ecqx.models.loading import load_weights
from ecqx.models.networks import MODELS, build, input_settings
from ecqx.models.weights import imagenet_weights
from ecqx.modules import copied, evaluation_mode, main_output
from ecqx.progress import announced
from ecqx.training.objectives import SEGMENTATION, check_fit, objective_of

Build = Callable[[], nn.Module]
# Name of the weights to start from where nothing was trained.
RANDOM = "random weights"
# Raised by networks for inputs that they do not support.
UNFIT = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError)


def check_model(name: str) -> None:
    """Raise ``InputError`` if there is no network of this name."""
    import torchvision

    if name not in MODELS and name not in torchvision.models.list_models():
        raise InputError(
            f"--model: {name!r}, but there are {', '.join(MODELS)} and torchvision's networks"
        )


def build_network(name: str, loaded: TensorData, seed: int) -> nn.Module:
    """Build a network for the data, with random weights; ``InputError`` if it does not fit them."""
    inputs, targets = next(loaded.train.batches(2))
    classes = len(loaded.classes)
    torch.manual_seed(seed)
    with taking(f"--model {name}", loaded):
        model = build(name, num_classes=classes, **input_settings(name, inputs.shape[1:]))
        with torch.no_grad(), evaluation_mode(model):
            logits = main_output(model(inputs))
    # Some networks of torchvision are more than their state_dict.
    with input_errors(f"--model {name}: its tensors alone do not restore it: "):
        model.load_state_dict(dict(model.state_dict()))
    objective = objective_of(loaded.train.targets)
    wanted: tuple[int, ...] = (len(inputs), classes)
    if objective is SEGMENTATION:
        wanted += tuple(targets.shape[1:])
    if tuple(logits.shape) != wanted:
        kind = "each pixel" if objective is SEGMENTATION else "each sample as a whole"
        raise InputError(
            f"--model {name} does not fit {loaded.label}, which labels {kind}: its logits have "
            f"shape {tuple(logits.shape)}, not {wanted}"
        )
    with input_errors(f"--model {name} does not fit {loaded.label}: "):
        check_fit(logits, targets, [getattr(loaded, split).targets for split in SPLITS])
    return model


@contextmanager
def taking(network: str, data: TensorData) -> Iterator[None]:
    """Turn what a network raises for inputs that it does not support into an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except UNFIT as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        inputs, _ = next(data.train.batches(1))
        shape = "×".join(map(str, inputs.shape[1:]))
        raise InputError(
            f"{network} does not take {data.label}, inputs of {shape} ({reason})"
        ) from error


def load_start(
    model: nn.Module, settings: RunSettings, state: Mapping[str, Tensor] | None
) -> tuple[str, list[str]]:
    """Load the weights to start from into a network with random weights.

    ``state`` is the content of the checkpoint that the settings name. Returns the name of the
    weights in results, and the tensors that remain random; ``InputError`` if the weights do not fit
    or are not available.
    """
    if state is not None and settings.model_path is not None:
        return settings.model_path.name, load_weights(model, state, str(settings.model_path))
    if settings.model_rand_int or settings.model in MODELS:
        return RANDOM, []
    path = settings.data_path
    pretrained = imagenet_weights(
        settings.model,
        path.parent if path.is_file() else path,
        otherwise="start from a checkpoint (--model_path) or random weights (--model_rand_int)",
    )
    source = f"torchvision's weights of {settings.model}"
    return source, load_weights(model, pretrained, source)


def as_if_trained(model: nn.Module, pretrain_epochs: int) -> nn.Module:
    """A copy whose layers of zeros, such as the head of a new ViT, are as if pre-trained."""
    trial = copied(model)
    if pretrain_epochs:
        for parameter in trial.parameters():
            if not parameter.any():
                nn.init.ones_(parameter)
    return trial


def start_of(settings: RunSettings, is_trained: bool) -> tuple[Build, TensorData]:
    """The network and the data that the options of `ecqx run` name, as a search takes them.

    ``InputError`` if they are not available, or the network is neither trained nor ``is_trained``
    by the search.
    """
    check_model(settings.model)
    state = None if settings.model_path is None else read_state(settings.model_path)
    data = load_data(settings)
    with announced("fitting network and data"):
        model = build_network(settings.model, data, settings.seed)
    start, still_random = load_start(model, settings, state)
    if not is_trained and (start == RANDOM or still_random):
        what = ", ".join(still_random) or settings.model
        raise InputError(
            f"{what} would start from random weights, and have no accuracy to keep; --model_path "
            f"names a checkpoint for {data.label}, --pretrain_epochs trains one"
        )
    return partial(copied, model), data
