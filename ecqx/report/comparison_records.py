"""The records of the comparison, typed: one file, and one trial of a method over its seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from ecqx.errors import InputError
from ecqx.report.records import GIVEN_START, SHOWN_CHECKSUM
from ecqx.report.sources import MISSING, Source
from ecqx.report.statistics import Estimate, estimate, paired_difference

CHAMPION = "ECQx"
FAMILY = ("ECQ", CHAMPION, "EC2T", "EC2Tx", "FantastIC4", "FantastIC4x")
# Methods that leave nothing to choose.
FIXED = ("fp16", "int8")
RIVALS = ("NNCodec uniform", "NNCodec dependent", "pruning", "LSQ", "torchao", *FIXED)
# In the order in which they are shown.
METHODS = (*FAMILY, *RIVALS)


@dataclass(frozen=True)
class Fairness:
    """What all methods are compared by on one task.

    Attributes
    ----------
    ratios : (float, float)
        Range of compression ratios that the area under the curve is taken over.
    trials : int
        Trials of every method that has something to choose.
    """

    ratios: tuple[float, float]
    trials: int

    def __post_init__(self) -> None:
        low, high = self.ratios
        if not 0 < low < high:
            raise InputError(f"ratios must be positive and ascending, not {low:g} and {high:g}")


@dataclass(frozen=True)
class Rules:
    """What all methods are compared by.

    Attributes
    ----------
    loss : float
        How far the validation accuracy of a file may lie below that of full precision, a fraction
        of one.
    tasks : dict of str to Fairness
        What holds for each task.
    """

    loss: float
    tasks: Mapping[str, Fairness]

    @property
    def loss_in_words(self) -> str:
        """The loss that is allowed, in points."""
        return f"{100 * self.loss:g} points"


@dataclass(frozen=True)
class File:
    """One encoded model: a trial of a method with one seed.

    Accuracies, which are what the task's metric gives, other metrics and sparsity are fractions
    of one; accuracies are those of the model decoded from the file.
    """

    run_id: str
    task: str
    method: str
    variant: str | None
    bits: int | None
    lam: float | None
    seed: int
    dataset: str
    metric: str
    start: str
    train_samples: int
    epochs: int
    steps: int
    batch_size: int
    accuracy_fp32: float
    accuracy_fp32_validation: float
    accuracy_validation: float
    accuracy: float
    other_metrics: Mapping[str, float]
    sparsity: float
    parameters: int
    bytes: int
    cost: float

    @property
    def ratio(self) -> float:
        """Size of all parameters in 32 bit over that of the file."""
        return 4 * self.parameters / self.bytes

    @property
    def drop(self) -> float:
        """Test accuracy that full precision has more."""
        return self.accuracy_fp32 - self.accuracy

    @property
    def words(self) -> str:
        """What tells the trial from the others of its method; a dash where nothing does."""
        bits = None if self.bits is None else f"{self.bits} bit"
        lam = None if self.lam is None else f"Λ {self.lam:g}"
        return ", ".join(part for part in (bits, lam, self.variant) if part) or MISSING


@dataclass(frozen=True)
class Trial:
    """The files of one trial, which differ in their seed only, by ascending seed."""

    files: tuple[File, ...]

    @property
    def first(self) -> File:
        """The file that stands for what all of them have in common."""
        return self.files[0]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.first.method

    def mean(self, name: str) -> Estimate:
        """Estimate of a numeric attribute of the files over seeds."""
        return estimate(getattr(file, name) for file in self.files)

    def drop(self) -> Estimate:
        """Full-precision accuracy minus accuracy, paired per seed; positive is a loss."""
        return paired_difference(
            {file.seed: file.accuracy_fp32 for file in self.files},
            {file.seed: file.accuracy for file in self.files},
        )

    def other(self, metric: str) -> Estimate | None:
        """Estimate of a further metric over seeds; None where the task has no such metric."""
        known = [f.other_metrics[metric] for f in self.files if metric in f.other_metrics]
        return estimate(known) if known else None


@dataclass(frozen=True)
class Measured:
    """All that was measured, with the words to label it.

    Attributes
    ----------
    suite : str
        Name of the suite.
    rules : Rules
    tasks : dict of str to str
        Titles of the tasks that have files, in the order in which they are shown.
    trials : tuple of Trial
        By task, method, bits, variant and Λ.
    """

    suite: str
    rules: Rules
    tasks: dict[str, str]
    trials: tuple[Trial, ...]

    @classmethod
    def collect(
        cls,
        suite: str,
        rules: Rules,
        tasks: Mapping[str, str],
        records: Iterable[Mapping[str, Any]],
    ) -> Measured:
        """Check, sort and group the records; a task without a title goes by its key.

        Raises
        ------
        InputError
            If there are no records, a record lacks a key, a task has no rules, a method is
            unknown, two records have the same trial and seed, or the files of a task cannot be
            compared: they differ in parameters or seeds, or a method has more or fewer trials than
            the rules say.
        """
        files = [_read(record) for record in records]
        if not files:
            raise InputError("there are no runs to compare")
        found = sorted({file.task for file in files})
        shown = {key: title for key, title in tasks.items() if key in found}
        shown.update({key: key for key in found if key not in shown})
        places = list(shown)
        files.sort(key=lambda file: (places.index(file.task), *_order(file)))
        for one, other in pairwise(files):
            if (one.task, _order(one)) == (other.task, _order(other)):
                raise InputError(
                    f"runs {one.run_id} and {other.run_id} are the same trial and seed"
                )
        measured = cls(suite, rules, shown, tuple(_grouped(files)))
        for task in shown:
            if task not in rules.tasks:
                raise InputError(f"task {task}: the rules name no ratios and trials for it")
            _check(measured, task)
        return measured

    def fairness(self, task: str) -> Fairness:
        """What a task's methods are compared by."""
        return self.rules.tasks[task]

    def ranges_in_words(self) -> str:
        """Over which compression ratios each task's area is taken."""
        ranges = {task: self.fairness(task).ratios for task in self.tasks}
        if len(set(ranges.values())) == 1:
            low, high = next(iter(ranges.values()))
            return f"from {low:g} to {high:g}"
        return "from " + ", ".join(
            f"{low:g} to {high:g} ({self.tasks[task]})" for task, (low, high) in ranges.items()
        )

    def trials_in_words(self) -> str:
        """How many trials each method had."""
        counts = {task: self.fairness(task).trials for task in self.tasks}
        if len(set(counts.values())) == 1:
            return f"{next(iter(counts.values()))} trials"
        words = (f"{count} ({self.tasks[task]})" for task, count in counts.items())
        return f"{', '.join(words)} trials"

    def of(self, task: str, method: str | None = None) -> list[Trial]:
        """Trials of a task, or of one of its methods."""
        return [
            trial
            for trial in self.trials
            if trial.first.task == task and method in (None, trial.method)
        ]

    def files(self, task: str, method: str | None = None) -> list[File]:
        """Files of these trials."""
        return [file for trial in self.of(task, method) for file in trial.files]

    def methods(self, task: str) -> list[str]:
        """Methods that a task was measured with, in the order in which they are shown."""
        return list(dict.fromkeys(trial.method for trial in self.of(task)))

    def seeds(self, task: str) -> list[int]:
        """Seeds that every trial of a task was run with."""
        return [file.seed for file in self.of(task)[0].files]

    def full_precision(self, task: str) -> Estimate:
        """Test accuracy in full precision over seeds."""
        return self.of(task)[0].mean("accuracy_fp32")

    def other_metrics(self) -> list[str]:
        """Names of the metrics that some task has beside its accuracy, by alphabet."""
        return sorted({name for t in self.trials for f in t.files for name in f.other_metrics})

    def spread_in_words(self) -> str:
        """What stands behind the numbers of a trial."""
        if all(len(trial.files) == 1 for trial in self.trials):
            return "One seed each, hence without deviation"
        return "Mean ± standard deviation over seeds"


