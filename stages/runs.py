"""The runs of a suite's sweeps: which settings are trained, and what each is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from ecqx.methods import family
from ecqx.quantizers.base import Quantizer
from ecqx.relevance.settings import LRP
from ecqx.training.settings import FitSettings
from stages.parallel import key_of
from stages.settings import QuantizerSettings, Suite

Method = Literal["fp32", "ECQ", "ECQx"] | family.Trained
Band = tuple[float, float]


# Relevance of every batch as a whole. Only what differs from it is told, so that the names of runs
# are those of before these settings.
MEASURED_EVERYWHERE = {"every": 1, "samples": None}


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
    sweep: Literal["reference", "grid", "p", "ablation", "trained"]
    bits: int | None = None
    lam: float | None = None
    p: float | None = None
    sparsity_band: Band | None = None
    relevance: LRP | None = None
    quantizer: QuantizerSettings | None = None
    variant: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """All settings as plain values."""
        quantizer = None if self.quantizer is None else self.quantizer.model_dump()
        record = {**asdict(self), "quantizer": quantizer}
        if record["relevance"] is not None:
            told = record["relevance"].items() - MEASURED_EVERYWHERE.items()
            record["relevance"] = dict(sorted(told))
        return record

    def build_quantizer(self, model: Any) -> Quantizer:
        """Attach the run's quantizer to a model."""
        assert self.quantizer is not None
        assert self.bits is not None
        assert self.lam is not None
        return family.build(
            self.method,
            model,
            self.bits,
            self.relevance,
            lam=self.lam,
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
        data=[data.model_dump() for data in suite.data[suite.tasks[run.task].data]],
    )


def all_runs(suite: Suite) -> list[Run]:
    """Every run of a suite, in the order in which results list them."""
    return [run for name in suite.tasks for seed in suite.seeds for run in _of(suite, name, seed)]


def _of(suite: Suite, name: str, seed: int) -> Iterator[Run]:
    wanted, sweep = suite.quantize, suite.quantize.tasks[name]
    quantizer, relevance, fit = wanted.quantizer, wanted.relevance.build(), sweep.fit.build()
    yield Run(name, "fp32", seed, fit, "reference")
    ecqx = Run(
        *(name, "ECQx", seed, fit, "grid"),
        p=quantizer.p,
        sparsity_band=quantizer.band(),
        relevance=relevance,
        quantizer=quantizer,
    )
    for bits, lam in product(sweep.bits, sweep.lam):
        yield Run(name, "ECQ", seed, fit, "grid", bits, lam, quantizer=quantizer)
        yield replace(ecqx, bits=bits, lam=lam)
    if (swept := sweep.p_sweep) is not None:
        for p, lam in product(swept.p, swept.lam):
            yield replace(ecqx, sweep="p", bits=swept.bits, lam=lam, p=p, sparsity_band=(0.0, p))
    if (ablation := sweep.ablation) is not None:
        for variant, lam in product(ablation.variants, ablation.lam):
            changed, lrp = wanted.variant(ablation.variants[variant])
            yield replace(
                ecqx,
                sweep="ablation",
                bits=ablation.bits,
                lam=lam,
                p=changed.p,
                sparsity_band=changed.band(),
                relevance=lrp.build(),
                quantizer=changed,
                variant=variant,
            )
    for trained in sweep.trained:
        is_relevant = family.is_relevant(trained.method)
        first = ecqx if is_relevant else Run(name, "ECQ", seed, fit, "grid")
        for lam in trained.lam:
            yield replace(
                first,
                method=trained.method,
                sweep="trained",
                bits=family.fixed_bits(trained.method),
                lam=lam,
                quantizer=quantizer.model_copy(update={"lambda_max": trained.lambda_max}),
            )
