"""A sample of the forged files of `make verify`, and that the harness sees what it is there for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecqx.coding import bitstream
from ecqx.coding.tensor_coding import CODEBOOKS
from stages.verify.forging import CODEBOOK_FORGERIES, forge, originals
from stages.verify.fuzzing import CRASH, Outcome, Reader, Tally, fingerprint, fuzz

FILES = 400


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    started = Reader()
    yield started
    started.close()


def test_forged_files_are_refused_or_read_as_what_they_say(reader: Reader) -> None:
    tally = fuzz(reader, FILES, seed=1)
    assert tally.problems == []
    assert sum(tally.kinds.values()) == FILES
    assert sum(n for (sealed, _), n in tally.kinds.items() if sealed) == FILES // 2
    # What is forged with its checksum reaches the decoder, and what is not does not.
    assert sum(n for (sealed, _), n in tally.decoded.items() if sealed) > FILES // 5
    assert not any(n for (sealed, _), n in tally.decoded.items() if not sealed)
    assert {kind for sealed, kind in tally.kinds if sealed and tally.decoded[sealed, kind]} >= {
        *("flipped", "forged payload", "another shape", "elements without end"),
    }


def test_originals_have_every_type_in_both_versions() -> None:
    files = originals()
    codes = {
        v: {e.code for f in files if f.version == v for e in f.entries.values()} for v in (1, 2)
    }
    assert codes[1] == set(range(12))
    assert codes[2] >= {0, *CODEBOOKS}
    sizes = {len(e.codebook) for f in files for e in f.entries.values() if e.codebook is not None}
    assert {3, 16, 256} <= sizes


@pytest.mark.parametrize("kind", CODEBOOK_FORGERIES)
def test_forged_codebooks_are_refused_or_read_as_what_they_say(
    kind: str, reader: Reader, tmp_path: Path
) -> None:
    path = tmp_path / "forged.ecqx"
    answers = []
    for original in (file for file in originals() if file.version == 2):
        for number in range(2 if kind == "many codebooks" else 12):
            path.write_bytes(CODEBOOK_FORGERIES[kind](random.Random(number), original))
            outcome = reader.read(path)
            assert isinstance(outcome, Outcome)
            assert outcome.problems() == ""
            answers.append(outcome.refusal)
    told = [answer.split("valid bitstream: ")[-1] for answer in answers if answer]
    if kind == "codebook cut off":
        assert None not in answers
    if kind == "codebook of another form":
        assert any("sums has 1 to 8 numbers" in words for words in told)
    if kind == "codebook of another count":
        assert any("numbers, not " in words for words in told)
    if kind == "codebook of other numbers":
        assert any("codebook holds NaN or infinite values" in words for words in told)
        assert None in answers
    if kind == "many codebooks":
        assert not told
    if kind == "integers outside the codebook":
        assert {"the codebook allows" in words for words in told} == {True}
        assert None in answers


def test_good_files_are_read_and_a_crash_is_survived(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "good.ecqx"
    for original in originals():
        path.write_bytes(original.data)
        outcome = reader.read(path)
        assert isinstance(outcome, Outcome)
        assert (outcome.refusal, outcome.problem, outcome.problems()) == (None, "", "")
        assert outcome.decoded > 0
        assert len(fingerprint(bitstream.load(path))) == 128
    reader._process.kill()
    assert reader.read(path) == CRASH
    assert isinstance(reader.read(path), Outcome)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(None, "", 1, 1.5, 0, 100), "1.5 s"),
        (Outcome("refused", "", 1, 0.1, 50 << 20, 4 << 20), "bytes of memory"),
        (Outcome("refused", "no good message", 1, 0.1, 0, 100), "no good message"),
        (CRASH, CRASH),
    ],
)
def test_what_must_not_be_is_counted(outcome: Outcome | str, told: str) -> None:
    forged = forge(random.Random(0), originals(), sealed=True)
    tally = Tally()
    tally.add(7, forged, outcome)
    assert len(tally.problems) == 1
    assert told in tally.problems[0]
    assert "file 7" in tally.problems[0]


def test_a_file_that_is_read_in_spite_of_its_checksum_is_counted() -> None:
    forged = forge(random.Random(0), originals(), sealed=False)
    tally = Tally()
    tally.add(1, forged, Outcome(None, "", 1, 0.0, 0, 1))
    assert "in spite of its checksum" in tally.problems[0]
