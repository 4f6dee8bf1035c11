"""The figures of curves: accuracy, sparsity and file size of every setting, with their words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ecqx.report.comparison import Comparison
from ecqx.report.curve_panels import (
    ACCURACIES,
    CHANGE,
    DEPTH,
    LAMBDA,
    RATIOS,
    SIZES,
    SPARSITIES,
    Case,
    Quantity,
    draw,
)
from ecqx.report.evidence import Evidence
from ecqx.report.records import (
    FIXED,
    GRID,
    GRID_METHODS,
    METHODS,
    PAPER_METHOD,
    TRAINED_METHODS,
    Setting,
)
from ecqx.report.render import Figure
from ecqx.report.selection import front
from ecqx.report.sweeps import p_settings
from ecqx.report.yardstick import Counterpart

# Methods that share a panel of the comparison, beside ECQx.
_OTHERS = tuple(m for m in METHODS if m not in (*GRID_METHODS, *TRAINED_METHODS, *FIXED, "torchao"))
GROUPS = (
    *(("ECQ",), TRAINED_METHODS[:2], TRAINED_METHODS[2:]),
    *(_OTHERS[:2], _OTHERS[2:], ("torchao", *FIXED)),
)


def build_curve_figures(evidence: Evidence, counterparts: Sequence[Counterpart]) -> list[Figure]:
    """All figures of the paper's sweeps that there are settings for."""
    made = [
        accuracy_against_sparsity(evidence),
        *(each_bit_width(evidence, task) for task in evidence.tasks),
        accuracy_against_size(evidence),
        influence_of_p(evidence),
        influence_of_batchnorm(evidence),
        along_lambda(evidence, "sparsity", SPARSITIES),
        along_lambda(evidence, "ratio", RATIOS),
        yardstick_figure(evidence, counterparts),
    ]
    return [figure for figure in made if figure is not None]


# -- figures ---------------------------------------------------------------------------------------


def accuracy_against_sparsity(evidence: Evidence) -> Figure | None:
    """One panel per task, at the bit width that stands for it."""
    cases = _each_task(evidence)
    title = f"{_titled(evidence.metric_of_all(_tasks(cases)))} against sparsity"
    return _figure(evidence, "accuracy_sparsity", title, _ALONG, cases, SPARSITIES, ACCURACIES)


_ALONG = "Each mark is one Λ; the larger, the further right."


def each_bit_width(evidence: Evidence, task: str) -> Figure | None:
    """One panel per bit width of a task that was measured at several."""
    bits = evidence.bits(task)
    cases = [Case(f"{width} bit", evidence.of(task, bits=width)) for width in bits]
    title = f"{_titled(evidence.metric_of_all([task]))} against sparsity: {evidence.tasks[task]}"
    name = f"accuracy_sparsity_{task}"
    return (
        _figure(evidence, name, title, _ALONG, cases, SPARSITIES, ACCURACIES)
        if len(bits) > 1
        else None
    )


def influence_of_p(evidence: Evidence) -> Figure | None:
    """Accuracy against sparsity, a panel for each p, with ECQ in all of them."""
    series = [(task, p_settings(evidence, task)) for task in evidence.tasks]
    tasks = [task for task, found in series if found]
    cases = []
    for task, found in series:
        reference = [setting for p, own in found if p is None for setting in own]
        for p, own in found:
            if p is not None:
                detail = f"p = {p:g}, {own[0].bits} bit"
                cases.append(Case(_heading(evidence, task, detail, tasks), [*reference, *own]))
    caption = f"ECQx may add at most p to the sparsity of ECQ. {_ALONG}"
    return _figure(
        evidence, "influence_of_p", "Influence of p", caption, cases, SPARSITIES, ACCURACIES
    )


def influence_of_batchnorm(evidence: Evidence) -> Figure | None:
    """Change of accuracy against sparsity, the same network without and with BatchNorm."""
    cases = []
    for pair in evidence.pairs():
        bits = evidence.reference_bits(pair[1])
        for task, word in zip(pair, ("without", "with"), strict=True):
            detail = f"{word} BatchNorm, {bits} bit"
            heading = _heading(evidence, pair[0], detail, pair)
            cases.append(Case(heading, evidence.of(task, GRID, bits=bits)))
    cases = [case for case in cases if case.settings]
    caption = "Change against the same network trained as long in full precision."
    title = "Influence of BatchNorm"
    return _figure(
        evidence, "influence_of_batchnorm", title, f"{caption} {_ALONG}", cases, SPARSITIES, CHANGE
    )


