"""The result of a search: the Pareto front, the chosen file, and its accuracy on test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecqx.assignment.mixed_precision import bits_in_words
from ecqx.experiment.search_settings import SearchSettings
from ecqx.report.statistics import pareto_front

# Columns of the front.
HEADERS = (
    *("", "trial", "method", "bits", "Λ", "lr"),
    *("bytes", "ratio", "accuracy", "loss", "at most", "sparsity"),
)


@dataclass(frozen=True)
class Candidate:
    """A finished trial.

    Attributes
    ----------
    number : int
        From 1.
    setting : mapping
        ``method``, ``lam``, ``lr`` and, where these are a setting, ``bits``.
    bytes, accuracy_validation, sparsity, epochs
        Fractions of one where they are no whole numbers.
    drop, bound : float
        Loss of validation accuracy against full precision, and its 95 % upper bound, in points.
    """

    number: int
    setting: Mapping[str, Any]
    bytes: int
    accuracy_validation: float
    drop: float
    bound: float
    sparsity: float
    epochs: int

    @property
    def words(self) -> str:
        """Its setting for a person."""
        setting = self.setting
        bits = f"{bits_in_words(setting['bits'])}, " if "bits" in setting else ""
        return f"{setting['method']}, {bits}Λ {setting['lam']:g}, lr {setting['lr']:g}"


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Attributes
    ----------
    settings : SearchSettings
    path : Path
        The chosen file.
    data : str
    parameters : int
        Elements of all floating-point tensors of the network.
    accuracy : float
        Of full precision on the validation split, a fraction of one.
    candidates : sequence of Candidate
        The finished trials by number.
    pruned : sequence of int
        Epochs of each trial that was given up.
    failures : sequence of str
        Why trials failed.
    test : mapping
        Of the chosen file on the test split: ``accuracy``, ``accuracy_full_precision``, ``drop``
        and ``bound``, as of `Candidate`.
    remarks : sequence of str
        What a person should look at again.
    """

    settings: SearchSettings
    path: Path
    data: str
    parameters: int
    accuracy: float
    candidates: Sequence[Candidate]
    pruned: Sequence[int] = ()
    failures: Sequence[str] = ()
    test: Mapping[str, float] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def is_within(self) -> bool:
        """Whether the chosen file loses no more than allowed."""
        return self.chosen.bound <= self.settings.max_drop

    @property
    def chosen(self) -> Candidate:
        """The smallest file that loses no more than allowed, or the one with the smallest bound."""
        allowed = self.settings.max_drop
        within = [one for one in self.candidates if one.bound <= allowed]
        if within:
            return min(within, key=lambda one: (one.bytes, one.bound, one.number))
        return min(self.candidates, key=lambda one: (one.bound, one.bytes, one.number))

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other one beats in size and accuracy, the smallest first."""
        points = [(float(one.bytes), one.accuracy_validation) for one in self.candidates]
        return [self.candidates[i] for i in pareto_front(points)]

    def file(self, one: Candidate) -> Path:
        """The file of a candidate."""
        return file_of_trial(self.path.parent, one.number)

    @property
    def record(self) -> dict[str, Any]:
        """The result as plain values, without what depends on place or time."""
        return {
            "settings": self.settings.lasting,
            "data": self.data,
            "parameters": self.parameters,
            "accuracy_validation_full_precision": self.accuracy,
            "file": self.path.name,
            "chosen": self.chosen.number,
            "within_max_drop": self.is_within,
            "test": dict(self.test),
            "front": [one.number for one in self.front],
            "trials": [asdict(one) for one in self.candidates],
            "pruned_epochs": list(self.pruned),
            "failures": list(self.failures),
            "remarks": list(self.remarks),
        }

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The front and the chosen file, which is marked, as a table with `HEADERS`."""
        shown = [one for one in self.candidates if one in self.front or one is self.chosen]
        return [self._row(one) for one in sorted(shown, key=lambda one: one.bytes)]

    def _row(self, one: Candidate) -> tuple[str, ...]:
        setting = one.setting
        bits = bits_in_words(setting["bits"]).replace(" bit", "") if "bits" in setting else ""
        return (
            *("→" if one is self.chosen else "", str(one.number), setting["method"], bits),
            *(f"{setting['lam']:g}", f"{setting['lr']:g}", f"{one.bytes:,}"),
            *(f"{4 * self.parameters / one.bytes:.1f}", f"{one.accuracy_validation:.2%}"),
            *(f"{one.drop:.2f}", f"{one.bound:.2f}", f"{one.sparsity:.1%}"),
        )

    @property
    def about(self) -> list[tuple[str, str]]:
        """What stands under the table, by name."""
        test = self.test
        rows = [
            ("measured on", f"validation data of {self.data}, full precision {self.accuracy:.2%}"),
            ("chosen", self._choice()),
            (
                "test data",
                f"{test['accuracy']:.2%}, full precision {test['accuracy_full_precision']:.2%}; "
                f"{loss_in_words(test['drop'], test['bound'])} (95 %)",
            ),
            ("cost", self._cost()),
        ]
        if self.settings.processes > 1:
            processes = f"{self.settings.processes} processes: another search may find other files"
            rows.append(("not deterministic", processes))
        return rows

    def _choice(self) -> str:
        chosen, allowed = self.chosen, self.settings.max_drop
        if self.is_within:
            rule = f"the smallest file that loses at most {allowed:g} points"
        else:
            rule = f"no file loses at most {allowed:g} points; the one with the smallest bound"
        return (
            f"{rule}: {chosen.bytes:,} bytes, {loss_in_words(chosen.drop, chosen.bound)} (95 %), "
            f"{chosen.words}"
        )

    def _cost(self) -> str:
        finished, pruned = len(self.candidates), len(self.pruned)
        epochs = sum(one.epochs for one in self.candidates) + sum(self.pruned)
        parts = [f"{finished + pruned + len(self.failures)} trials"]
        parts += [f"{pruned} of them given up early"] if pruned else []
        parts += [f"{len(self.failures)} failed ({self.failures[0]})"] if self.failures else []
        return f"{', '.join(parts)}; {epochs} epochs"

    @property
    def summary(self) -> str:
        """The front as a table, and what was chosen."""
        from tabulate import tabulate

        aligned = tuple("left" if name in ("", "method") else "right" for name in HEADERS)
        front = tabulate(self.rows, HEADERS, disable_numparse=True, colalign=aligned)
        about = [*self.about, ("file", str(self.path))]
        return f"{front}\n\n{tabulate(about, tablefmt='plain', disable_numparse=True)}"


def file_of_trial(folder: Path, number: int) -> Path:
    """The file of a trial, in the folder of a search."""
    return folder / "trials" / str(number) / "network.ecqx"


def loss_in_words(drop: float, bound: float) -> str:
    """A loss of accuracy and its upper bound, in points; a negative loss is a gain."""
    if bound < 0:
        return f"gains {-drop:.2f} points, at least {-bound:.2f}"
    if drop < 0:
        return f"gains {-drop:.2f} points, loses at most {bound:.2f}"
    return f"loses {drop:.2f} points, at most {bound:.2f}"