def source_of(files: Sequence[File]) -> Source:
    """What files of one task were measured on; steps and epochs are those of trained ones."""
    trained = [file for file in files if file.steps > 0]
    return Source(
        dataset=frozenset(file.dataset for file in files),
        metric=frozenset(file.metric for file in files),
        start=frozenset(_start_in_words(file.start) for file in files),
        train_samples=frozenset(file.train_samples for file in files),
        seen=frozenset(min(f.steps * f.batch_size, f.train_samples) for f in trained),
        epochs=frozenset(file.epochs for file in trained),
        seeds=frozenset(file.seed for file in files),
    )


def _start_in_words(start: str) -> str:
    _, is_given, checksum = start.partition(GIVEN_START)
    return f"checkpoint {checksum[:SHOWN_CHECKSUM]}" if is_given else "random weights"


def _read(record: Mapping[str, Any]) -> File:
    name = record.get("run_id", "without run_id")
    for field in fields(File):
        if field.name not in record:
            raise InputError(f"run {name}: '{field.name}' is missing")
    if record["method"] not in METHODS:
        raise InputError(f"run {name}: method {record['method']!r} is none of {', '.join(METHODS)}")
    return File(**{field.name: record[field.name] for field in fields(File)})


def _order(file: File) -> tuple[Any, ...]:
    bits = -1 if file.bits is None else file.bits
    lam = -1.0 if file.lam is None else file.lam
    return (METHODS.index(file.method), bits, _natural(file.variant or ""), lam, file.seed)


def _natural(text: str) -> tuple[Any, ...]:
    """Key that sorts texts which differ in their numbers by these numbers."""
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    return (re.sub(number, "", text), [float(found) for found in re.findall(number, text)], text)


def _grouped(files: Iterable[File]) -> list[Trial]:
    groups: dict[tuple[Any, ...], list[File]] = {}
    for file in files:
        key = (file.task, file.method, file.bits, file.variant, file.lam)
        groups.setdefault(key, []).append(file)
    return [Trial(tuple(group)) for group in groups.values()]


def _check(measured: Measured, task: str) -> None:
    """Whether the files of a task can be compared."""
    sizes = sorted({file.parameters for file in measured.files(task)})
    if len(sizes) > 1:
        raise InputError(
            f"task {task}: files are of models with {sizes[0]} and {sizes[-1]} parameters, "
            "not of one model"
        )
    wanted = {file.seed for file in measured.files(task)}
    for trial in measured.of(task):
        missing = sorted(wanted - {file.seed for file in trial.files})
        if missing:
            words = f"{trial.method} ({trial.first.words})"
            raise InputError(f"task {task}: {words} has no run with seed {missing[0]}")
    for method in measured.methods(task):
        expected = 1 if method in FIXED else measured.fairness(task).trials
        count = len(measured.of(task, method))
        if count != expected:
            raise InputError(f"task {task}: {method} has {count} trials, not {expected}")
