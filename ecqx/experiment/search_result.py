"""The result of a search: the Pareto front, the chosen file, and its accuracy on test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecqx.assignment.mixed_precision import bits_in_words
from ecqx.experiment.search_settings import SearchSettings
from ecqx.report.statistics import pareto_front


@dataclass(frozen=True)
class Candidate:
    """A finished trial.

    Attributes
    ----------
    number : int
        Of the trial, from 1.
    setting : mapping
        ``method``, ``lam``, ``lr`` and, where these are a setting, ``bits``.
    bytes : int
    accuracy : float
        On the validation split, a fraction of one.
    drop, bound : float
        Loss of accuracy against full precision, and its 95 % upper bound, in points.
    sparsity : float
    epochs : int
    folder : Path
        Of the trial's file.
    """

    number: int
    setting: Mapping[str, Any]
    bytes: int
    accuracy: float
    drop: float
    bound: float
    sparsity: float
    epochs: int
    folder: Path

    @classmethod
    def of(cls, number: int, record: Mapping[str, Any], folder: Path) -> Candidate:
        """The candidate of a record of `ecqx.experiment.trial.Trial`."""
        numbers = {name: record[name] for name in ("setting", "bytes", "drop", "bound", "sparsity")}
        accuracy, epochs = record["accuracy_validation"], len(record["history"])
        return cls(number=number, accuracy=accuracy, epochs=epochs, folder=folder, **numbers)

    @property
    def words(self) -> str:
        """Its setting for a person."""
        setting = self.setting
        bits = f"{bits_in_words(setting['bits'])}, " if "bits" in setting else ""
        return f"{setting['method']}, {bits}Λ {setting['lam']:g}, lr {setting['lr']:g}"

    @property
    def record(self) -> dict[str, Any]:
        """Plain values."""
        names = ("number", "bytes", "accuracy", "drop", "bound", "sparsity", "epochs")
        numbers = {name: getattr(self, name) for name in names}
        numbers["accuracy_validation"] = numbers.pop("accuracy")
        return {"setting": dict(self.setting), **numbers}


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Attributes
    ----------
    settings : SearchSettings
    path : Path
        The chosen file.
    data : str
        Name of the data set.
    parameters : int
        Elements of all floating-point tensors of the network.
    accuracy : float
        Of full precision on the validation split, a fraction of one.
    candidates : sequence of Candidate
        The finished trials, in the order in which they were begun.
    pruned : sequence of int
        Epochs of each trial that was hopeless.
    failures : sequence of str
        Why trials failed.
    test : mapping
        Of the chosen file on the test split: ``accuracy``, ``accuracy_full_precision``, ``drop``
        and ``bound``, as of `Candidate`.
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

    @property
    def within(self) -> list[Candidate]:
        """The candidates that lose no more than allowed."""
        return [one for one in self.candidates if one.bound <= self.settings.max_drop]

    @property
    def chosen(self) -> Candidate:
        """The smallest of these; if there are none, the one with the smallest bound."""
        if self.within:
            return min(self.within, key=lambda one: (one.bytes, one.bound, one.number))
        return min(self.candidates, key=lambda one: (one.bound, one.bytes, one.number))

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other one beats in size and accuracy, the smallest first."""
        points = [(float(one.bytes), one.accuracy) for one in self.candidates]
        return [self.candidates[i] for i in pareto_front(points)]

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
            "within_max_drop": bool(self.within),
            "test": dict(self.test),
            "front": [one.number for one in self.front],
            "trials": [one.record for one in self.candidates],
            "pruned_epochs": list(self.pruned),
            "failures": list(self.failures),
        }

    @property
    def headers(self) -> tuple[str, ...]:
        """Of `rows`."""
        return (
            *("", "trial", "method", "bits", "Λ", "lr", "bytes", "ratio"),
            *("accuracy", "loss", "at most", "sparsity"),
        )

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The front as a table, the chosen file marked; losses in points."""
        return [self._row(one) for one in self.front]

    def _row(self, one: Candidate) -> tuple[str, ...]:
        setting = one.setting
        bits = bits_in_words(setting["bits"]).replace(" bit", "") if "bits" in setting else ""
        return (
            *("→" if one is self.chosen else "", str(one.number), setting["method"], bits),
            *(f"{setting['lam']:g}", f"{setting['lr']:g}", f"{one.bytes:,}"),
            *(f"{4 * self.parameters / one.bytes:.1f}", f"{one.accuracy:.2%}"),
            *(f"{one.drop:.2f}", f"{one.bound:.2f}", f"{one.sparsity:.1%}"),
        )

    @property
    def choice(self) -> str:
        """Which file was chosen, in one sentence."""
        chosen, allowed = self.chosen, self.settings.max_drop
        if self.within:
            return (
                f"the smallest file that loses at most {allowed:g} points (95 % upper bound "
                f"{chosen.bound:.2f}): {chosen.bytes:,} bytes, {chosen.words}"
            )
        return (
            f"no file loses at most {allowed:g} points; the smallest upper bound (95 %) is "
            f"{chosen.bound:.2f} points: {chosen.bytes:,} bytes, {chosen.words}"
        )

    @property
    def on_test_data(self) -> str:
        """The accuracy of the chosen file on the test split, in one sentence."""
        test = self.test
        return (
            f"{test['accuracy']:.2%}, full precision {test['accuracy_full_precision']:.2%}; loses "
            f"{test['drop']:.2f} points, at most {test['bound']:.2f} (95 %)"
        )

    @property
    def cost(self) -> str:
        """What the search cost, in counted work."""
        finished, pruned = len(self.candidates), len(self.pruned)
        epochs = sum(one.epochs for one in self.candidates) + sum(self.pruned)
        parts = [f"{finished + pruned + len(self.failures)} trials"]
        parts += [f"{pruned} of them given up early"] if pruned else []
        parts += [f"{len(self.failures)} failed ({self.failures[0]})"] if self.failures else []
        return f"{', '.join(parts)}; {epochs} epochs"

    @property
    def about(self) -> list[tuple[str, str]]:
        """What stands under the table, by name."""
        validation = f"validation data of {self.data}, full precision {self.accuracy:.2%}"
        rows = [
            ("measured on", validation),
            ("chosen", self.choice),
            ("test data", self.on_test_data),
            ("cost", self.cost),
        ]
        if self.settings.processes > 1:
            processes = f"{self.settings.processes} processes: another search may find other files"
            rows.append(("not deterministic", processes))
        return rows

    @property
    def summary(self) -> str:
        """The front as a table, and what was chosen."""
        from tabulate import tabulate

        aligned = tuple("left" if name in ("", "method") else "right" for name in self.headers)
        front = tabulate(self.rows, self.headers, disable_numparse=True, colalign=aligned)
        about = [*self.about, ("file", str(self.path))]
        return f"{front}\n\n{tabulate(about, tablefmt='plain', disable_numparse=True)}"


def page_of(found: SearchResult) -> str:
    """The result as a page, HTML."""
    # Imported late: it draws.
    from ecqx.report.search_page import Mark, search_page

    front = found.front
    marks = [
        Mark(
            method=one.setting["method"],
            setting=one.words,
            bytes=one.bytes,
            drop=one.drop,
            bound=one.bound,
            is_front=one in front,
            is_chosen=one is found.chosen,
        )
        for one in found.candidates
    ]
    title = f"the smallest file, {found.data}"
    return search_page(
        title, marks, found.settings.max_drop, found.headers, found.rows, found.about
    )
