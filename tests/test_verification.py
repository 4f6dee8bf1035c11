"""The page of the long tests: what it names exists, and its tables are what the tests recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from long import page  # type: ignore[import-not-found]

TESTS = Path(__file__).parent
TEXT = page.DOCUMENT.read_text(encoding="utf-8")
PARTS = {path.stem.removeprefix("test_") for path in (TESTS / "long").glob("test_*.py")}
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.long.test_kills" name="test_a_kill[pretrain]">
<properties><property name="suite" value="smoke"/><property name="kills" value="8"/></properties>
</testcase>
<testcase classname="tests.long.test_kills" name="test_a_kill[encode]">
<properties><property name="suite" value="smoke"/><property name="kills" value="4"/></properties>
<failure message="no"/></testcase>
<testcase classname="tests.long.test_concurrency" name="test_both_succeed"/>
</testsuite></testsuites>
"""


def test_the_tests_that_the_page_names_exist() -> None:
    names = re.findall(r"`tests/(\w+\.py)(?:::(\w+))?`", TEXT)
    assert len(names) > 30
    for file, test in names:
        source = (TESTS / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(" if test else r"^def test_", source, re.MULTILINE), test


def test_every_part_is_named_and_has_a_table() -> None:
    assert set(re.findall(r"`make verify PART=(\w+)`", TEXT)) == PARTS
    assert set(re.findall(r"^<!-- (?!end)(\w+) -->$", TEXT, re.MULTILINE)) == PARTS


def test_a_run_replaces_the_tables_of_its_parts(tmp_path: Path) -> None:
    document, junit = tmp_path / "page.md", tmp_path / "verify.xml"
    junit.write_text(JUNIT)
    sections = [f"<!-- {part} -->\nold {part} \\1\n<!-- end -->" for part in sorted(PARTS)]
    document.write_text("\n".join(sections))
    page.write(document, junit)
    text = document.read_text()
    assert "old kills" not in text
    assert "old fuzzing" in text
    assert "**1 of 2 passed, suite `smoke`.**" in text
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"\|.*", text)]
    assert ["pretrain", "8", "passed"] in rows
    assert ["encode", "4", "**failed**"] in rows
    assert ["all", "12", ""] in rows
    assert ["both succeed", "passed"] in rows
    page.write(document, junit)
    assert document.read_text() == text


def test_a_part_without_a_section_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("")
    (tmp_path / "verify.xml").write_text(JUNIT)
    with pytest.raises(SystemExit, match="no section"):
        page.write(tmp_path / "page.md", tmp_path / "verify.xml")
