"""Some forged files of each kind, and that what must not be is noticed; `tests/long` has many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from forging import FORGERIES, originals
from reading import Outcome, Reader, fuzz

from ecqx.coding.container import VERSIONS
from ecqx.coding.entries import codebook_centroids
from ecqx.coding.type_codes import CODEBOOKS

FILES = 25
# Kinds of which some files reach the decoder.
DECODED = {"forged payload", "another shape", "elements without end", "any bytes of the contents"}
# Kinds of which none is read, and of which all or some are.
NEVER, ALWAYS = {"elements without end", "another version"}, {"many codebooks"}
SOMETIMES = {"codebook of other numbers", "integers outside the codebook"}
SLOW = {"elements without end", "many codebooks", "costly metadata"}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    started = Reader(tmp_path_factory.mktemp("forged"))
    yield started
    started.close()


@pytest.mark.parametrize("kind", FORGERIES)
def test_forged_files_are_refused_or_read_as_what_they_say(kind: str, reader: Reader) -> None:
    seen = fuzz(reader, kind, 4 if kind in SLOW else FILES)
    assert seen["decoded"] or kind not in DECODED
    assert not seen["read"] or kind not in NEVER
    assert not seen["refused"] or kind not in ALWAYS
    assert (seen["read"] and seen["refused"]) or kind not in SOMETIMES


def test_valid_files_have_every_type_in_each_version_and_are_read(reader: Reader) -> None:
    files = originals()
    codes = {
        v: {e.code for f in files if f.version == v for e in f.entries.values()} for v in VERSIONS
    }
    assert codes[1] == set(range(12))
    assert codes[2] >= {0, *CODEBOOKS}
    assert codes[3] >= {0, 12}
    entries = [entry for file in files for entry in file.entries.values()]
    sizes = {len(codebook_centroids(e.form, e.numbers)) for e in entries if e.form is not None}
    assert {3, 16, 256} <= sizes
    for file in files:
        outcome = reader.read(file.data)
        outcome.check()
        assert outcome.refusal is None
        assert outcome.decoded > 0


def test_a_crash_fails_and_the_next_file_is_read(reader: Reader) -> None:
    data = originals()[0].data
    reader.read(data)
    (process,) = reader.pool._processes.values()
    process.kill()
    with pytest.raises(AssertionError, match="crashed"):
        reader.read(data)
    assert reader.read(data).refusal is None


@pytest.mark.parametrize(
    "bad",
    [{"seconds": 1.5}, {"memory": 50 << 20}, {"problem": "no good message"}],
    ids=lambda bad: next(iter(bad)),
)
def test_a_slow_greedy_or_wrong_answer_fails(bad: dict[str, object]) -> None:
    good = Outcome("refused", "", 1, 0.1, 0, 4 << 20)
    good.check()
    with pytest.raises(AssertionError):
        replace(good, **bad).check()  # type: ignore[arg-type]
