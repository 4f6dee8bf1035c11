"""docs/verification.md: what each part found, in the place of what its last run said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ecqx.files import write_text

DOCUMENT = Path("docs/verification.md")
_INTRODUCTION = """\
# Verification

What the long checks found when they ran last. `make verify` runs them and writes this page.
"""


@dataclass(frozen=True)
class Section:
    """What a check found, as it stands in the document.

    Attributes
    ----------
    key : str
        Marks the section in the document: check and suite.
    title, text : str
        Markdown; no times, no paths of the machine.
    passed : bool or None
        None for a section that is no check.
    figures : str
        What was found in a few words, for the table that stands first.
    """

    key: str
    title: str
    text: str
    passed: bool | None
    figures: str = ""

    def markdown(self) -> str:
        """The section between its marks."""
        result = {True: ": passed", False: ": **failed**", None: ""}[self.passed]
        figures = f"**{self.figures}.**\n\n" if self.figures else ""
        return (
            f"<!-- {self.key} -->\n\n## {self.title}{result}\n\n{figures}{self.text}\n\n"
            f"<!-- end of {self.key} -->\n"
        )


def record(document: Path, section: Section, first: bool = False) -> None:
    """Put a section into the document, in the place of its last version, or first or last."""
    text = document.read_text(encoding="utf-8") if document.exists() else _INTRODUCTION
    mark = re.escape(section.key)
    old = re.compile(rf"<!-- {mark} -->.*?<!-- end of {mark} -->\n", re.DOTALL)
    if old.search(text):
        text = old.sub(lambda _: section.markdown(), text)
    elif first:
        start, mark, rest = text.partition("<!-- ")
        text = f"{start.rstrip()}\n\n{section.markdown()}\n{mark}{rest}"
    else:
        text = f"{text.rstrip()}\n\n{section.markdown()}"
    write_text(document, text)


def figures_of(document: str, part: str) -> list[tuple[str, str]]:
    """Titles and figures of what a part found last, for each suite that it looked at."""
    section = re.compile(
        rf"<!-- {re.escape(part)}\b[^\n]*? -->\n\n## (.*)\n\n(?:\*\*(.*)\.\*\*\n\n)?"
    )
    return [(title, figures or "") for title, figures in section.findall(document)]
