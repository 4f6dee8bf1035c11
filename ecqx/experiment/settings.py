"""The settings of `ecqx run`. Imports no torch, so that checking them takes no time."""

from __future__ import annotations

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
# Published, for the parameters that are not quantized.
WEIGHT_DECAY = 5e-6
# Published: stop when accuracy has not risen by this much for this many epochs. Here it is accuracy
# on the validation split, not the test split, which must not choose anything.
PATIENCE, MIN_DELTA = 4, 0.001
# Settings that do not change a result: places, trackers, verbosity. Weights and data are recorded
# by other names.
_LEFT_OUT = (
    *("data_path", "results", "workers", "verbose", "model_path"),
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
    quantizer: str = "ECQ"
    bitwidth: int = 4
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
        if self.model_path is not None and self.model_rand_int:
            raise InputError(
                "--model_path and --model_rand_int: give one, a checkpoint or random weights"
            )

    @property
    def training(self) -> FitSettings:
        """Settings of the quantized training."""
        return replace(
            self.pretraining, epochs=self.epochs, weight_decay=WEIGHT_DECAY, patience=PATIENCE
        )

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
    def bits(self) -> int:
        """Bits per weight."""
        return QUANTIZERS[self.quantizer] or self.bitwidth

    @property
    def name(self) -> str:
        """Name of the written files, without their suffix."""
        relevance = "_lrp" if self.lrp else ""
        quantizer = f"{self.bitwidth}bit" if self.quantizer == "ECQ" else self.quantizer
        return f"{self.model}_{self.dataset}_{quantizer}_lam{self.lam:g}{relevance}"

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
