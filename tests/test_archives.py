"""Folders, zip and tar archives read alike; damage is reported, never skipped."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ecqx.data.archives import ARCHIVES, members, names
from ecqx.errors import InputError

FILES = {
    "README.md": b"a text",
    "test/b/3.png": b"three" * 300,
    "train/a/1.png": b"one" * 500,
    "train/b/2.png": b"",
}
Pairs = list[tuple[str, bytes]]
PARTS = st.text("ab-_ é0", min_size=1, max_size=4)
TREES = st.dictionaries(
    st.tuples(st.sampled_from(["train", "test"]), PARTS, PARTS).map(lambda parts: "/".join(parts)),
    st.binary(max_size=600),
    max_size=6,
)


def pack(path: Path, files: Mapping[str, bytes] | Pairs, prefix: str = "") -> Path:
    """Write files as a folder or as the archive that the name's ending says."""
    pairs = list(files.items()) if isinstance(files, Mapping) else files
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in pairs:
                archive.writestr(prefix + name, content)
    elif path.name.endswith(ARCHIVES):
        mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
        with tarfile.open(path, mode) as tar:
            for name, content in pairs:
                entry = tarfile.TarInfo(prefix + name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    else:
        for name, content in pairs:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        dict(members(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    with pytest.raises(InputError):
        names(path)
    return message


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# -- all kinds alike -------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "./", "top/", "./top folder/"])
@pytest.mark.parametrize("kind", ["", *ARCHIVES])
def test_every_kind_gives_the_same(tmp_path: Path, kind: str, prefix: str) -> None:
    path = pack(tmp_path / f"files{kind}", FILES, prefix)
    before = tree(tmp_path)
    assert dict(members(path)) == FILES
    assert sorted(names(path)) == sorted(FILES)
    assert tree(tmp_path) == before


@given(files=TREES, top=st.sampled_from(["", "./", "x/", "./x y/"]))
def test_any_tree_comes_back(files: dict[str, bytes], top: str) -> None:
    files |= {"README": b"so that no folder holds everything"}
    with tempfile.TemporaryDirectory() as folder:
        for kind in (".zip", ".tar", ".tar.gz"):
            path = pack(Path(folder) / f"x{kind}", files, top)
            assert list(members(path)) == list(files.items())
            assert names(path) == list(files)


def test_folders_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    shuffled = dict(reversed(FILES.items()))
    assert names(pack(tmp_path / "files", shuffled)) == sorted(FILES)
    assert names(pack(tmp_path / "files.zip", shuffled)) == list(shuffled)


@pytest.mark.parametrize("kind", ["", *ARCHIVES])
def test_only_what_is_wanted_is_read(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"files{kind}", FILES, "top/" if kind else "")
    asked = []

    def wanted(name: str) -> bool:
        asked.append(name)
        return name.startswith("train/")

    assert set(dict(members(path, wanted))) == {"train/a/1.png", "train/b/2.png"}
    assert sorted(asked) == sorted(FILES)


def test_damage_to_what_is_not_wanted_does_not_matter(tmp_path: Path) -> None:
    path = pack(tmp_path / "files.zip", FILES)
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("train/a/1.png").header_offset + 30 + len("train/a/1.png") + 2
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    assert dict(members(path, lambda n: n != "train/a/1.png")).keys() == FILES.keys() - {
        "train/a/1.png"
    }
    assert sorted(names(path)) == sorted(FILES)
    with pytest.raises(InputError, match=r"files\.zip: "):
        dict(members(path))


@pytest.mark.parametrize("kind", ["", *ARCHIVES])
def test_what_systems_leave_behind_is_left_out(tmp_path: Path, kind: str) -> None:
    prefix = "top/" if kind else ""
    junk = (".DS_Store", "top/train/._1.png", "__MACOSX/top/a.png", "top/.git/config")
    files = {prefix + name: content for name, content in FILES.items()}
    path = pack(tmp_path / f"files{kind}", dict.fromkeys(junk, b"junk") | files)
    assert dict(members(path)) == FILES


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ARCHIVES)
def test_of_files_of_one_name_the_last_counts(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"files{kind}", [("x/a", b"old"), ("y/b", b""), ("x/a", b"new")])
    assert names(path) == ["x/a", "y/b"]
    assert dict(members(path)) == {"x/a": b"new", "y/b": b""}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_nothing(tmp_path: Path, kind: str) -> None:
    assert names(pack(tmp_path / f"files{kind}", {})) == []


# -- what could lead out of the archive ------------------------------------------------------------


@pytest.mark.parametrize("kind", ARCHIVES)
def test_names_that_lead_elsewhere_do_no_harm(tmp_path: Path, kind: str) -> None:
    inner = tmp_path / "in" / "here"
    inner.mkdir(parents=True)
    outside = {"../../x/y.png": b"out", f"{tmp_path}/absolute.png": b"out", "a/../../../z": b"out"}
    path = pack(inner / f"files{kind}", FILES | outside)
    before = tree(tmp_path)
    found = dict(members(path))
    assert tree(tmp_path) == before
    assert {name: found[name] for name in FILES} == FILES
    assert not any(".." in name for name in found)


def test_links(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"not in the archive")
    tree = pack(tmp_path / "tree", {"a/1": b"one", "b/2": b"two"})
    os.link(tree / "a/1", tree / "b/same")
    (tree / "b/outside").symlink_to(secret)
    for kind in ("", ".gz", ".xz"):
        path = tmp_path / f"files.tar{kind}"
        with tarfile.open(path, f"w:{kind[1:]}") as tar:
            tar.add(tree, ".")
            assert tar.getmember("./b/same").islnk() or tar.getmember("./a/1").islnk()
        assert dict(members(path)) == {"a/1": b"one", "b/2": b"two", "b/same": b"one"}


def test_a_link_to_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "files.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("a/1")
        entry.type, entry.linkname = tarfile.LNKTYPE, "../../etc/passwd"
        tar.addfile(entry)
    with pytest.raises(InputError, match=r"files\.tar: "):
        dict(members(path))


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARCHIVES)
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
def test_cut_off_archives_are_refused_wherever_they_end(kind: str, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pack(Path(folder) / f"files{kind}", FILES)
        whole = path.read_bytes()
        # What follows the first block of zeros only fills a plain tar up.
        end = len(whole.rstrip(b"\0")) if kind == ".tar" else len(whole)
        path.write_bytes(whole[: int(share * end)])
        refusal(path)


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.xz"])
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(kind: str, share: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pack(Path(folder) / f"files{kind}", FILES)
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 1 << bit
        path.write_bytes(content)
        # Some bits, such as the hour in a gzip file, mean nothing.
        with contextlib.suppress(InputError):
            assert dict(members(path)) == FILES


@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, kind: str) -> None:
    plain = bytearray(pack(tmp_path / "files.tar", FILES).read_bytes())
    plain[plain.index(b"train/a/1.png")] ^= 1
    path = tmp_path / f"damaged{kind}"
    if kind == ".tar":
        path.write_bytes(plain)
    else:
        path.write_bytes(gzip.compress(bytes(plain)))
    assert "damaged in the middle" in refusal(path)


def test_zips_with_a_password(tmp_path: Path) -> None:
    path = pack(tmp_path / "files.zip", {"a/1": b"one", "b/2": b"two"})
    content = path.read_bytes()
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(header) + flags
        content = content[:start] + b"\x01" + content[start + 1 :]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"files\.zip: .*encrypted"):
        dict(members(path))


def test_zips_with_unreadable_names(tmp_path: Path) -> None:
    path = pack(tmp_path / "files.zip", {"a/é": b"one", "b/2": b"two"})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    refusal(path)


def test_zips_that_are_cut_off_are_judged_as_such(tmp_path: Path) -> None:
    path = pack(tmp_path / "files.zip", FILES)
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(path).endswith("(File is not a zip file)")


@pytest.mark.parametrize("name", ["files.zip", "files.tar.gz", "files.tar", "files"])
@pytest.mark.parametrize("content", [b"", b"a text\nof two lines\n", bytes(100), b"PK\x03\x04"])
def test_files_that_are_no_archives(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "not a readable folder, or whole zip or tar archive" in refusal(path)


def test_nothing_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "files.zip").endswith("no such file or folder")


def test_an_archive_without_its_ending(tmp_path: Path) -> None:
    for kind in ARCHIVES:
        path = pack(tmp_path / f"files{kind}", FILES).rename(tmp_path / "files")
        assert dict(members(path)) == FILES