def along_lambda(evidence: Evidence, name: str, y: Quantity) -> Figure | None:
    """A quantity over Λ, one panel per task."""
    cases = [case for case in _each_task(evidence) if len({s.lam for s in case.settings}) > 1]
    title = f"{_titled(y.title.split(' (')[0])} along Λ"
    caption = (
        "Λ weighs information against distance: the larger, the sparser and smaller. The scale of "
        "Λ is logarithmic, and linear below the smallest positive one."
    )
    return _figure(evidence, f"{name}_lambda", title, caption, cases, LAMBDA, y)


def accuracy_against_size(evidence: Evidence) -> Figure | None:
    """Every setting of the grid and the Pareto fronts, chosen by validation accuracy."""
    tasks = [task for task in evidence.tasks if evidence.of(task)]
    cases = []
    for task in tasks:
        settings = evidence.of(task)
        detail = f"{settings[0].first.bytes_fp32 / 1000:,.0f} kB in 32 bit"
        cases.append(Case(_heading(evidence, task, detail, tasks), settings))
    title = f"{_titled(evidence.metric_of_all(tasks))} against file size"
    caption = (
        "Every setting of the grid. Lines join the settings of a method that no other one of it "
        "beats in both size and validation accuracy, the Pareto front; shown is their test "
        "accuracy, so that a line may fall."
    )
    return _figure(evidence, "accuracy_size", title, caption, cases, SIZES, ACCURACIES, fronts=True)


def yardstick_figure(evidence: Evidence, counterparts: Sequence[Counterpart]) -> Figure | None:
    """Accuracy against size of each task and bit width, with the published results in it."""
    theirs = list(dict.fromkeys(c.yardstick for c in counterparts))
    tasks = [one.task for one in theirs]
    cases = [
        Case(
            _heading(evidence, task, f"{bits} bit", tasks),
            evidence.of(task, GRID, bits=bits),
            [one for one in theirs if (one.task, one.bits) == (task, bits)],
        )
        for task, bits in dict.fromkeys((one.task, one.bits) for one in theirs)
    ]
    caption = (
        "Ours along Λ, and the results of the published algorithm as stars in the colour of their "
        "method. Further left and higher is better; what the sizes count stands with the table."
    )
    words = "; ".join(
        f"{evidence.name(c.yardstick.task)}, {c.yardstick.method}, Λ {c.yardstick.lam:g} "
        f"({c.ours}): {c.verdict.value}"
        for c in counterparts
    )
    return _figure(
        *(evidence, "yardstick", "Beside the published algorithm", caption, cases),
        *(SIZES, ACCURACIES),
        more=f"Whether a point of ours is at least as good in both: {words}.",
    )


def comparison_figure(comparison: Comparison) -> Figure:
    """Accuracy against size of all methods, a few of them a panel, each beside ECQx."""
    evidence = comparison.evidence
    cases, words = [], []
    for task in comparison.tasks:
        every = comparison.of(task)
        best = front(every)
        measured = comparison.methods(task)
        for group in GROUPS:
            others = [method for method in group if method in measured]
            own = [s for s in every if s.method in (*others, PAPER_METHOD)]
            if others:
                detail = ", ".join(others)
                heading = _heading(evidence, task, detail, comparison.tasks)
                cases.append(Case(heading, own, front=best))
        methods = ", ".join(dict.fromkeys(trial.method for trial in best))
        ends = " to ".join(_place(setting) for setting in (best[0], best[-1]))
        words.append(
            f"{comparison.tasks[task]}: the Pareto front of all goes from {ends} ({methods})."
        )
    if not cases:
        cases = [
            Case(comparison.tasks[task], comparison.of(task), front=front(comparison.of(task)))
            for task in comparison.tasks
        ]
    caption = (
        "Every trial, a few methods a panel, ECQx in all of them. Lines join the trials of a "
        "method that no other trial of it beats in both mean size and mean validation accuracy; "
        "the wide band joins those that no trial of any method beats. Shown is the test accuracy, "
        "so that a line may fall. Further left and higher is better."
    )
    figure = _figure(
        *(evidence, "comparison", "Accuracy against file size: all methods", caption, cases),
        *(SIZES, ACCURACIES),
        fronts=True,
        more=" ".join(words),
    )
    assert figure is not None
    return figure


