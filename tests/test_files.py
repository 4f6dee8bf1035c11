"""Atomic writing: the old file or the whole new one, errors by the wanted name, nothing left."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest
import torch

import ecqx
from ecqx.coding.checkpoint import read_state
from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.errors import InputError
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


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_new_files_have_the_mode_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file.txt", "text")
        (tmp_path / "plain.txt").write_text("text")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("file.txt", "plain.txt")]
    assert modes == [0o666 & ~umask] * 2


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_replaced_files_keep_their_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(mode)
    seen = []

    def write(temporary: Path) -> None:
        seen.append(stat.S_IMODE(temporary.stat().st_mode))
        temporary.write_text("new")

    write_atomically(path, write)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "new"
    # While it is written, nobody else may read it either.
    assert seen[0] & ~(mode | stat.S_IWUSR) == 0


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "file.txt"
    target.write_text("old")
    chain = [tmp_path / "link.txt", tmp_path / "link of link.txt", tmp_path / "dangling.txt"]
    chain[0].symlink_to(Path("data/file.txt"))
    chain[1].symlink_to(chain[0])
    chain[2].symlink_to(tmp_path / "data" / "new.txt")
    for link in chain:
        write_text(link, link.name)
        assert link.is_symlink()
        assert link.read_text() == link.name
    assert target.read_text() == "link of link.txt"
    assert (tmp_path / "data" / "new.txt").read_text() == "dangling.txt"
    assert sorted(p.name for p in target.parent.iterdir()) == ["file.txt", "new.txt"]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(3, 2)
    ecqx.save("~/models/m.ecqx", model)
    write_tensors("~/m.safetensors", model.state_dict())
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]
    assert (tmp_path / "home/models/m.ecqx").is_file()
    assert set(ecqx.load("~/models/m.ecqx")) == {"weight", "bias"}
    assert set(read_tensors("~/m.safetensors")[0]) == {"weight", "bias"}
    assert set(read_state("~/models/m.ecqx")) == {"weight", "bias"}
    assert ecqx.inspect("~/models/m.ecqx").size.total > 0
    (tmp_path / "home/folder").mkdir()
    with pytest.raises(InputError, match="no regular file"):
        ecqx.save("~/folder", model)
    # A folder of this name is meant where the path says so.
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]
    ecqx.save("./~/m.ecqx", model)
    assert (tmp_path / "~" / "m.ecqx").is_file()
