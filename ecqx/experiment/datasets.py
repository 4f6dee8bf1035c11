"""The data sets of `ecqx run` by name. The module that reads one is imported when it is used."""

from __future__ import annotations

from ecqx.data.tensors import TensorData
from ecqx.errors import InputError
from ecqx.experiment.settings import RunSettings
from ecqx.models.networks import MODELS

# Optional extras with the packages that read a data set; "pipeline" for the others.
EXTRAS = {"speech_commands": "speech"}
# Sides of images that fit CIFAR's networks, ImageNet's, and (published) those for segmentation.
SMALL, LARGE, PIXEL_LABELS = 32, 224, 256


def load_data(settings: RunSettings) -> TensorData:
    """Load the data set of the settings; it is downloaded first if needed and possible.

    ``InputError`` if it is not available, or a package that reads it is missing.
    """
    try:
        return _load(settings)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(settings.dataset, "pipeline")
        raise InputError(
            f"--dataset {settings.dataset} needs {error.name}, which is not installed: "
            f"pip install 'ecqx[{extra}]'"
        ) from error


def _load(settings: RunSettings) -> TensorData:
    path = settings.data_path
    if settings.dataset == "digits":
        from ecqx.data import digit_images

        return digit_images.digits()
    if settings.dataset == "speech_commands":
        from ecqx.data import downloads, speech

        full = downloads.is_available(speech.SOURCES["full"], path)
        processes = max(1, settings.workers)
        return speech.speech_commands(path, "full" if full else "test", processes=processes)
    if settings.dataset == "voc":
        from ecqx.data import voc2012

        if _labels_pixels(settings.model):
            return voc2012.voc(path, "segmentation", settings.image_size or PIXEL_LABELS)
        return voc2012.voc(path, "classification", settings.image_size or LARGE)
    if settings.dataset == "folder":
        return _folder(settings)
    from ecqx.data import cifar_archives

    return cifar_archives.cifar(path, 100 if settings.dataset == "cifar100" else 10)


def _labels_pixels(name: str) -> bool:
    """Whether a network is one of torchvision's for segmentation."""
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models.segmentation)


def _folder(settings: RunSettings) -> TensorData:
    from ecqx.data import folder, voc2012

    own = settings.model in MODELS
    return folder.image_folder(
        settings.data_path,
        validation=None,
        size=settings.image_size or (SMALL if own else LARGE),
        mean=folder.MEAN if own else voc2012.MEAN,
        deviation=folder.DEVIATION if own else voc2012.DEVIATION,
    )
