"""Everything that an experiment needs, checked before hours of training."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.coding.bitstream import check_replaceable
from ecqx.coding.checkpoint import read_state
from ecqx.data.tensors import SPLITS, TensorData
from ecqx.errors import InputError, input_errors
from ecqx.experiment.datasets import load_data
from ecqx.experiment.remarks import remarks_before
from ecqx.experiment.replacing import check_replaceable_results
from ecqx.experiment.settings import PRESETS, RunSettings
from ecqx.experiment.start import UNFIT, as_if_trained, build_network, check_model, load_start
from ecqx.experiment.tracking import check_trackers
from ecqx.methods.ecq import EntropyConstrained
from ecqx.methods.registry import build_method, method_class
from ecqx.progress import announced
from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.parameters import UnusedNameWarning, used_parts
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP
from ecqx.training.device import find_device


@dataclass(frozen=True)
class Prepared:
    """An experiment that is ready to run: data, and model with the weights to start from.

    ``start`` is the name of these weights in results, ``remarks`` are warnings of one line each.
    """

    settings: RunSettings
    method: EntropyConstrained
    device: torch.device
    data: TensorData
    model: nn.Module
    start: str
    remarks: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes the experiment from others, as plain values for the record."""
        return {
            "settings": recorded_settings(self.settings, self.device),
            "start": self.start,
            "data": self.data.label,
            "samples": {split: len(getattr(self.data, split)) for split in SPLITS},
        }


def recorded_settings(settings: RunSettings, device: torch.device) -> dict[str, Any]:
    """The settings of a result, with the device that was found."""
    return settings.result_settings | {"device": device.type}


def prepare(settings: RunSettings) -> Prepared:
    """Check the settings, load data and weights, and check that they fit; quick checks first.

    Makes the folder of the results. ``InputError`` for the first thing that is wrong or missing.
    """
    with input_errors("--"):
        method = method_of(settings)
    device = find_device(settings.device)
    check_trackers(settings.trackers, settings.wandb_key)
    _check_writable(settings.model_file, settings.record_file)
    check_model(settings.model)
    check_replaceable_results(settings, {"settings": recorded_settings(settings, device)})
    state = None if settings.model_path is None else read_state(settings.model_path)
    data = load_data(settings)
    with announced("fitting network and data"):
        model = build_network(settings.model, data, settings.seed)
    start, still_random = load_start(model, settings, state)
    with input_errors("--"):
        for parts in ("exclude", "include"):
            used_parts(model, parts, getattr(settings, parts))
    # On a copy that is thrown away: weights that cannot be quantized are refused before the
    # pre-training. These methods do not use the number of steps.
    with input_errors(f"{settings.model_path or f'--model {settings.model}'}: "):
        quantizer = constrain(method, as_if_trained(model, settings.pretrain_epochs), steps=0)
    on_relevance: tuple[str, ...] = ()
    if method.relevance is not None:
        with announced("looking for rules of relevance"):
            batch = next(data.train.batches(2))
            on_relevance = check_relevance(model, batch, method.relevance, list(quantizer.weights))
    prepared = Prepared(
        settings,
        method,
        device,
        data.map(lambda split: split.to(device)),
        model.to(device),
        start,
        tuple(remarks_before(settings, data, still_random, on_relevance)),
    )
    check_replaceable_results(settings, prepared.identity)
    return prepared


def method_of(settings: RunSettings) -> EntropyConstrained:
    """The method of the settings; ``ValueError`` for a setting out of range."""
    # All settings are checked, those of relevance even without --lrp.
    of_quantizer, of_relevance = PRESETS[settings.preset]
    own = {
        **{"bits": settings.bits, "lam": settings.lam, "p": settings.p},
        **{"exclude": settings.exclude, "include": settings.include},
        **of_quantizer,
    }
    QuantizerSettings(**own)
    lrp = LRP(
        composite=settings.lrp_composite,
        canonizer=settings.canonizer,
        output=settings.lrp_output,  # type: ignore[arg-type]
        weight_rule=settings.lrp_w_rule,  # type: ignore[arg-type]
        alpha=settings.alpha,
        **of_relevance,
    )
    takes = method_class(settings.method).takes()
    given = {name: value for name, value in (own | asdict(lrp)).items() if name in takes}
    method = build_method(settings.method, given)
    assert isinstance(method, EntropyConstrained)
    return method


def constrain(method: EntropyConstrained, model: nn.Module, steps: int) -> Quantizer:
    """`Method.constrain`, without the warnings about names that `prepare` gives once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedNameWarning)
        return method.constrain(model, steps)


def check_relevance(
    model: nn.Module, batch: tuple[Tensor, Tensor], lrp: LRP, quantized: Sequence[str]
) -> tuple[str, ...]:
    """Measure relevance once on a few samples; returns `Attributor.remarks`.

    ``InputError`` if LRP has no rule for a quantized parameter, or no relevance reaches it.
    """
    # Imported late: the module imports zennit, which takes seconds.
    from ecqx.relevance.weights import Attributor

    attributor = Attributor(model, lrp)
    try:
        found = attributor(*batch)
    except UNFIT as error:
        raise InputError(f"--lrp: {error}; leave out --lrp (ECQ)") from error
    missing = [name for name in quantized if name not in found]
    if missing:
        why = attributor.without_relevance(missing)
        raise InputError(f"--lrp: {why}; leave out --lrp (ECQ)")
    return attributor.remarks


def _check_writable(*files: Path) -> None:
    """Make the folders of some files; ``InputError`` if one of the files cannot be written."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=file.parent).close()
        except OSError as error:
            raise InputError(
                f"--results: {file.parent} cannot be written to ({error.strerror}); name another "
                "folder"
            ) from error
        check_replaceable(file)


@contextmanager
def new_folders_removed(folder: Path) -> Iterator[None]:
    """If the block fails, remove ``folder`` and its parents that are new and still empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise
