"""The page of the long checks: what it promises is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ecqx.errors import InputError
from stages.verify import __main__ as verify
from stages.verify.document import Section, record
from stages.verify.overview import ITEMS, overview

TESTS = Path(__file__).parent
NAMES = sorted(
    {name for items in ITEMS.values() for _, tests, _ in items for name in tests.split()}
)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_table_names_exists(name: str) -> None:
    file, _, test = name.partition("::")
    source = (TESTS / file).read_text()
    assert re.search(rf"^def {test}\(" if test else r"^def test_", source, re.MULTILINE)


def test_every_part_that_the_table_names_exists() -> None:
    named = {part for items in ITEMS.values() for _, _, part in items if part}
    assert named == set(verify.PARTS)


def test_the_table_has_the_figures_of_the_last_run(tmp_path: Path) -> None:
    document = tmp_path / "verification.md"
    record(document, Section("kills smoke", "Killed stages", "Table.", True, "36 kills survived"))
    record(document, Section("fuzzing", "Forged files", "Table.", False))
    text = overview(document.read_text()).markdown()
    (line,) = [line for line in text.splitlines() if "PART=kills" in line]
    assert line.split("|")[-2].strip() == "36 kills survived"
    assert "Forged files: **failed**" in text
    assert "not run yet" in text


def test_parts_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def part(_root: Path, suite: str) -> Section:
        ran.append(suite)
        return Section(f"kills {suite}", "Killed stages", "Table.", suite != "bad", "1 kill")

    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("suite: own")
    for name in ("bad", "smoke"):
        Path("suites", name).mkdir(parents=True)
        Path("suites", name, "params.yaml").write_text(f"suite: {name}")
    for name in verify.PARTS:
        monkeypatch.setitem(verify.PARTS, name, part)
    assert verify.main(["kills"]) == 0
    assert verify.main(["bad", "kills"]) == 1
    assert verify.main(["determinism"]) == 0
    assert ran == ["smoke", "bad", "own"]
    text = Path("docs/verification.md").read_text()
    assert text.index("What shows what") < text.index("Killed stages: passed")
    assert "Killed stages: **failed**" in text
    with pytest.raises(InputError, match="usage"):
        verify.main(["own", "bad"])
