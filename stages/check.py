"""The regression gate of a suite: ``python -m stages.check [SUITE] [--junit FILE]``.

Exit code 0 where the results are as good as the baseline, 1 where they are worse, 2 where there is
nothing to compare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tabulate import tabulate

from ecqx.errors import InputError
from ecqx.files import write_atomically
from ecqx.report.regression import Difference, Run, compare, count_judged
from stages import paths
from stages.command import run_command_line
from stages.provenance import machine, packages
from stages.suite import selected

SHOWN_ROWS = 40
_HEADERS = ("setting", "quantity", "old", "new", "difference", "tolerance")


def main(arguments: Sequence[str]) -> int:
    """Compare the suite's results with its baseline; 1 if they are worse."""
    suite, junit = _options(arguments)
    root = Path()
    suite = selected(root, suite)
    verdicts = [check(root, part) for part in parts_of(root, suite)]
    print("\n\n".join(verdict.text() for verdict in verdicts))
    if junit:
        write_junit(Path(junit), verdicts)
    return int(any(verdict.failed for verdict in verdicts))


def _options(arguments: Sequence[str]) -> tuple[str, str]:
    words = list(arguments)
    junit = ""
    if "--junit" in words:
        at = words.index("--junit")
        junit = "".join(words[at + 1 : at + 2])
        del words[at : at + 2]
        if not junit:
            raise InputError("--junit needs the name of the file to write")
    if len(words) > 1 or any(word.startswith("-") for word in words):
        raise InputError("usage: python -m stages.check [SUITE] [--junit FILE]")
    return "".join(words), junit


@dataclass(frozen=True)
class Part:
    """A list of runs that has a baseline of its own: a suite's, or that of its comparison."""

    suite: str
    is_comparison: bool = False

    @property
    def name(self) -> str:
        """What the gate calls it."""
        return f"{self.suite}, comparison" if self.is_comparison else self.suite

    @property
    def metrics(self) -> Path:
        """Where its runs lie, below the repository."""
        folder = paths.comparison(self.suite) if self.is_comparison else paths.results(self.suite)
        return folder / "metrics.json"

    @property
    def baseline(self) -> Path:
        """Where its baseline lies; never in a folder that is a stage's output."""
        name = "comparison_baseline.json" if self.is_comparison else "baseline.json"
        return paths.results(self.suite) / name


def parts_of(root: Path, suite: str) -> list[Part]:
    """The suite's own runs, and those of its comparison where it has any or should have."""
    comparison = Part(suite, is_comparison=True)
    known = [comparison.metrics, comparison.baseline]
    return [Part(suite), *([comparison] if any((root / path).exists() for path in known) else [])]


