"""Atomic writing: the old file or the whole new one, errors by the wanted name, nothing left."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from ecqx.files import write_atomically, write_text


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old\n")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_text("new\n")
        seen.append((path.read_text(), temporary.parent == path.parent, temporary.name))

    write_atomically(path, write)
    assert path.read_text() == "new\n"
    ((old, beside, name),) = seen
    assert (old, beside) == ("old\n", True)
    assert name.startswith(".file.txt.")
    assert name.endswith(".part")
    assert list(path.parent.iterdir()) == [path]


def test_errors_of_the_disk_name_the_wanted_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old\n")

    def write(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, write)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(FileExistsError) as exists:
        write_text(path / "below", "text")
    assert exists.value.filename == str(path)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file.txt", write)
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_abandoned_is_removed(tmp_path: Path) -> None:
    names = [".file.txt.a1b2.part", ".file.txt.c3d4.part", ".other.txt.e5f6.part", "file.txt.part"]
    for name in names:
        (tmp_path / name).write_text("half")
    for name in names[0], *names[2:]:
        hours_ago = time.time() - 2 * 3600
        os.utime(tmp_path / name, (hours_ago, hours_ago))
    write_text(tmp_path / "file.txt", "new\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["file.txt", *names[1:]])
