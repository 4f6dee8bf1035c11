"""The regression gate on the real pipeline: mistakes are caught, unchanged runs are not."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tabulate import tabulate
from tqdm import tqdm

from ecqx.experiment import jobs
from ecqx.report.regression import Difference, compare
from stages import baseline, check, encode, evaluate, quantize, sweeps
from stages.verify.document import Section
from stages.verify.injections import INJECTIONS
from stages.verify.workplace import prepare, run_stages, settings_of, working_in

JUDGED_STAGES = ("quantize", "encode", "evaluate")
SILENT_RUNS, PROCESSES = 20, (1, 2, 3)


def regressions(root: Path, suite: str) -> Section:
    """Each mistake in turn, judged against the baseline of the code as it is."""
    with _accepted(root, suite) as place:
        rows = []
        for name, inject in INJECTIONS.items():
            with working_in(place), inject():
                run_stages(suite, *JUDGED_STAGES)
                here, elsewhere = verdicts(place, suite)
            worst = here[0] if here else None
            shown = f"{worst.setting}: {worst.quantity}" if worst else ""
            rows.append((name, _said(here), shown, _said(elsewhere)))
    caught = sum(bool(row[2]) for row in rows)
    table = tabulate(
        rows, ("mistake", "rows on this machine", "worst of them", "rows elsewhere"), "github"
    )
    text = (
        f"Suite `{suite}`: the stages from quantize to evaluate ran with each mistake in the code "
        "that they call, and `make check` judged the results by the baseline of the code as it "
        "is, as it does on the baseline's machine (any difference counts) and elsewhere (means "
        f"over seeds).\n\n{table}\n\nThe fewer seeds and test images a suite has, the wider is its "
        "tolerance elsewhere: what moves its means by less is not seen there."
    )
    figures = f"{caught} of {len(rows)} injected regressions caught"
    passed = caught == len(rows)
    return Section(f"regressions {suite}", "Injected regressions", text, passed, figures)


def _said(rows: Sequence[Difference]) -> str:
    return f"{len(rows)} rows" if rows else "silent"


def silence(root: Path, suite: str) -> Section:
    """Unchanged runs in another order, by another number of processes, judged the same way."""
    counts = dict.fromkeys(PROCESSES, 0)
    alarms = []
    with _accepted(root, suite) as place:
        for number in tqdm(range(SILENT_RUNS), desc="silent runs", disable=None):
            processes = PROCESSES[number % len(PROCESSES)]
            counts[processes] += 1
            with working_in(place, processes), shuffled(number):
                run_stages(suite, *JUDGED_STAGES)
                alarms += [(number, d) for found in verdicts(place, suite) for d in found]
        runs = len(check.read_runs(place, suite))
    with_processes = ", ".join(f"{n} with {p}" for p, n in counts.items())
    found = "".join(f"\n- run {number}: {d.setting}: {d.quantity}" for number, d in alarms[:20])
    noisy = len({number for number, _ in alarms})
    text = (
        f"Suite `{suite}`, {SILENT_RUNS} times from quantize to evaluate without saved progress, "
        f"each time with its {runs} runs in another order; processes: {with_processes}. Judged as "
        f"on the baseline's machine, where any difference counts, and as elsewhere.\n{found}"
    ).rstrip()
    figures = f"{SILENT_RUNS - noisy} of {SILENT_RUNS} unchanged runs silent"
    return Section(f"silence {suite}", "Unchanged runs", text, not alarms, figures)


@contextmanager
def _accepted(root: Path, suite: str) -> Iterator[Path]:
    """A folder in which the suite ran and its results were accepted."""
    with tempfile.TemporaryDirectory(prefix="ecqx-verify-") as folder:
        place = prepare(Path(folder) / "place", root, settings_of(root, suite))
        accept(place, suite)
        yield place


def accept(place: Path, suite: str) -> None:
    """Run the suite up to its metrics, and take them for the baseline."""
    with working_in(place):
        run_stages(suite, "fingerprint", "download", "pretrain", *JUDGED_STAGES)
        baseline.accept(place, suite)


def verdicts(place: Path, suite: str) -> tuple[list[Difference], list[Difference]]:
    """What of the runs counts: by the gate as it is here, and as it would be elsewhere."""
    accepted = check.read_baseline(place, suite)
    assert accepted is not None
    runs = check.read_runs(place, suite)
    here, elsewhere = (
        [difference for difference in compare(accepted["runs"], runs, same) if difference.counts]
        for same in (True, False)
    )
    return here, elsewhere


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Have the runs computed and listed in another order."""
    order = random.Random(seed)

    def list_in_disorder(*settings: Any) -> list[sweeps.Run]:
        runs = all_runs(*settings)
        return order.sample(runs, len(runs))

    def run_in_disorder(
        function: Callable[[Any], Any], items: Sequence[Any], *others: Any, **more: Any
    ) -> list[Any]:
        places = order.sample(range(len(items)), len(items))
        results = run_all(function, [items[at] for at in places], *others, **more)
        return [result for _, result in sorted(zip(places, results, strict=True), key=first)]

    all_runs, run_all, first = sweeps.all_runs, jobs.run_all, itemgetter(0)
    with (
        patch.object(quantize, "all_runs", list_in_disorder),
        patch.object(jobs, "run_all", run_in_disorder),
        patch.object(encode, "run_all", run_in_disorder),
        patch.object(evaluate, "run_all", run_in_disorder),
    ):
        yield
