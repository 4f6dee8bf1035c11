"""The settings of `ecqx run`. Imports no torch: settings are checked in no time."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecqx.errors import InputError, input_errors
from ecqx.experiment.tracking import TRACKERS
from ecqx.training.settings import FitSettings

DATASETS = ("cifar10", "cifar100", "voc", "folder", "digits", "speech_commands")
DEVICES = ("auto", "cpu", "cuda")
# Those of ecqx.methods.family, which imports torch, and the bit width of those that have one of
# their own.
QUANTIZERS = {"ECQ": None, "EC2T": 2, "FantastIC4": 4}
# Parameters with this in their name stay as they are (published).
EXCLUDED = ("downsample", "aux_classifier")
# Published, for the parameters that are not quantized.
WEIGHT_DECAY = 5e-6
# Published: end when accuracy has not risen by so much for so many epochs. There it is accuracy on
# the test split, here on the validation split: the test split must not choose anything.
PATIENCE, MIN_DELTA = 4, 0.001

_LARGE = sys.float_info.max
_RANGES: dict[str, tuple[float, float]] = {
    # BatchNorm cannot be trained on one sample.
    "batch_size": (2, _LARGE),
    "pretrain_epochs": (0, _LARGE),
    "workers": (0, _LARGE),
    "bitwidth": (2, 8),
    "lam": (0, _LARGE),
    "p": (0, 1),
    "seed": (0, 2**32 - 1),
    "image_size": (1, 4096),
}
_OPTIONS = {"lam": "Lambda"}


@dataclass(frozen=True)
class RunSettings:
    """Settings of one experiment; names and defaults are those of the published ``run.py``.

    Attributes
    ----------
    batch_size : int
    epochs, pretrain_epochs : int
        Of quantized training, and of training in full precision before it.
    max_batches : int, optional
        Batches per epoch at most.
    lr : float
        Adam's learning rate, of both trainings.
    model : str
        For `ecqx.models.build`.
    model_path : Path, optional
        Checkpoint to start from, in any form that `ecqx.coding.checkpoint.read_state` knows.
    model_rand_int : bool
        Start from random weights where torchvision has pre-trained ones.
    dataset : str
        One of `DATASETS`.
    data_path : Path
        Folder that holds the data set or that it is downloaded to; for ``folder`` the image folder
        itself, or an archive of it.
    results : Path
        Folder for what is written.
    workers : int
        Processes that compute the features of ``speech_commands``; all else is held in memory.
    tracker : tuple of str
        Of `ecqx.experiment.tracking.TRACKERS`: where the course of the training is sent.
    wandb : bool
        Short for the tracker ``wandb``.
    wandb_key, wandb_run_name : str
    verbose : bool
        Report every epoch.
    quantizer : str
        One of `QUANTIZERS`.
    bitwidth : int
        2 to 8; of ECQ, the others have widths of their own.
    lam : float
        Λ, the entropy constraint.
    lrp : bool
        With relevance: ECQx instead of ECQ.
    lrp_output, lrp_composite, lrp_w_rule, canonizer : str
        See `ecqx.weight_relevance`.
    p : float
        In [0, 1], see `ecqx.ECQx`.
    alpha : float
        In [0, 1), see `ecqx.LRP`.
    seed : int
        Of random weights, the order of the samples and dropout. The splits do not depend on it.
    device : {"auto", "cpu", "cuda"}
    image_size : int, optional
        Side of the images of ``voc`` and ``folder`` in pixels.

    Raises
    ------
    InputError
        For the first setting that is out of range.
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
    quantizer: str = "ECQ"
    bitwidth: int = 4
    lam: float = 0.05
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
        """Check all that can be checked without torch."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                right = f"at least {low}" if high == _LARGE else f"{low} to {high}"
                option = _OPTIONS.get(name, name)
                raise InputError(f"--{option}: {value}, but it must be a number, {right}")
        for name, choices in (
            ("dataset", DATASETS),
            ("device", DEVICES),
            ("quantizer", QUANTIZERS),
        ):
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"--{name}: {value!r}, but there are {', '.join(choices)}")
        for name in self.tracker:
            if name not in TRACKERS:
                raise InputError(f"--tracker: {name!r}, but there are {', '.join(TRACKERS)}")
        with input_errors("--"):
            _ = self.training
        if self.model_path is not None and self.model_rand_int:
            raise InputError(
                "--model_path and --model_rand_int: give one, a checkpoint or random weights"
            )

    @property
    def training(self) -> FitSettings:
        """Of the quantized training."""
        return replace(
            self.pretraining, epochs=self.epochs, weight_decay=WEIGHT_DECAY, patience=PATIENCE
        )

    @property
    def pretraining(self) -> FitSettings:
        """Of the training in full precision."""
        return FitSettings(
            epochs=self.pretrain_epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            max_batches=self.max_batches,
            min_delta=MIN_DELTA,
        )

    @property
    def trackers(self) -> tuple[str, ...]:
        """Each tracker that is asked for, once."""
        asked = {*self.tracker, *(["wandb"] if self.wandb else [])}
        return tuple(name for name in TRACKERS if name in asked)

    @property
    def method(self) -> str:
        """The quantizer, with an x behind it if there is relevance: ``ECQ``, ``ECQx``."""
        return f"{self.quantizer}x" if self.lrp else self.quantizer

    @property
    def bits(self) -> int:
        """Bits per weight."""
        return QUANTIZERS[self.quantizer] or self.bitwidth

    @property
    def name(self) -> str:
        """Of the files that are written, without their ending."""
        relevance = "_lrp" if self.lrp else ""
        quantizer = f"{self.bitwidth}bit" if self.quantizer == "ECQ" else self.quantizer
        return f"{self.model}_{self.dataset}_{quantizer}{relevance}"
