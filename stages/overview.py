"""One report over the published suites: results/overview.

Suites whose names begin alike, ``speech`` and ``speech-p``, are one family: parts of one experiment
that were measured apart. A family's tasks of one name are one task here; a run that several of its
suites have is taken once. What was read is recorded in results/overview/sources.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from ecqx.errors import InputError
from ecqx.experiment.jobs import checksum
from ecqx.progress import announced
from ecqx.report.build import build
from ecqx.report.page import Origin
from ecqx.report.rules import Rules
from ecqx.report.statistics import grouped
from stages import paths, suites
from stages.closure import Code
from stages.command import command, run_command_line
from stages.manifests import write_json
from stages.report import contents

NAME = "overview"
# By task, by names that begin with it, and lists of records that have one. What the pages of the
# suites show of single networks is left out.
BY_TASK, BY_NAME = ("tasks", "relevance"), ("correct",)
RECORDS = ("records", "published", "yardsticks")
# What the parts of a family share, and what they were measured on where they do not.
SHARED = {
    "data_checksum": "data of different checksums",
    "accuracy_start": "different pre-trained networks",
    "accuracy_fp32": "different networks in full precision",
}


@command
@announced("drawing tables, figures and the page of all published suites")
def main() -> None:
    """Write the report and what it was made from."""
    names = suites.published()
    given = merged({name: contents(name) for name in names})
    data = {record["dataset"]: record["data_checksum"] for record in given["records"]}
    settings = "".join(f"{suites.params_path(name)}\n" for name in names)
    out = paths.results(NAME)
    build(**given, out=out, suite=NAME, origin=Origin(settings, data))
    write_json(out / "sources.json", sources())


def sources() -> dict[str, Any]:
    """Checksums of the results that the report is made from, and of the code that makes it.

    Beside those of a suite stands the section ``report`` of its settings.
    """
    return {
        **{name: _sources_of(name) for name in suites.published()},
        "code": Code().closure(["stages.overview"]).digest,
    }


def _sources_of(suite: str) -> dict[str, Any]:
    read = [paths.results(suite) / "metrics.json", paths.correct(suite), paths.relevance(suite)]
    settings = suites.read_params(suites.params_path(suite))["report"]
    return {**{path.name: checksum(path) for path in read}, "report": settings}


def family(name: str, names: Iterable[str]) -> str:
    """The suite that a suite is a part of: the shortest name that its own begins with."""
    return min((one for one in names if name == one or name.startswith(f"{one}-")), key=len)


def merged(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Contents of several suites (`stages.report.contents`) as those of one.

    ``InputError`` if the suites allow different losses of accuracy in their comparisons, or the
    data or the full-precision networks of a family's task and seed differ. Features of sound do so
    between processors, in the last digits, and then a seed is another network in each part.
    """
    named: dict[str, dict[str, Any]] = {kind: {} for kind in (*BY_TASK, *BY_NAME)}
    listed: dict[str, list[dict[str, Any]]] = {kind: [] for kind in RECORDS}
    rules: dict[float, dict[str, Any]] = {}
    paper: set[str] = set()
    for name, parts in given.items():
        prefix = f"{family(name, given)}_"
        for kind, entries in named.items():
            entries.update({prefix + key: part for key, part in parts[kind].items()})
        for kind, records in listed.items():
            records += [{**record, "task": prefix + record["task"]} for record in parts[kind]]
        paper.update(prefix + task for task in parts["paper"])
        if own := parts["rules"]:
            fair = rules.setdefault(own.loss, {})
            fair.update({prefix + task: rule for task, rule in own.tasks.items()})
    if len(rules) > 1:
        raise InputError(f"report.comparison.loss: must be one of {sorted(rules)} in all suites")
    for (task, seed), records in grouped(listed["records"], itemgetter("task", "seed")).items():
        for key, what in SHARED.items():
            if len({record[key] for record in records}) > 1:
                raise InputError(
                    f"{task}, seed {seed}: its suites were measured on {what}; measure all of them "
                    "on processors of one kind"
                )
    once = {(record["task"], record["run_id"]): record for record in listed["records"]}
    loss = next(iter(rules), None)
    return {
        **named,
        **listed,
        "paper": paper,
        "records": list(once.values()),
        "rules": None if loss is None else Rules(loss, rules[loss]),
    }


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