# -- their parts -----------------------------------------------------------------------------------


def _each_task(evidence: Evidence) -> list[Case]:
    """One case per task, at the bit width that stands for it."""
    chosen = {
        task: evidence.of(task, bits=bits)
        for task in evidence.tasks
        if (bits := evidence.reference_bits(task)) is not None
    }
    return [
        Case(_heading(evidence, task, f"{own[0].bits} bit", chosen), own)
        for task, own in chosen.items()
    ]


def _tasks(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(setting.task for case in cases for setting in case.settings))


def _figure(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    cases: Sequence[Case],
    x: Quantity,
    y: Quantity,
    *,
    fronts: bool = False,
    more: str = "",
) -> Figure | None:
    """A figure with one panel per case; None without a case."""
    if not cases:
        return None
    drawn = draw(cases, x, y, fronts)
    settings = [setting for case in cases for setting in case.settings]
    notes = [_subtitle(evidence, settings), caption]
    if y in (ACCURACIES, CHANGE):
        several = any(len(setting.records) > 1 for setting in settings)
        band = ", its band the deviation over seeds" if several and y is ACCURACIES else ""
        notes.append(
            f"The dotted line is the same checkpoint trained as long in full precision{band}. "
            "All panels cover as many points."
        )
    if drawn.below:
        notes.append(
            f"Out of sight: {drawn.below} of {drawn.marks} marks, which lie further down than "
            f"{DEPTH:g} points below full precision, or below the best mark of their panel."
        )
    notes.append(evidence.notes(_tasks(cases)))
    words = f"Curves of {y.title.replace('metric', 'the metric')} over {x.title}. {more}"
    alt = " ".join([words, *(_in_words(case, y) for case in cases)])
    return Figure(name, title, " ".join(notes), alt, drawn.panels, drawn.switches, drawn.hidden)


def _heading(evidence: Evidence, task: str, detail: str, among: Iterable[str]) -> str:
    """Title of a panel: task, its data where the figure's tasks differ in that, and the detail."""
    data, title = evidence.data_in_short(task), evidence.tasks[task]
    differ = evidence.common_data(among) is None and data not in title
    return f"{title}, {data}, {detail}" if differ else f"{title}, {detail}"


def _titled(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- words -----------------------------------------------------------------------------------------


def _subtitle(evidence: Evidence, settings: Sequence[Setting]) -> str:
    """Suite, data if all tasks have the same, and number of seeds."""
    seeds = sorted({len(setting.records) for setting in settings})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = f"mean ± deviation over {count} seeds" if seeds != [1] else "one seed, no deviation"
    return f"{suite_and_data(evidence, [s.task for s in settings])}, {spread}."


def suite_and_data(evidence: Evidence, tasks: Sequence[str]) -> str:
    """Suite, and data if all tasks have the same and their titles do not name it."""
    data = evidence.common_data(tasks)
    if data is None or all(data in evidence.tasks[task] for task in tasks):
        return f"Suite {evidence.suite}"
    return f"Suite {evidence.suite}, {data}"


def _in_words(case: Case, y: Quantity) -> str:
    """Where the curves of one panel begin and end."""
    parts = []
    for method in METHODS:
        own = [s for s in case.settings if s.method == method]
        if own:
            ends = own if len(own) == 1 else (own[0], own[-1])
            parts.append(
                f"{method} from "
                + " to ".join(f"{y.of(s).mean:.1f} at {s.first.words}" for s in ends)
            )
    return f"{case.title}: {'; '.join(parts)}."


def _place(setting: Setting) -> str:
    return f"{SIZES.of(setting).mean:.1f} kB with {ACCURACIES.of(setting).mean:.1f} %"
