"""The runs of a suite's sweeps: which settings are trained, and what each is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ecqx.quantizer import ECQx
from ecqx.relevance import LRP
from ecqx.training import FitSettings
from stages.parallel import key_of
from stages.settings import QuantizerSettings, Suite

Method = Literal["fp32", "ECQ", "ECQx"]
Band = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """One training: a task, a method and its settings, a seed.

    ``fp32`` trains the starting checkpoint on in full precision, for the accuracy that every drop
    refers to. Settings that a method does not use are None.
    """

    task: str
    method: Method
    seed: int
    fit: FitSettings
    sweep: Literal["reference", "grid", "p"]
    bits: int | None = None
    lam: float | None = None
    p: float | None = None
    sparsity_band: Band | None = None
    relevance: LRP | None = None
    quantizer: QuantizerSettings | None = None

    @property
    def record(self) -> dict[str, Any]:
        """All settings as plain values."""
        quantizer = None if self.quantizer is None else self.quantizer.model_dump()
        return {**asdict(self), "quantizer": quantizer}

    def build_quantizer(self, model: Any) -> ECQx:
        """Attach the run's quantizer to a model."""
        assert self.quantizer is not None
        assert self.bits is not None
        assert self.lam is not None
        return ECQx(
            model,
            bits=self.bits,
            lam=self.lam,
            relevance=self.relevance,
            p=0.0 if self.p is None else self.p,
            sparsity_band=self.sparsity_band,
            gradient=self.quantizer.gradient,
            exclude=self.quantizer.exclude,
            pmf=self.quantizer.pmf,
            lambda_max=self.quantizer.lambda_max,
        )


def run_id(run: Run, suite: Suite) -> str:
    """Name of a run: a hash of its settings, its network's, its pre-training's and its data's."""
    return key_of(
        run=run.record,
        task=suite.tasks[run.task].model_dump(),
        pretrain=suite.pretrain[run.task].model_dump(),
        data=suite.data.model_dump(),
    )


def all_runs(suite: Suite) -> list[Run]:
    """Every run of a suite, in the order in which results list them."""
    return [run for name in suite.tasks for seed in suite.seeds for run in _of(suite, name, seed)]


def _of(suite: Suite, name: str, seed: int) -> Iterator[Run]:
    sweep, quantizer = suite.quantize.tasks[name], suite.quantize.quantizer
    relevance, fit = suite.quantize.relevance.build(), sweep.fit.build()
    yield Run(name, "fp32", seed, fit, "reference")
    band = quantizer.band() or (-quantizer.p, 0.0)
    for bits in sweep.bits:
        for lam in sweep.lam:
            yield Run(name, "ECQ", seed, fit, "grid", bits, lam, quantizer=quantizer)
            yield Run(
                *(name, "ECQx", seed, fit, "grid", bits, lam),
                *(quantizer.p, band, relevance, quantizer),
            )
    if sweep.p_sweep is not None:
        for p in sweep.p_sweep.p:
            for lam in sweep.p_sweep.lam:
                yield Run(
                    *(name, "ECQx", seed, fit, "p", sweep.p_sweep.bits, lam),
                    *(p, (0.0, p), relevance, quantizer),
                )
