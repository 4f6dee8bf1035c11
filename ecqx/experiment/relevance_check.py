"""Whether LRP can give each quantized weight a relevance, checked before training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ecqx.errors import InputError
from ecqx.experiment.start import UNFIT
from ecqx.relevance.settings import LRP

# Modules of torchvision.models whose additions are split for relevance, or which have none.
SPLIT = (
    *("resnet", "mobilenetv2", "mobilenetv3"),
    *("alexnet", "densenet", "googlenet", "inception", "shufflenetv2", "squeezenet", "vgg"),
    *("_utils", "segmentation._utils", "segmentation.deeplabv3", "segmentation.fcn"),
)


def check_relevance(
    model: nn.Module, batch: tuple[Tensor, Tensor], lrp: LRP, quantized: Sequence[str]
) -> None:
    """Measure relevance once on a few samples, before hours of training.

    Raises
    ------
    InputError
        If LRP has no rule for the layer of a quantized parameter, or no relevance reaches it.
    """
    # Imported late: both modules import zennit, which takes seconds.
    from ecqx.relevance.weights import Attributor, layers_without_rule

    missing = layers_without_rule(model, lrp.composite)
    _refuse("LRP has no rule for", [name for name in quantized if name in missing])
    try:
        found = Attributor(model, lrp)(*batch)
    except UNFIT as error:
        raise InputError(f"--lrp: {error}; leave out --lrp (ECQ)") from error
    _refuse("no relevance reaches", [name for name in quantized if name not in found])


def _refuse(reason: str, names: Sequence[str]) -> None:
    """Raise ``InputError`` if any parameter has this problem."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputError(f"--lrp: {reason} {names[0]}{more} of this model; leave out --lrp (ECQ)")


def has_unsplit_additions(model: nn.Module) -> bool:
    """Whether relevance grows at additions and products that no rule splits.

    Those of torchvision's ResNets and MobileNets, and of the suite's own networks, are split;
    networks that only chain layers or concatenate their outputs have none.
    """
    start = "torchvision.models."
    libraries = {type(module).__module__ for module in model.modules()}
    return any(
        library.startswith(start) and library.removeprefix(start) not in SPLIT
        for library in libraries
    )
