"""Finding, downloading and unpacking: what is asked of the server, and what is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecqx.data import downloads
from ecqx.data.downloads import Source, provide, unpack
from ecqx.errors import InputError

CONTENT = np.random.default_rng(0).bytes(700_001)
FILE = "things.tar.gz"


@dataclass
class Site:
    """A server of one file: how it behaves, and what it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    # Bytes after which the connections are cut, one after the other; None lets one end well.
    cuts: list[int | None] = field(default_factory=list)
    # Answers given before any content.
    statuses: list[int] = field(default_factory=list)
    # Added to the start of every range, as no server should.
    shift: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    # Content goes on only when this is set.
    gate: threading.Event | None = None
    # Range of every request, and how many bytes of content were sent on it, but for cuts.
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def source(self, **changes: object) -> Source:
        values: dict[str, object] = {
            "title": "Things",
            "found_as": ("things", FILE),
            "url": self.url,
            "checksum": "sha256:" + hashlib.sha256(CONTENT).hexdigest(),
        }
        return Source(**(values | changes))  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        asked = self.headers["Range"]
        site.asked.append(asked)
        if site.statuses:
            self.send_error(site.statuses.pop(0))
            return
        start = 0
        if asked and site.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if start >= len(site.content):
                self.send_error(416)
                return
            start += site.shift
        self.send_response(206 if asked and site.ranges else 200)
        if asked and site.ranges:
            total = len(site.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(site.content) - start))
        for name, value in site.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.send_content(site.content[start:])

    def send_content(self, content: bytes) -> None:
        site = self.site
        site.sent.append(len(content))
        if site.gate is None:
            cut = site.cuts.pop(0) if site.cuts else None
            self.wfile.write(content[:cut])
            return
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.wfile.flush()
        site.gate.wait(30)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/{FILE}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy between the tests and their server, and no waiting between attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "RETRIES", downloads.RETRIES.new(backoff_factor=0))


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as served:
        yield served


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def refusal(source: Source, root: Path) -> str:
    with pytest.raises(InputError) as caught:
        provide(source, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def part(root: Path, content: bytes) -> Path:
    root.mkdir(exist_ok=True)
    path = root / f"{FILE}.part"
    path.write_bytes(content)
    return path


# -- what is there already -------------------------------------------------------------------------


def test_the_best_name_that_is_there_counts_and_nothing_is_asked_for(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    assert provide(site.source(), tmp_path) == tmp_path / FILE
    (tmp_path / "things").mkdir()
    assert provide(site.source(), str(tmp_path)) == tmp_path / "things"
    assert site.asked == []


def test_another_form_of_the_data_is_not_held_against_the_checksum(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "things.zip").write_bytes(b"the same in another wrapping")
    source = site.source(found_as=("things", "things.zip", FILE))
    assert provide(source, tmp_path) == tmp_path / "things.zip"


@pytest.mark.parametrize("content", [CONTENT[:-1], b"", CONTENT[:-1] + b"\0\0", b"<html>"])
def test_a_wrong_archive_is_refused_and_kept(site: Site, tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    message = refusal(site.source(), tmp_path)
    assert str(tmp_path / FILE) in message
    assert "delete it, and it will be downloaded again" in message
    assert (tmp_path / FILE).read_bytes() == content
    assert site.asked == []


def test_a_wrong_archive_that_has_no_address_names_the_other_way(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes(b"")
    message = refusal(site.source(url="", otherwise="use the full archive"), tmp_path)
    assert message.endswith("delete it, and use the full archive")


# -- a download ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_leaves_the_file_and_nothing_else(
    site: Site, tmp_path: Path, ranges: bool, algorithm: str
) -> None:
    site.ranges = ranges
    root = tmp_path / "made" / "for it"
    source = site.source(checksum=f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}")
    for _ in range(2):
        assert provide(source, root) == root / FILE
    assert (root / FILE).read_bytes() == CONTENT
    assert left(root) == [FILE]
    assert site.asked == [None]


def test_bytes_are_kept_as_they_come(site: Site, tmp_path: Path) -> None:
    """Servers that call an archive's own compression an encoding would have it undone."""
    site.headers["Content-Encoding"] = "gzip"
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT


def test_a_download_is_continued(site: Site, tmp_path: Path) -> None:
    part(tmp_path, CONTENT[:300_000])
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=300000-"]
    assert site.sent == [len(CONTENT) - 300_000]
    assert left(tmp_path) == [FILE]


def test_a_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    part(tmp_path, CONTENT[:300_000])
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.sent == [len(CONTENT)]


def test_a_server_that_sends_another_range_is_asked_for_all(site: Site, tmp_path: Path) -> None:
    site.shift = 5
    part(tmp_path, CONTENT[:300_000])
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=300000-", None]


def test_a_whole_part_needs_no_server(tmp_path: Path) -> None:
    part(tmp_path, CONTENT)
    source = Site(url=f"http://127.0.0.1:9/{FILE}").source()
    assert provide(source, tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == [FILE]


@pytest.mark.parametrize("wrong", [CONTENT + b"more", bytes(len(CONTENT))])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_that_cannot_be_continued_is_dropped(
    site: Site, tmp_path: Path, wrong: bytes, ranges: bool
) -> None:
    site.ranges = ranges
    part(tmp_path, wrong)
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.sent == [len(CONTENT)]


def test_a_wrong_start_is_noticed_and_the_next_run_begins_anew(site: Site, tmp_path: Path) -> None:
    part(tmp_path, bytes(1000))
    assert site.url in refusal(site.source(), tmp_path)
    assert left(tmp_path) == []
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT


def test_another_file_than_expected_is_deleted(site: Site, tmp_path: Path) -> None:
    site.content = b"<html>please log in</html>"
    message = refusal(site.source(), tmp_path)
    assert site.url in message
    assert "deleted" in message
    assert left(tmp_path) == []


# -- bad connections -------------------------------------------------------------------------------


def test_a_cut_connection_is_continued_where_it_ended(site: Site, tmp_path: Path) -> None:
    site.cuts = [400_000]
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert len(site.asked) == 2
    assert 0 < int(site.asked[1].removeprefix("bytes=")[:-1]) <= 400_000  # type: ignore[union-attr]


def test_connections_that_bring_something_may_be_many(site: Site, tmp_path: Path) -> None:
    site.cuts = [downloads.PIECE + 10] * 8
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert len(site.asked) == 9


@pytest.mark.parametrize("ranges", [True, False])
def test_connections_that_bring_nothing_new_are_given_up(
    site: Site, tmp_path: Path, ranges: bool
) -> None:
    site.ranges = ranges
    site.cuts = [0 if ranges else 400_000] * 100
    assert site.url in refusal(site.source(), tmp_path)
    assert len(site.asked) == downloads.CONNECTIONS
    site.cuts = []
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT


@given(
    start=st.integers(0, len(CONTENT)),
    cuts=st.lists(st.none() | st.integers(0, len(CONTENT)), max_size=3),
    ranges=st.booleans(),
)
def test_whatever_the_connections_do_the_file_is_right(
    start: int, cuts: list[int | None], ranges: bool
) -> None:
    with serving(Site(cuts=cuts, ranges=ranges)) as site, tempfile.TemporaryDirectory() as folder:
        part(Path(folder), CONTENT[:start])
        assert provide(site.source(), folder).read_bytes() == CONTENT
        assert left(Path(folder)) == [FILE]


def test_a_busy_server_is_asked_again_and_keeps_what_is_there(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    part(tmp_path, CONTENT[:300_000])
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.asked == ["bytes=300000-"] * 3


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status] * 10
    assert f"HTTP {status}" in refusal(site.source(), tmp_path)
    assert len(site.asked) == 1


def test_offline_the_message_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{FILE}"
        message = refusal(Site(url=url).source(), tmp_path)
    for expected in (
        *("Things", str(tmp_path), url, f"things or {FILE}", "data.root", "ECQX_DATA"),
        "make paper-results SUITE=embedded",
    ):
        assert expected in message
    assert left(tmp_path) == []


# -- folders, kills and other processes ------------------------------------------------------------


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """The system's administrator may write everywhere: be somebody else."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_cannot_be_written_to(site: Site) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with unprivileged():
            for root in (Path(folder), Path(folder) / "new"):
                message = refusal(site.source(), root)
                assert "Permission denied" in message
                assert folder in message
                assert "data.root" in message
        assert site.asked == []


def test_a_root_that_is_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refusal(site.source(), tmp_path / "file")


SCRIPT = """
import os, signal, sys
from ecqx.data.downloads import Source, provide, unpack

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] != "nowhere":
    setattr(os, sys.argv[1], die)
{call}
"""


def process(call: str, dies_at: str = "nowhere") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT.format(call=call), dies_at])


def test_a_kill_half_way_costs_nothing_that_came(site: Site, tmp_path: Path) -> None:
    site.gate = threading.Event()
    running = process(f"provide({site.source()!r}, {str(tmp_path)!r})")
    path = tmp_path / f"{FILE}.part"
    pieces = len(CONTENT) // 2 // downloads.PIECE
    try:
        for _ in range(600):
            if path.exists() and path.stat().st_size >= pieces * downloads.PIECE:
                break
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        site.gate.set()
    size = path.stat().st_size
    assert size == pieces * downloads.PIECE
    assert not (tmp_path / FILE).exists()
    site.gate, site.sent, site.asked = None, [], []
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.asked == [f"bytes={size}-"]
    assert site.sent == [len(CONTENT) - size]
    assert left(tmp_path) == [FILE]


def test_a_kill_before_the_new_name_needs_no_second_download(site: Site, tmp_path: Path) -> None:
    running = process(f"provide({site.source()!r}, {str(tmp_path)!r})", dies_at="fsync")
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / FILE).exists()
    assert provide(site.source(), tmp_path).read_bytes() == CONTENT
    assert site.asked == [None]


def test_of_several_at_once_one_downloads(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    site.gate = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(provide, site.source(), tmp_path) for _ in range(4)]
        for _ in range(600):
            if said.getvalue().count("another process") >= 3:
                break
            time.sleep(0.05)
        site.gate.set()
        assert [job.result(30) for job in running] == [tmp_path / FILE] * 4
    assert said.getvalue().count("another process") >= 3
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert site.asked == [None]
    assert left(tmp_path) == [FILE]


# -- unpacking -------------------------------------------------------------------------------------

TREE = {"top/tree/a.txt": b"a", "top/tree/deep/b.bin": bytes(3000), "top/other/c": b"c"}


def pack(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    mode = {".gz": "w:gz", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_a_folder_is_unpacked_beside_its_archive(tmp_path: Path, suffix: str) -> None:
    archive = pack(tmp_path / f"archive{suffix}", TREE)
    assert unpack(archive, "top/tree") == tmp_path / "top/tree"
    assert contents(tmp_path / "top") == {"tree/a.txt": b"a", "tree/deep/b.bin": bytes(3000)}
    assert left(tmp_path) == [archive.name, "top"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "top/tree").mkdir(parents=True)
    assert unpack(pack(tmp_path / "archive.tar", TREE), "top/tree") == tmp_path / "top/tree"
    assert contents(tmp_path / "top") == {}


@pytest.mark.parametrize("name", ["../evil", "top/../../evil", "{outside}/evil"])
@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_unpacked_outside(tmp_path: Path, name: str, link: bool) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    target = name.format(outside=outside)
    files = TREE | {"top/link/evil" if link else target: b"evil"}
    archive = pack(root / "archive.tar", files, {"top/link": target} if link else None)
    if link or not name.startswith("{"):
        with pytest.raises(InputError, match=r"archive\.tar: top cannot be unpacked"):
            unpack(archive, "top")
        assert left(root) == [archive.name]
    else:  # tarfile makes an absolute name relative
        unpack(archive, "top")
        assert left(root) == [archive.name, "top"]
    assert left(tmp_path) == ["outside", "root"]
    assert left(outside) == []


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_a_damaged_archive_leaves_no_folder(tmp_path: Path, suffix: str, keep: float) -> None:
    files = {f"top/{i}": np.random.default_rng(i).bytes(20_000) for i in range(5)}
    archive = pack(tmp_path / f"archive{suffix}", files)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(InputError) as caught:
        unpack(archive, "top")
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == [archive.name]


def test_an_archive_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"archive\.tar: elsewhere cannot be unpacked"):
        unpack(pack(tmp_path / "archive.tar", TREE), "elsewhere")


def test_a_kill_leaves_no_folder_and_the_next_run_clears_up(tmp_path: Path) -> None:
    archive = pack(tmp_path / "archive.tar", TREE)
    call = f"from pathlib import Path; unpack(Path({str(archive)!r}), 'top')"
    assert process(call, dies_at="sync").wait() == -signal.SIGKILL
    assert not (tmp_path / "top").exists()
    (begun,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (begun / "top/of another archive").touch()
    assert contents(unpack(archive, "top")) == {
        name.removeprefix("top/"): content for name, content in TREE.items()
    }
    assert left(tmp_path) == [archive.name, "top"]
