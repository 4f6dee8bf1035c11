"""The page of the comparison: the verdict, the figure and the tables, in one file."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ecqx.report.comparison_records import Measured, source_of
from ecqx.report.comparison_verdict import (
    RELATIONS,
    Judgement,
    Outcome,
    duel_table,
    rule,
    smallest_rule,
)
from ecqx.report.formats import Table
from ecqx.report.page import CLASSES, MARKS, Origin, template
from ecqx.report.sources import describe
from ecqx.report.style import Picture
from ecqx.report.verdicts import Verdict

# How an outcome looks: as the verdict on a claim does.
LIKE = {
    Outcome.WINS: Verdict.HOLDS,
    Outcome.LOSES: Verdict.FAILS,
    Outcome.MIXED: Verdict.OPEN,
    Outcome.OPEN: Verdict.OPEN,
}
TIE_MARK, TIE_CLASS = "=", "open"
# Longer tables are folded away until the reader opens them; that of methods is not.
FOLDED_ROWS = 60


def render_comparison(
    measured: Measured,
    judgements: Sequence[Judgement],
    picture: Picture,
    tables: Sequence[Table],
    origin: Origin | None,
) -> str:
    """Render the page.

    Returns
    -------
    str
        HTML that loads nothing from outside itself; links lead to the files that lie beside it.
    """
    return template("comparison.html.j2").render(
        suite=measured.suite,
        measured=describe(
            (title, source_of(measured.files(task))) for task, title in measured.tasks.items()
        ),
        judgements=judgements,
        outcomes=list(Outcome),
        relations=RELATIONS,
        marks={Outcome.TIES: TIE_MARK} | {own: MARKS[like] for own, like in LIKE.items()},
        classes={Outcome.TIES: TIE_CLASS} | {own: CLASSES[like] for own, like in LIKE.items()},
        loss=measured.rules.loss_in_words,
        duels=duel_table(measured, judgements),
        rule=rule(measured),
        smallest_rule=smallest_rule(measured.rules),
        picture=picture,
        drawing=base64.b64encode(picture.svg).decode("ascii"),
        tables=tables,
        origin=origin,
        folded_rows=FOLDED_ROWS,
    )
