"""The figures of curves: accuracy, sparsity and file size of every setting, with their words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ecqx.report.columns import spread_in_words
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
    METHODS,
    P_SWEEP,
    PAPER_METHOD,
    TRAINED_METHODS,
    Setting,
)
from ecqx.report.render import Figure
from ecqx.report.selection import front
from ecqx.report.sweeps import by_p, of_common_seeds
from ecqx.report.yardstick import Counterpart

# Methods that share a panel of the comparison, beside ECQx.
GROUPS = (
    *(("ECQ",), TRAINED_METHODS[:2], TRAINED_METHODS[2:]),
    *(("NNCodec uniform", "NNCodec dependent"), ("pruning", "LSQ"), ("torchao", *FIXED)),
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
    title = f"{_metric(evidence, [case.task for case in cases])} against sparsity"
    return _figure(evidence, "accuracy_sparsity", title, _ALONG, cases)


_ALONG = "Each mark is one Λ; the larger, the further right."


def each_bit_width(evidence: Evidence, task: str) -> Figure | None:
    """One panel per bit width of a task that was measured at several."""
    cases = [Case(f"{bits} bit", evidence.of(task, bits=bits)) for bits in evidence.bits(task)]
    title = f"{_metric(evidence, [task])} against sparsity: {evidence.tasks[task]}"
    shown = cases if len(cases) > 1 else []
    name = f"accuracy_sparsity_{task}"
    return _figure(evidence, name, title, _ALONG, shown)


def influence_of_p(evidence: Evidence) -> Figure | None:
    """Accuracy against sparsity, a panel for each bit width and p, with ECQ in all of them."""
    widths = {task: evidence.bits(task, P_SWEEP) for task in evidence.tasks}
    tasks = [task for task, own in widths.items() if own]
    cases = []
    for task in tasks:
        for bits in widths[task]:
            swept, reference = by_p(evidence, task, bits), evidence.of(task, GRID, "ECQ", bits)
            ecq, *curves = of_common_seeds([reference, *swept.values()])
            for p, own in zip(swept, curves, strict=True):
                heading = _heading(evidence, task, f"p = {p:g}, {bits} bit", tasks)
                cases.append(Case(heading, [*ecq, *own]))
    caption = f"ECQx may add at most p to the sparsity of ECQ. {_ALONG}"
    return _figure(evidence, "influence_of_p", "Influence of p", caption, cases)


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
    caption = f"Change against the same network trained as long in full precision. {_ALONG}"
    name, title = "influence_of_batchnorm", "Influence of BatchNorm"
    return _figure(evidence, name, title, caption, cases, y=CHANGE)


def along_lambda(evidence: Evidence, name: str, y: Quantity) -> Figure | None:
    """A quantity over Λ, one panel per task."""
    cases = [case for case in _each_task(evidence) if len({s.lam for s in case.settings}) > 1]
    title = f"{y.title.split(' (')[0].capitalize()} along Λ"
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
    title = f"{_metric(evidence, tasks)} against file size"
    caption = (
        "Every setting of the grid. Lines join the settings of a method that no other one of it "
        "beats in both size and validation accuracy, the Pareto front; shown is their test "
        "accuracy, so that a line may fall."
    )
    return _figure(evidence, "accuracy_size", title, caption, cases, SIZES, fronts=True)


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
        x=SIZES,
        more=f"Whether ours is at least as accurate at the published size: {words}.",
    )


def comparison_figure(comparison: Comparison) -> Figure:
    """Accuracy against size of all methods, a few of them a panel, each beside ECQx."""
    evidence = comparison.evidence
    cases, alone, words = [], [], []
    for task, title in comparison.tasks.items():
        every, measured = comparison.of(task), comparison.methods(task)
        best = front(every)
        for group in GROUPS:
            others = [method for method in group if method in measured]
            own = [s for s in every if s.method in (*others, PAPER_METHOD)]
            if others:
                heading = _heading(evidence, task, ", ".join(others), comparison.tasks)
                cases.append(Case(heading, own, front=best))
        alone.append(Case(title, every, front=best))
        methods = ", ".join(dict.fromkeys(trial.method for trial in best))
        ends = " to ".join(_place(setting) for setting in (best[0], best[-1]))
        words.append(f"{title}: the Pareto front of all goes from {ends} ({methods}).")
    caption = (
        "Every trial, a few methods a panel, ECQx in all of them. Lines join the trials of a "
        "method that no other trial of it beats in both mean size and mean validation accuracy; "
        "the wide band joins those that no trial of any method beats. Shown is the test accuracy, "
        "so that a line may fall. Further left and higher is better."
    )
    figure = _figure(
        *(evidence, "comparison", "Accuracy against file size: all methods", caption),
        *(cases or alone, SIZES),
        fronts=True,
        more=" ".join(words),
    )
    assert figure is not None
    return figure


# -- their parts -----------------------------------------------------------------------------------


def _each_task(evidence: Evidence) -> list[Case]:
    """One case per task, at the bit width that stands for it."""
    chosen = {
        task: evidence.of(task, bits=evidence.reference_bits(task)) for task in evidence.tasks
    }
    chosen = {task: own for task, own in chosen.items() if own}
    return [
        Case(_heading(evidence, task, f"{own[0].bits} bit", chosen), own)
        for task, own in chosen.items()
    ]


def _figure(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    cases: Sequence[Case],
    x: Quantity = SPARSITIES,
    y: Quantity = ACCURACIES,
    *,
    fronts: bool = False,
    more: str = "",
) -> Figure | None:
    """A figure with one panel per case; None without a case."""
    if not cases:
        return None
    drawn = draw(cases, x, y, fronts)
    settings = [setting for case in cases for setting in case.settings]
    notes = [f"{spread_in_words(evidence)}.", caption]
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
    words = f"Curves of {y.title.replace('metric', 'the metric')} over {x.title}. {more}"
    alt = " ".join([words, *(_in_words(case, y) for case in cases)])
    return Figure(name, title, " ".join(notes), alt, drawn.panels, drawn.switches, drawn.hidden)


def _heading(evidence: Evidence, task: str, detail: str, among: Iterable[str]) -> str:
    """Title of a panel: task, its data where the figure's tasks differ in that, and the detail."""
    data, title = evidence.data(task, short=True), evidence.tasks[task]
    differ = len({evidence.data(other, short=True) for other in among}) > 1
    return f"{title}, {data}, {detail}" if differ and data not in title else f"{title}, {detail}"


def _metric(evidence: Evidence, tasks: Iterable[str]) -> str:
    name = evidence.metric_of_all(tasks)
    return name[:1].upper() + name[1:]


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
