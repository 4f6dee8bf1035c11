"""The measured runs of every method: one record a run, one setting for the runs of all seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.errors import InputError
from ecqx.report.contrasts import Network
from ecqx.report.statistics import Estimate, estimate, grouped

MISSING = "–"

# All methods in the order in which they are shown: the paper's, those with trained centroids,
# what a user would pick instead, and those without any setting.
PAPER_METHOD = "ECQx"
GRID_METHODS = ("ECQ", PAPER_METHOD)
TRAINED_METHODS = ("EC2T", "EC2Tx", "FantastIC4", "FantastIC4x")
FAMILY = (*GRID_METHODS, *TRAINED_METHODS)
FIXED = ("fp16", "int8")
METHODS = (*FAMILY, "NNCodec uniform", "NNCodec dependent", "pruning", "LSQ", "torchao", *FIXED)

GRID, P_SWEEP, ABLATION, TRAINED, COMPARISON = "grid", "p", "ablation", "trained", "comparison"
METHODS_OF_SWEEP = {
    GRID: GRID_METHODS,
    P_SWEEP: GRID_METHODS,
    ABLATION: GRID_METHODS,
    TRAINED: TRAINED_METHODS,
    COMPARISON: METHODS,
}

# Sparsity bands of ECQx (`ecqx.assign`): the published code's, and the paper's.
PUBLISHED_BAND, PAPER_BAND = "[−p, 0]", "[0, p]"

# The settings of quantizer, relevance and file that do not vary along bits, Λ and p.
CONFIGURATION = (
    *("sparsity_band", "alpha", "gradient", "composite", "canonizer", "weight_rule", "lrp_output"),
    *("relevance_of", "relevance_every", "relevance_samples", "pmf", "lambda_max", "floats"),
)
# How metrics.json names a given start: what the pretrain stage made "of" what.
GIVEN_START = " of "
SHOWN_CHECKSUM = 8
# Shares of test samples are equal but for the rounding of a mean.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Record:
    """One measured run, an entry of ``metrics.json``.

    Accuracies (values of the task's metric), other metrics and sparsity are fractions of one;
    ``accuracy`` and ``accuracy_validation`` are those of the model decoded from its file. What
    does not apply to a method is None. ``configuration`` holds the values of `CONFIGURATION`.
    ``network`` is the decoded model; ``reference`` its start, trained as long in full precision.
    """

    run_id: str
    task: str
    method: str
    sweep: str
    variant: str | None
    bits: int | None
    lam: float | None
    p: float | None
    batch_size: int
    seed: int
    epochs: int
    steps: int
    cost: float
    dataset: str
    model: str
    metric: str
    train_samples: int
    start: str
    accuracy_start: float
    accuracy_fp32: float
    accuracy_fp32_validation: float
    accuracy_validation: float
    accuracy: float
    other_metrics: Mapping[str, float]
    sparsity: float
    parameters: int
    bytes: int
    bytes_integers: int | None
    bytes_other: int | None
    compression_ratio: float
    entropy_bits_per_weight: float | None
    configuration: tuple[Any, ...]
    network: Network = field(compare=False, repr=False)
    reference: Network = field(compare=False, repr=False)

    @property
    def bytes_fp32(self) -> float:
        """Size of the same model with all floating-point values in 32 bit."""
        return self.bytes * self.compression_ratio

    @property
    def drop(self) -> float:
        """Full-precision accuracy minus accuracy; positive is a loss."""
        return self.accuracy_fp32 - self.accuracy

    @property
    def cost_of_every_step(self) -> float | None:
        """``cost``; None where relevance is of some batches only: it is counted on another one."""
        every = self.configuration[CONFIGURATION.index("relevance_every")]
        return self.cost if every in (None, 1) else None

    @property
    def samples_seen(self) -> int:
        """Upper bound of the distinct training samples that the run has seen."""
        return min(self.steps * self.batch_size, self.train_samples)

    @property
    def start_in_words(self) -> str:
        """What stage pretrain started from."""
        _, is_given, checksum = self.start.partition(GIVEN_START)
        return f"checkpoint {checksum[:SHOWN_CHECKSUM]}" if is_given else "random weights"

    @property
    def words(self) -> str:
        """What distinguishes the setting from others of its method; a dash where nothing does."""
        bits = None if self.bits is None else f"{self.bits} bit"
        lam = None if self.lam is None else f"Λ {self.lam:g}"
        return ", ".join(part for part in (bits, lam, self.variant) if part) or MISSING


@dataclass(frozen=True)
class Setting:
    """The records of one setting, one for each seed, by ascending seed.

    ``lam`` is NaN for methods without Λ, which only sweep "comparison" allows.
    """

    task: str
    sweep: str
    method: str
    bits: int | None
    variant: str | None
    p: float | None
    lam: float
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The record to read what all records share from."""
        return self.records[0]

    @property
    def band(self) -> str:
        """The sparsity band of ECQx in words; that of the published code where none is set."""
        found = self.first.configuration[CONFIGURATION.index("sparsity_band")]
        if found is None or found == (-(self.p or 0.0), 0.0):
            return PUBLISHED_BAND
        return PAPER_BAND if found == (0.0, self.p) else f"[{found[0]:g}, {found[1]:g}]"

    @property
    def lam_in_words(self) -> str | None:
        """Λ as tables show it; None where the method has none."""
        return None if math.isnan(self.lam) else f"{self.lam:g}"

    def mean(self, name: str) -> Estimate:
        """Estimate of a numeric attribute of the records over seeds; NaN where one lacks it."""
        values = [getattr(record, name) for record in self.records]
        return Estimate(math.nan) if None in values else estimate(values)

    def other(self, metric: str) -> Estimate | None:
        """Estimate of a further metric over seeds; None where the task has no such metric."""
        known = [r.other_metrics[metric] for r in self.records if metric in r.other_metrics]
        return estimate(known) if known else None


# Which test samples are classified correctly, shape (N,), by the names of `stages.correct`.
Correct = Mapping[str, NDArray[np.bool_]]


def read_records(
    entries: Iterable[Mapping[str, Any]], correct: Correct | None = None
) -> list[Record]:
    """Check and sort entries of ``metrics.json``; unknown sweeps and keys are ignored.

    Raises
    ------
    InputError
        If there are no runs, a key is missing, a method does not belong to its sweep, or two
        records share a setting and a seed.
    """
    known = (entry for entry in entries if entry.get("sweep", GRID) in METHODS_OF_SWEEP)
    read = sorted((_read(entry, correct or {}) for entry in known), key=_order)
    if not read:
        raise InputError("there are no runs to report on")
    for one, other in pairwise(read):
        if _order(one) == _order(other):
            raise InputError(f"runs {one.run_id} and {other.run_id} have the same setting and seed")
    return read


_MADE = ("configuration", "network", "reference")
_OWN = tuple(field.name for field in fields(Record) if field.name not in _MADE)


def _read(entry: Mapping[str, Any], correct: Correct) -> Record:
    name = entry.get("run_id", "without run_id")
    for key in (*_OWN, *CONFIGURATION):
        if key not in entry:
            raise InputError(f"run {name}: '{key}' is missing")
    sweep, method = entry["sweep"], entry["method"]
    if method not in METHODS_OF_SWEEP[sweep]:
        raise InputError(
            f"run {name}: method of sweep {sweep!r} must be one of "
            f"{', '.join(METHODS_OF_SWEEP[sweep])}, not {method!r}"
        )
    for key in ("bits", "lam"):
        if entry[key] is None and sweep != COMPARISON:
            raise InputError(f"run {name}: '{key}' must be a number in sweep {sweep!r}, not null")
    values = (entry[key] for key in CONFIGURATION)
    configuration = tuple(tuple(v) if isinstance(v, list) else v for v in values)
    own = {key: entry[key] for key in _OWN}
    networks = []
    for key, of in (("accuracy", name), ("accuracy_fp32", f"trained/{entry['seed']}")):
        bits = correct.get(f"{entry['task']}/{of}")
        if bits is not None and not math.isclose(bits.mean(), own[key], abs_tol=ROUNDING):
            raise InputError(
                f"run {entry['run_id']}: '{key}' is not that of correct.safetensors; both must be "
                "written by one run of stage evaluate"
            )
        networks.append(Network(own[key], bits))
    return Record(**own, configuration=configuration, network=networks[0], reference=networks[1])


def _order(record: Record) -> tuple[Any, ...]:
    """Sort key; variants that differ only in their numbers are sorted by these."""
    bits, p, lam = (-1.0 if v is None else v for v in (record.bits, record.p, record.lam))
    method, variant = METHODS.index(record.method), record.variant or ""
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    natural = (re.sub(number, "", variant), list(map(float, re.findall(number, variant))), variant)
    return (record.task, record.sweep, bits, method, natural, p, lam, record.seed)


def group_settings(records: Iterable[Record]) -> list[Setting]:
    """Settings in the order of their records, each with its records by ascending seed."""

    def key(r: Record) -> tuple[str, str, str, int | None, str | None, float | None, float]:
        lam = math.nan if r.lam is None else r.lam
        return (r.task, r.sweep, r.method, r.bits, r.variant, r.p, lam)

    return [Setting(*shared, tuple(own)) for shared, own in grouped(records, key).items()]
