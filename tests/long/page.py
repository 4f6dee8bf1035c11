"""Writes what the long tests found into docs/verification.md: ``python tests/long/page.py XML``.

The XML is pytest's JUnit file. Each part (``test_PART.py``) becomes one table, with a row a test:
its parameter or name, its recorded properties, its outcome.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, parse

from tabulate import tabulate

DOCUMENT = Path(__file__).parents[2] / "docs" / "verification.md"


def tables(junit: Path) -> Iterator[tuple[str, str]]:
    """Name and Markdown of each part that ran."""
    parts = defaultdict[str, list[Element]](list)
    for case in parse(junit).iter("testcase"):
        parts[case.get("classname", "").rpartition(".test_")[2]].append(case)
    for part, cases in parts.items():
        yield part, table_of(cases)


def table_of(cases: Sequence[Element]) -> str:
    """The verdict in one line, and the table."""
    rows: list[dict[str, object]] = [_row(case) for case in cases]
    suites = sorted({str(row.pop("suite")) for row in rows if "suite" in row})
    passed = sum(row["result"] == "passed" for row in rows)
    of_suite = f", suite `{suites[0]}`" if suites else ""
    numbers = [name for name in rows[0] if all(isinstance(row.get(name), int) for row in rows)]
    if numbers:
        sums = {name: sum(int(str(row[name])) for row in rows) for name in numbers}
        rows.append({"": "all", **sums})
    table = tabulate(rows, headers="keys", tablefmt="github", missingval="")
    return f"**{passed} of {len(cases)} passed{of_suite}.**\n\n{table}"


def _row(case: Element) -> dict[str, object]:
    name, _, parameter = case.get("name", "").removesuffix("]").partition("[")
    label = name.removeprefix("test_").replace("_", " ")
    properties = {
        str(each.get("name")): _number(str(each.get("value"))) for each in case.iter("property")
    }
    failed = any(case.find(kind) is not None for kind in ("failure", "error"))
    skipped = case.find("skipped") is not None
    result = "**failed**" if failed else "skipped" if skipped else "passed"
    return {"": parameter or label, **properties, "result": result}


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def write(document: Path, junit: Path) -> None:
    """Replace the table of each part that ran."""
    text = document.read_text(encoding="utf-8")
    for part, table in tables(junit):
        mark = re.compile(rf"(<!-- {part} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not mark.search(text):
            sys.exit(f"{document.name}: has no section <!-- {part} -->")
        text = mark.sub(lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", text)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(DOCUMENT, Path(sys.argv[1]))
