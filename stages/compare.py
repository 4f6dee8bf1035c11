"""The comparison with what a user would pick instead: ``python -m stages.compare SUITE``.

Every method starts from the same checkpoints, is trained on the same data for as many epochs, and
ends in a file; every number is that of the model decoded from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ecqx.coding.tensor_files import read_tensors
from ecqx.data.tensors import TensorData
from ecqx.files import link_or_copy, write_text
from ecqx.methods import Method
from ecqx.training.evaluation import scores
from ecqx.training.objectives import objective_of
from ecqx.training.settings import FitSettings
from ecqx.training.step_cost import step_cost
from ecqx.training.trainer import Trainer
from stages import paths, settings
from stages.command import run_command_line, suite_of
from stages.comparison_settings import ComparisonTask, trials_of
from stages.methods import bits_of, method_of
from stages.parallel import checksum, key_of, progress_folder, run_all
from stages.records import about, start_of
from stages.settings import Suite
from stages.tasks import device, load_data, network, training_inputs

RECORDS, EPOCH = "records.json", "epoch.pt"
# What a file depends on beside the training, and the packages that write it.
CODE = (
    *(
        "ecqx/methods",
        "ecqx/coding/bitstream.py",
        "ecqx/assignment/codebooks.py",
        "ecqx/coding/container.py",
    ),
    *("ecqx/training/step_cost.py", "ecqx/coding/entropy_coder.py", "ecqx/coding/tensor_coding.py"),
)
PACKAGES = ("nncodec", "safetensors", "torchao", "zstandard")


@dataclass(frozen=True)
class Trial:
    """A method at one setting; ``place`` is its place among the trials of its task."""

    place: int
    name: str
    method: Method
    setting: dict[str, Any]
    variant: str | None
    run_id: str


@dataclass(frozen=True)
class Job:
    """One training, with the trials that are files of its result.

    Methods that compress after training share one in full precision.
    """

    suite: str
    wanted: Suite
    task: str
    seed: int
    fit: FitSettings
    trials: tuple[Trial, ...]
    key: str

    @property
    def is_trained(self) -> bool:
        """Whether a method constrains the weights in training."""
        return any(trial.method.is_trained for trial in self.trials)


def main(arguments: Sequence[str]) -> int:
    """Write compared/SUITE/RUN_ID.* and metrics.json; an empty list where nothing is compared."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    jobs = [
        job
        for task in (wanted.comparison.tasks if wanted.comparison else ())
        for seed in wanted.seeds
        for job in _jobs(suite, wanted, task, seed)
    ]
    longest_first = sorted(jobs, key=_expected_cost, reverse=True)
    folders = dict(
        zip(
            (job.key for job in longest_first),
            run_all(compare, longest_first, "compare"),
            strict=True,
        )
    )
    _collect(suite, wanted, jobs, folders)
    return 0


def _expected_cost(job: Job) -> tuple[bool, int]:
    """Long trainings come first, so that no process waits long for the last one."""
    relevant = any(trial.name.endswith("x") for trial in job.trials)
    return job.wanted.tasks[job.task].model["name"] != "mlp_gsc", relevant + len(job.trials)


def _jobs(suite: str, wanted: Suite, task: str, seed: int) -> Iterator[Job]:
    """All trainings of a task and seed, the one in full precision first."""
    assert wanted.comparison is not None
    compared = wanted.comparison.tasks[task]
    common = {
        **training_inputs(suite, wanted, task, quantized=True),
        "files": checksum(*map(Path, CODE)),
        "file packages": {name: version(name) for name in PACKAGES},
        "start": checksum(paths.checkpoint(suite, task, seed)),
        "task": wanted.tasks[task].model_dump(),
    }

    def job(fit: FitSettings, trials: Sequence[Trial]) -> Job:
        ids = [trial.run_id for trial in trials]
        key = key_of(trials=ids, fit=asdict(fit), seed=seed, common=common)
        return Job(suite, wanted, task, seed, fit, tuple(trials), key)

    fit = compared.fit.build()
    trials = list(_trials(wanted, task, seed, compared))
    yield job(fit, [trial for trial in trials if not trial.method.is_trained])
    for trial in trials:
        if trial.method.is_trained:
            lr = trial.setting.get("lr", fit.lr)
            yield job(replace(fit, lr=lr, selection=trial.method.selection), [trial])


def _trials(wanted: Suite, task: str, seed: int, compared: ComparisonTask) -> Iterator[Trial]:
    """Every setting of every method, in the order of the settings."""
    quantizer, relevance = wanted.quantize.quantizer, wanted.quantize.relevance.build()
    common = quantizer.model_dump() | {"sparsity_band": quantizer.band()}
    listed = [(name, s) for name, grid in compared.methods.items() for s in trials_of(grid)]
    for place, (name, setting) in enumerate(listed):
        own = {key: value for key, value in setting.items() if key != "lr"}
        method = method_of(name, own, common, relevance)
        run_id = key_of(
            comparison=name,
            method=asdict(cast(Any, method)),
            fit=compared.fit.model_dump() | {"lr": setting.get("lr", compared.fit.lr)},
            seed=seed,
            task=wanted.tasks[task].model_dump(),
            pretrain=wanted.pretrain[task].model_dump(),
            data=[data.model_dump() for data in wanted.data[wanted.tasks[task].data]],
        )
        variant = _variant(compared.methods[name], setting)
        yield Trial(place, name, method, setting, variant, run_id)


def _variant(grid: dict[str, Any], setting: dict[str, Any]) -> str | None:
    """What tells a method's trials apart, beside bits and Λ, in words."""
    tried = [key for key, values in grid.items() if isinstance(values, list)]
    words = [f"{key} {setting[key]:g}" for key in tried if key not in ("bits", "lam")]
    return ", ".join(words) or None


