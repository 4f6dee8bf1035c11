"""The settings of `ecqx search`. Imports no torch, so that checking them takes no time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ecqx.errors import InputError, input_errors
from ecqx.experiment.settings import MIN_DELTA, parsed_bits, quantized
from ecqx.training.settings import FitSettings

# Methods to choose from (`ecqx.methods.registry`), and those whose bits are a setting.
METHODS = ("ECQ", "ECQx", "EC2T", "EC2Tx", "FantastIC4", "FantastIC4x")
WITH_BITS = ("ECQ", "ECQx")
# What a search may be continued with other values of.
BUDGET = ("trials", "minutes", "processes")
_LISTS = ("methods", "bits", "lam", "lr", "bits_of", "exclude", "include")


@dataclass(frozen=True)
class SearchSettings:
    """What a search may choose from, what it must keep, and what it may cost.

    A range is (lowest, highest); both may be equal. ``InputError`` for the first setting that is
    out of range.

    Attributes
    ----------
    max_drop : float
        Points of validation accuracy that a file may lose against full precision: the upper bound
        of the 95 % interval of the loss must not be larger.
    trials : int
        Trials of the whole search, earlier ones of the same folder included.
    minutes : float, optional
        Time for the trials of this call; the one that is running then is continued by the next.
    processes : int
        Trials at the same time. The order in which they end decides what is tried next: only a
        search of one process gives the same result again.
    methods : tuple of str
        Names of `ecqx.methods.registry`: entropy-constrained methods.
    bits, lam, lr : (low, high)
        Bit width of ECQ and ECQx, Λ, and learning rate of Adam in quantized training.
    bits_of : tuple of str
        Mixed precision: ``PART`` for a bit width of its own to search, ``PART=BITS`` for a given
        one. `ecqx.assignment.mixed_precision` says what a part is.
    p : float
        Strength of the relevance, in [0, 1].
    exclude, include : tuple of str
        As in `ecqx.quantizers.settings.QuantizerSettings`.
    pretrain_epochs, pretrain_lr
        Of the training in full precision before the first trial.
    epochs
        Of each quantized training.
    batch_size, max_batches
        Of both.
    seed : int
        Of the search, of training and of random weights.
    """

    max_drop: float = 0.5
    trials: int = 20
    minutes: float | None = None
    processes: int = 1
    methods: tuple[str, ...] = ("ECQ", "ECQx", "EC2T", "FantastIC4")
    bits: tuple[int, int] = (2, 5)
    lam: tuple[float, float] = (0.01, 1.0)
    lr: tuple[float, float] = (1e-4, 3e-3)
    bits_of: tuple[str, ...] = ()
    p: float = 0.1
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    epochs: int = 10
    pretrain_epochs: int = 0
    pretrain_lr: float = 1e-3
    batch_size: int = 64
    max_batches: int | None = None
    seed: int = 808

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_numbers()
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            given = repr(unknown[0]) if unknown else "none"
            raise InputError(f"methods must be some of {', '.join(METHODS)}, not {given}")
        if self._parts and not set(self.methods) & set(WITH_BITS):
            raise InputError(f"bits_of is for {' and '.join(WITH_BITS)}, which are not searched")
        with input_errors(""):
            _ = self.training(self.lr[0])

    def _check_numbers(self) -> None:
        if not 0 <= self.max_drop < math.inf:
            raise InputError(f"max_drop must be a number of points, at least 0: {self.max_drop}")
        for name in ("trials", "processes", "epochs"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} must be a whole number above 0, not {value!r}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"minutes must be a number above 0, not {self.minutes!r}")
        for name, least, most in (("bits", 2, 8), ("lam", 0, math.inf), ("lr", 0, math.inf)):
            ends = getattr(self, name)
            if len(ends) != 2 or not least <= ends[0] <= ends[1] <= most or not ends[0]:
                words = "above 0" if name != "bits" else "from 2 to 8"
                raise InputError(f"{name} must be a range (low, high) of numbers {words}: {ends}")
        if not all(type(width) is int for width in self.bits):
            raise InputError(f"bits must be whole numbers, not {self.bits}")
        if not 0 <= self.p <= 1:
            raise InputError(f"p must lie in [0, 1], not {self.p}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be a whole number from 0 to 2^32 - 1, not {self.seed!r}")

    @property
    def _parts(self) -> dict[str, int | None]:
        return parsed_bits(self.bits_of)

    @property
    def searched_parts(self) -> list[str]:
        """The parts of `bits_of` whose bit width is searched."""
        return [part for part, width in self._parts.items() if width is None]

    def bits_by_part(self, bits: int, searched: Mapping[str, int]) -> int | dict[str, int]:
        """The bits of all weights, with those of the parts of `bits_of`, given or searched."""
        widths = {part: width or searched.get(part, bits) for part, width in self._parts.items()}
        return {"*": bits} | widths if widths else bits

    @property
    def pretraining(self) -> FitSettings:
        """Settings of the training in full precision."""
        return FitSettings(
            epochs=self.pretrain_epochs,
            lr=self.pretrain_lr,
            batch_size=self.batch_size,
            max_batches=self.max_batches,
            min_delta=MIN_DELTA,
        )

    def training(self, lr: float) -> FitSettings:
        """Settings of a trial's quantized training, those of `ecqx run`."""
        return quantized(replace(self.pretraining, lr=lr), self.epochs)

    @property
    def lasting(self) -> dict[str, Any]:
        """The settings that a continued search must share, as plain values of JSON."""
        known = {name: value for name, value in asdict(self).items() if name not in BUDGET}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}