@dataclass(frozen=True)
class Verdict:
    """What the check of a part came to.

    Attributes
    ----------
    name : str
        Of the part.
    same_machine : bool
        Whether machine and packages are the baseline's.
    judged : int
        Number of runs that could be judged.
    differences : list of Difference
    """

    name: str
    same_machine: bool
    judged: int
    differences: list[Difference]

    @property
    def worse(self) -> list[Difference]:
        """What counts."""
        return [difference for difference in self.differences if difference.worse]

    @property
    def not_judged(self) -> list[Difference]:
        """What is only told."""
        return [difference for difference in self.differences if not difference.worse]

    @property
    def failed(self) -> bool:
        """Whether the gate is closed."""
        return bool(self.worse) or not self.judged

    def text(self) -> str:
        """The table, worst first, what was not judged, and the verdict in the last line."""
        parts = [self._table(), self._told(), self._line()]
        return "\n\n".join(part for part in parts if part)

    def _table(self) -> str:
        rows = [_row(difference) for difference in self.worse[:SHOWN_ROWS]]
        table = tabulate(rows, _HEADERS, "simple", disable_numparse=True) if rows else ""
        more = len(self.worse) - len(rows)
        return f"{table}\n… and {more} more" if more else table

    def _told(self) -> str:
        if not self.not_judged:
            return ""
        settings = len({difference.setting for difference in self.not_judged})
        keys = ", ".join(sorted({difference.quantity for difference in self.not_judged} - {"run"}))
        return (
            f"{settings} runs are not judged: they were made with other data or another start "
            f"than the baseline's ({keys or 'no run of their task has the same'})."
        )

    def _line(self) -> str:
        where = (
            "on the baseline's machine and packages, where any difference counts"
            if self.same_machine
            else "by means over seeds, as machine or packages are not the baseline's"
        )
        if self.worse:
            return f"{self.name}: WORSE than the baseline, {len(self.worse)} rows ({where})."
        if not self.judged:
            return f"{self.name}: no run could be judged against the baseline."
        return f"{self.name}: no worse than the baseline in {self.judged} runs ({where})."

    def junit(self) -> ElementTree.Element:
        """The same for CI, one test case per setting or run that has something to say."""
        cases: dict[str, list[Difference]] = {f"{self.judged} runs": []}
        for difference in self.differences:
            cases.setdefault(difference.setting, []).append(difference)
        failing = sum(any(d.worse for d in found) for found in cases.values())
        suite = ElementTree.Element(
            "testsuite",
            name=f"check.{self.name}",
            tests=str(len(cases)),
            failures=str(failing or int(self.failed)),
        )
        for name, found in cases.items():
            self._junit_case(suite, name, found)
        if not self.judged:
            ElementTree.SubElement(suite[0], "failure", message=self._line())
        return suite

    def _junit_case(
        self, suite: ElementTree.Element, name: str, found: Sequence[Difference]
    ) -> None:
        case = ElementTree.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name)
        worse = [difference for difference in found if difference.worse]
        if worse:
            table = tabulate([_row(d) for d in worse], _HEADERS, "simple", disable_numparse=True)
            failure = ElementTree.SubElement(case, "failure", message=f"{len(worse)} worse")
            failure.text = f"\n{table}\n"
        elif found:
            ElementTree.SubElement(case, "skipped", message="other data or another start")


def write_junit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write all verdicts to one file."""
    suites = ElementTree.Element("testsuites")
    suites.extend(verdict.junit() for verdict in verdicts)
    ElementTree.indent(suites)
    tree = ElementTree.ElementTree(suites)
    write_atomically(path, lambda p: tree.write(p, encoding="utf-8", xml_declaration=True))


def check(root: Path, part: Part) -> Verdict:
    """Compare the results of a part with its baseline.

    Raises
    ------
    InputError
        If there is no baseline or no result.
    """
    baseline = read_baseline(root, part)
    if baseline is None:
        raise InputError(
            f"suite {part.name} has no baseline yet: `make baseline SUITE={part.suite}` accepts "
            "the present results as one"
        )
    present = read_runs(root, part)
    same = (baseline["machine"], baseline["packages"]) == (machine(), packages())
    accepted = baseline["runs"]
    judged = count_judged(accepted, present)
    return Verdict(part.name, same, judged, compare(accepted, present, same))


def read_runs(root: Path, part: Part) -> list[Run]:
    """The runs of a part."""
    path = root / part.metrics
    runs = _read_json(path)
    if runs is None:
        raise InputError(f"{path} is missing: `make paper-results SUITE={part.suite}` makes it")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise InputError(f"{path} holds no list of runs")
    return runs


def read_baseline(root: Path, part: Part) -> Mapping[str, Any] | None:
    """The baseline of a part; None where there is none."""
    path = root / part.baseline
    baseline = _read_json(path)
    if baseline is None:
        return None
    if not isinstance(baseline, dict) or not {"machine", "packages", "runs"} <= baseline.keys():
        raise InputError(
            f"{path} is no baseline: `make baseline SUITE={part.suite}` makes a new one"
        )
    return baseline


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _row(difference: Difference) -> list[str]:
    return [
        difference.setting,
        difference.quantity,
        _shown(difference.old),
        _shown(difference.new),
        "" if difference.difference is None else f"{difference.difference:+.4g}",
        "" if difference.tolerance is None else f"{difference.tolerance:.4g}",
    ]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run_command_line(main))
