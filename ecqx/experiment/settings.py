"""The settings of `ecqx run`. Imports no torch, so that checking them takes no time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ecqx.errors import InputError, input_errors
from ecqx.experiment.tracking import TRACKERS
from ecqx.training.settings import FitSettings

DATASETS = ("cifar10", "cifar100", "voc", "folder", "digits", "speech_commands")
DEVICES = ("auto", "cpu", "cuda")
# Names of `ecqx.methods.registry`, with the bit width where it is no setting.
QUANTIZERS = {"ECQ": None, "EC2T": 2, "FantastIC4": 4}
# Settings of the quantizer and of relevance without an option: this suite's defaults, or what the
# published code has in place of them (docs/deviations.md).
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "suite": ({}, {}),
    "published": ({"gradient": "published", "beta": "published"}, {"additions": "whole"}),
}
# Published, for the parameters that are not quantized.
WEIGHT_DECAY = 5e-6
# Published: stop when accuracy has not risen by this much for this many epochs. Here it is accuracy
# on the validation split, not the test split, which must not choose anything.
PATIENCE, MIN_DELTA = 4, 0.001
# Settings that do not change a result: places, trackers, verbosity. Weights and data are recorded
# by other names.
_LEFT_OUT = (
    *("data_path", "results", "workers", "verbose", "model_path"),
    "bits_of",  # part of `RunSettings.bits`
    *("tracker", "wandb", "wandb_key", "wandb_run_name"),
)


@dataclass(frozen=True)
class RunSettings:
    """Settings of one experiment; names and defaults are those of the published ``run.py``.

    The command checks ranges and choices, and ``ecqx run --help`` lists them. ``bitwidth`` is that
    of ECQ, `bits` that of any quantizer. ``InputError`` for settings that do not fit together.
    """

    batch_size: int = 64
    epochs: int = 10
    pretrain_epochs: int = 0
    max_batches: int | None = None
    lr: float = 1e-3
    model: str = "resnet20"
    model_path: Path | None = None
    model_rand_int: bool = False
    dataset: str = "cifar10"
    data_path: Path = Path("../data")
    results: Path = Path("./results")
    workers: int = 4
    tracker: tuple[str, ...] = ()
    wandb: bool = False
    wandb_key: str = field(default="", repr=False)
    wandb_run_name: str = "ECQx_NNCodec"
    verbose: bool = False
    preset: str = "suite"
    quantizer: str = "ECQ"
    bitwidth: int = 4
    bits_of: tuple[str, ...] = ()
    lam: float = 0.05
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    lrp: bool = False
    lrp_output: str = "output"
    lrp_composite: str = "epsilon_plus_flat_bn_pass"
    lrp_w_rule: str = "epsilon"
    canonizer: str = "resnet"
    p: float = 0.1
    alpha: float = 0.1
    seed: int = 808
    device: str = "auto"
    image_size: int | None = None

    def __post_init__(self) -> None:
        with input_errors("--"):
            _ = self.training
        if self.quantizer != "ECQ" and self.bits_of:
            raise InputError(f"--bits_of is for ECQ; the bits of {self.quantizer} are no setting")
        _ = self.bits
        if self.model_path is not None and self.model_rand_int:
            raise InputError(
                "--model_path and --model_rand_int: give one, a checkpoint or random weights"
            )

    @property
    def training(self) -> FitSettings:
        """Settings of the quantized training."""
        return quantized(self.pretraining, self.epochs)

    @property
    def pretraining(self) -> FitSettings:
        """Settings of the training in full precision before it."""
        return FitSettings(
            epochs=self.pretrain_epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            max_batches=self.max_batches,
            min_delta=MIN_DELTA,
        )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers to use, each once."""
        asked = (*self.tracker, "wandb" if self.wandb else "")
        return tuple(name for name in TRACKERS if name in asked)

    @property
    def method(self) -> str:
        """Name in `ecqx.methods.registry`: with relevance an x is appended, ``ECQx``."""
        return f"{self.quantizer}x" if self.lrp else self.quantizer

    @property
    def bits(self) -> int | dict[str, int]:
        """Bits per weight, by parts of names where some have their own."""
        return bits_by_part(QUANTIZERS[self.quantizer] or self.bitwidth, self.bits_of)

    @property
    def name(self) -> str:
        """Name of the written files, without their suffix."""
        relevance = "_lrp" if self.lrp else ""
        quantizer = f"{self.bitwidth}bit" if self.quantizer == "ECQ" else self.quantizer
        quantizer = "_".join((quantizer, *self.bits_of))
        preset = "" if self.preset == "suite" else f"_{self.preset}"
        return f"{self.model}_{self.dataset}_{quantizer}_lam{self.lam:g}{relevance}{preset}"

    @property
    def names(self) -> dict[str, str]:
        """What a file's metadata say of its making."""
        return {"model": self.model, "dataset": self.dataset}

    @property
    def model_file(self) -> Path:
        """File for the quantized model."""
        return self.results / f"{self.name}.ecqx"

    @property
    def record_file(self) -> Path:
        """File for the record of the result."""
        return self.results / f"{self.name}.json"

    @property
    def result_settings(self) -> dict[str, Any]:
        """The settings that a result depends on, as plain values; weights and data not included."""
        found = {name: value for name, value in asdict(self).items() if name not in _LEFT_OUT}
        lists = {"exclude": list(self.exclude), "include": list(self.include)}
        return found | lists | {"bitwidth": self.bits}


def quantized(fit: FitSettings, epochs: int) -> FitSettings:
    """Settings of a quantized training, from those of the one in full precision."""
    return replace(fit, epochs=epochs, weight_decay=WEIGHT_DECAY, patience=PATIENCE)


def bits_by_part(bits: int, bits_of: Sequence[str]) -> int | dict[str, int]:
    """The bits of all weights, by parts of names where ``PART=BITS`` are given."""
    own = {}
    for part, width in parsed_bits(bits_of).items():
        if width is None:
            raise InputError(f"--bits_of: {part} has no bits, {part}=BITS")
        own[part] = width
    return {"*": bits} | own if own else bits


def parsed_bits(bits_of: Sequence[str]) -> dict[str, int | None]:
    """Bit widths by parts of names, from ``PART=BITS``; None for a ``PART`` alone."""
    found: dict[str, int | None] = {}
    for text in bits_of:
        parts = re.fullmatch(r"([\w.]+)(?:=([2-8]))?", text)
        if parts is None:
            raise InputError(
                f"--bits_of: {text!r} is not PART=BITS, a part of the names of weights and its "
                "bits, 2 to 8"
            )
        if parts[1] in found:
            raise InputError(f"--bits_of: {parts[1]} is given twice")
        found[parts[1]] = None if parts[2] is None else int(parts[2])
    return found
