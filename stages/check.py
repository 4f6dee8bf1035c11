"""The regression gate of a suite: are its results worse than the baseline allows?

On the machine and packages of the baseline every run and every derived file (claims.md,
summary.json, curves.csv, layers.json, tables/) must be the accepted one. Elsewhere the means over
seeds are compared, with a tolerance; there a verdict of claims.md may change, unless all runs are
the accepted ones.

The table says of each difference whether it is worse, different or better; the last line sums up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

from ecqx.errors import InputError
from ecqx.files import write_atomically
from ecqx.report.formats import to_terminal
from ecqx.report.records import MISSING
from ecqx.report.regression import (
    Difference,
    Kind,
    Run,
    compare,
    count_judged,
    in_order,
    keys_apart,
)
from ecqx.report.statistics import grouped
from stages import derived, paths
from stages.command import command, run_command_line, suite_argument
from stages.provenance import machine, packages

SHOWN_ROWS = 40
_HEADERS = ("change", "setting", "quantity", "old", "new", "difference", "tolerance")


@command
@suite_argument
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the outcome as JUnit XML, too.",
)
def main(suite: str, junit: Path | None) -> int:
    """Compare the suite's results with its baseline; 1 if the check fails."""
    outcome = check(Path(), suite)
    click.echo(outcome.text())
    if junit:
        write_junit(junit, outcome)
    return int(outcome.failed)


@dataclass(frozen=True)
class Outcome:
    """The differences of a suite in order, and remarks of one line each.

    ``judged`` is the number of runs that could be judged, ``same_machine`` whether machine and
    packages are the baseline's.
    """

    suite: str
    same_machine: bool
    judged: int
    differences: list[Difference]
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> list[Difference]:
        """What the table shows: all but runs that are not judged."""
        return [d for d in self.differences if d.kind is not Kind.NOT_JUDGED]

    @property
    def failed(self) -> bool:
        """Whether the check fails."""
        return any(difference.counts for difference in self.differences) or not self.judged

    def text(self) -> str:
        """The table, worst first, remarks, and the outcome in the last line."""
        parts = [_table(self.shown, SHOWN_ROWS), *self.notes]
        if not_judged := [d for d in self.differences if d.kind is Kind.NOT_JUDGED]:
            keys = ", ".join(sorted({difference.quantity for difference in not_judged} - {"run"}))
            parts.append(
                f"{len({difference.setting for difference in not_judged})} runs are not judged: "
                "they were made on another data set or from another start than the baseline's "
                f"({keys or 'no run of their task has the same'})."
            )
        return "\n\n".join(part for part in [*parts, self.line()] if part)

    def line(self) -> str:
        """The outcome in one line."""
        where = (
            "on the baseline's machine and packages, where any difference counts"
            if self.same_machine
            else "by means over seeds, as machine or packages are not the baseline's"
        )
        found = _counted(self.shown)
        if any(difference.kind is Kind.WORSE for difference in self.shown):
            return f"{self.suite}: WORSE than the baseline: {found} ({where})."
        if not self.judged:
            return f"{self.suite}: no run could be judged against the baseline."
        if self.failed:
            return f"{self.suite}: NOT THE SAME as the baseline: {found} ({where})."
        also = f": {found}" if found else ""
        return f"{self.suite}: no worse than the baseline in {self.judged} runs{also} ({where})."


def _counted(differences: Sequence[Difference]) -> str:
    """How many differences there are of each kind, in words."""
    counts = Counter(difference.kind for difference in differences)
    return ", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind])


def _table(differences: Sequence[Difference], at_most: int) -> str:
    def shown(value: Any, form: str, otherwise: str = "") -> str:
        if value is None:
            return otherwise
        return format(value, form) if isinstance(value, float) else str(value)

    rows = [
        (
            *(d.kind.value, d.setting, d.quantity),
            *(shown(value, ".6g", MISSING) for value in (d.old, d.new)),
            *(shown(d.difference, "+.4g"), shown(d.tolerance, ".4g")),
        )
        for d in differences
    ]
    return to_terminal(_HEADERS, rows, ["left"] * len(_HEADERS), at_most)


def write_junit(path: Path, outcome: Outcome) -> None:
    """Write the outcome as JUnit XML: a test case for each setting or run with differences."""
    by_setting = grouped(outcome.differences, lambda difference: difference.setting)
    cases: dict[str, list[Difference]] = {f"{outcome.judged} runs": [], **by_setting}
    failing = sum(any(d.counts for d in found) for found in cases.values())
    root = ElementTree.Element("testsuites")
    attributes = {"tests": str(len(cases)), "failures": str(failing or int(outcome.failed))}
    suite = ElementTree.SubElement(root, "testsuite", attributes, name=f"check.{outcome.suite}")
    for name, found in cases.items():
        case = ElementTree.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name)
        table = f"\n{_table(found, len(found))}\n"
        if any(difference.counts for difference in found):
            ElementTree.SubElement(case, "failure", message=_counted(found)).text = table
        elif any(difference.kind is Kind.NOT_JUDGED for difference in found):
            ElementTree.SubElement(case, "skipped", message="another data set or another start")
        elif found:
            ElementTree.SubElement(case, "system-out").text = table
    if not outcome.judged:
        ElementTree.SubElement(suite[0], "failure", message=outcome.line())
    ElementTree.indent(root)
    tree = ElementTree.ElementTree(root)
    write_atomically(path, lambda p: tree.write(p, encoding="utf-8", xml_declaration=True))


def check(root: Path, suite: str) -> Outcome:
    """Compare the results of a suite with its baseline; ``InputError`` if one is missing."""
    baseline = read_baseline(root, suite)
    if baseline is None:
        raise InputError(
            f"suite {suite} has no baseline yet: `make baseline SUITE={suite}` accepts "
            "the present results as one"
        )
    accepted, present = baseline["runs"], read_runs(root, suite)
    same = (baseline["machine"], baseline["packages"]) == (machine(), packages())
    found = compare(accepted, present, same)
    notes = []
    _, new = keys_apart(accepted, present)
    if new:
        notes.append(f"New in metrics.json: {', '.join(new)}.")
    if "files" in baseline:
        results = root / paths.results(suite)
        counts = same or not compare(accepted, present, same_machine=True)
        verdicts = derived.verdicts(results)
        found += derived.changed_verdicts(baseline["verdicts"], verdicts, counts)
        if same:  # other machines need not give the same files
            found += derived.changed_files(baseline["files"], derived.checksums(results))
    else:
        notes.append("The baseline covers no derived files: it is of an earlier version.")
    return Outcome(suite, same, count_judged(accepted, present), in_order(found), tuple(notes))


def read_runs(root: Path, suite: str) -> list[Run]:
    """The runs of a suite."""
    path = root / paths.results(suite) / "metrics.json"
    runs = _read_json(path)
    if runs is None:
        raise InputError(f"{path} is missing: `make paper-results SUITE={suite}` makes it")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise InputError(f"{path} holds no list of runs")
    return runs


def read_baseline(root: Path, suite: str) -> Mapping[str, Any] | None:
    """The baseline of a suite; None where there is none."""
    path = root / paths.results(suite) / "baseline.json"
    baseline = _read_json(path)
    if baseline is None:
        return None
    if not isinstance(baseline, dict) or not {"machine", "packages", "runs"} <= baseline.keys():
        raise InputError(f"{path} is no baseline: `make baseline SUITE={suite}` makes a new one")
    return baseline


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