def compare(job: Job) -> Path:
    """Train, write every file, read it back and measure; returns the folder of the result."""
    folder = progress_folder("compare", job.key)
    if _is_finished(folder, job):
        return folder
    where = device(job.wanted)
    data = _to(load_data(job.suite, job.wanted.tasks[job.task]), where)
    trainer = _trainer(job, data, where)
    history = trainer.fit(resume=folder / EPOCH)
    shared = {
        "epochs": len(history),
        "steps": sum(epoch.steps for epoch in history),
        "cost": _cost(job, data, where),
    }
    reference = {} if job.is_trained else _reference(job, trainer.model, data, where)
    files = [shared | _file(job, trial, trainer, folder, data, where) for trial in job.trials]
    # The records are written last: where they stand, the files are whole.
    content = {"reference": reference, "files": files}
    write_text(folder / RECORDS, json.dumps(content))
    (folder / EPOCH).unlink(missing_ok=True)
    return folder


def _is_finished(folder: Path, job: Job) -> bool:
    """Whether a training's records and files are there; damaged ones are made again."""
    try:
        json.loads((folder / RECORDS).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return all(_path(folder, trial).is_file() for trial in job.trials)


def _path(folder: Path, trial: Trial) -> Path:
    return folder / f"{trial.run_id}.{trial.method.suffix}"


def _to(data: TensorData, where: torch.device) -> TensorData:
    return data.map(lambda split: split.to(where))


def _start(job: Job, where: torch.device) -> nn.Module:
    """The network that every method starts from."""
    model = network(job.wanted.tasks[job.task])
    state, _ = read_tensors(paths.checkpoint(job.suite, job.task, job.seed))
    model.load_state_dict(state)
    return model.to(where)


def _trainer(job: Job, data: TensorData, where: torch.device) -> Trainer:
    """The trainer of a job, or of its training without constraint."""
    model = _start(job, where)
    per_epoch = len(list(data.train.batches(job.fit.batch_size)))
    steps = job.fit.epochs * min(per_epoch, job.fit.max_batches or per_epoch)
    constraint = job.trials[0].method.constrain(model, steps) if job.is_trained else None
    return Trainer(model, data.train, data.validation, job.fit, job.seed, constraint)


def _cost(job: Job, data: TensorData, where: torch.device) -> float:
    """Work of one training step over that of a step in full precision."""
    if not job.is_trained:
        return 1.0
    batch = next(data.train.batches(job.fit.batch_size))
    plain = replace(job, trials=())
    return step_cost(_trainer(job, data, where), *batch) / step_cost(
        _trainer(plain, data, where), *batch
    )


def _reference(
    job: Job, model: nn.Module, data: TensorData, where: torch.device
) -> dict[str, float]:
    """Accuracies of the start, and of the start trained on in full precision."""
    metric = objective_of(data.test.targets).metric
    return {
        "accuracy_start": scores(_start(job, where), data.test)[metric],
        "accuracy_fp32": scores(model, data.test)[metric],
        "accuracy_fp32_validation": scores(model, data.validation)[metric],
    }


def _file(
    job: Job, trial: Trial, trainer: Trainer, folder: Path, data: TensorData, where: torch.device
) -> dict[str, Any]:
    """Write the file of a trial and measure the model that is decoded from it."""
    path = _path(folder, trial)
    trial.method.write(path, trainer.model, trainer.quantizer)
    model = network(job.wanted.tasks[job.task])
    model.load_state_dict(trial.method.read(path))
    model.to(where)
    validation, test = scores(model, data.validation), scores(model, data.test)
    metric, *others = objective_of(data.test.targets).metrics
    floats = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    size = path.stat().st_size
    return {
        "accuracy_validation": validation[metric],
        "accuracy": test[metric],
        "other_metrics": {name: test[name] for name in others},
        "sparsity": _sparsity(model),
        "parameters": floats,
        "bytes": size,
        "compression_ratio": 4 * floats / size,
    }


def _sparsity(model: nn.Module) -> float:
    """Share of zeros among the weights of more than one dimension."""
    weights: list[Tensor] = [p for p in model.parameters() if p.ndim > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def _collect(suite: str, wanted: Suite, jobs: Sequence[Job], folders: dict[str, Path]) -> None:
    """Put files and records into the stage's outputs."""
    out = paths.compared(suite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    contents = {job.key: json.loads((folders[job.key] / RECORDS).read_text()) for job in jobs}
    reference = {
        (job.task, job.seed): contents[job.key]["reference"] for job in jobs if not job.is_trained
    }
    described = {name: about(suite, wanted, name) for name in {job.task for job in jobs}}
    placed = []
    for job in jobs:
        for trial, measured in zip(job.trials, contents[job.key]["files"], strict=True):
            link_or_copy(_path(folders[job.key], trial), _path(out, trial))
            record = {
                **_settings(job, trial),
                **described[job.task],
                "start": start_of(suite, wanted, job.task, job.seed),
                **reference[job.task, job.seed],
                **measured,
            }
            place = (list(wanted.tasks).index(job.task), wanted.seeds.index(job.seed), trial.place)
            placed.append((place, record))
    records = [record for _, record in sorted(placed, key=lambda pair: pair[0])]
    write_text(paths.compared_metrics(suite), json.dumps(records, indent=1) + "\n")


def _settings(job: Job, trial: Trial) -> dict[str, Any]:
    """What a trial was told."""
    return {
        "run_id": trial.run_id,
        "task": job.task,
        "method": trial.name,
        "variant": trial.variant,
        "bits": bits_of(trial.name, trial.setting),
        "lam": trial.setting.get("lam"),
        "lr": job.fit.lr,
        "batch_size": job.fit.batch_size,
        "seed": job.seed,
    }


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
