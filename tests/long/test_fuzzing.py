"""About ten thousand forged files, read by the real decoder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from forging import FORGERIES, UNSEALED
from reading import Reader, fuzz

# Files of each kind; half of all have a checksum that does not fit.
FILES = dict.fromkeys(FORGERIES, 450) | {
    **{UNSEALED: 5000, "many codebooks": 100, "costly metadata": 150}
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_forged_files_are_refused_or_read_as_what_they_say(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> None:
    reader = Reader(tmp_path_factory.mktemp("forged"))
    try:
        seen = fuzz(reader, kind, FILES[kind])
    finally:
        reader.close()
    record_property("files", seen["files"])
    record_property("refused", seen["refused"])
    record_property("read", seen["read"])
    record_property("reached the decoder", seen["decoded"])
