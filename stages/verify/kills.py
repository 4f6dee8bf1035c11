"""Every stage killed at random moments and started again, against a run that nothing disturbed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from ecqx.errors import InputError
from ecqx.experiment.jobs import NO_PROGRESS, PROCESSES
from stages.verify.document import Section
from stages.verify.workplace import STAGES, outputs, prepare, settings_of

# How often each stage is killed, 40 times in all; those that train and go on, more often.
KILLS = dict.fromkeys(STAGES, 4) | {"pretrain": 8, "quantize": 12}
# Kills between two runs to the end: progress has to survive several in a row.
IN_A_ROW = 4
# The last moment, as a share of the time that an undisturbed run takes.
LATEST = 0.95


@dataclass
class Survival:
    """What became of one stage."""

    kills: int = 0
    too_late: int = 0
    completions: int = 0
    identical: int = 0
    half_written: int = 0
    trained: int = 0
    repeated: int = 0

    @property
    def passed(self) -> bool:
        """Whether all ended as if nothing had happened."""
        whole = self.completions == self.identical and not self.half_written
        return whole and not self.repeated and self.kills > 0


def kills(root: Path, suite: str) -> Section:
    """Kill each stage, with all that it started, and start it again."""
    moments = random.Random(0)
    survived = {}
    with tempfile.TemporaryDirectory(prefix="ecqx-verify-") as folder:
        place = prepare(Path(folder) / "place", root, settings_of(root, suite))
        for stage in STAGES:
            victim = Victim(place, suite, stage)
            victim.observe()
            survived[stage] = victim.kill(KILLS[stage], moments)
            print(stage, survived[stage], file=sys.stderr, flush=True)
    rows = [
        (stage, s.kills, f"{s.identical} of {s.completions}", s.half_written, s.trained, s.repeated)
        for stage, s in survived.items()
    ]
    header = ("stage", "kills", "ends as undisturbed", "half-written files")
    table = tabulate(rows, (*header, "epochs trained", "of them again"), "github")
    total = sum(s.kills for s in survived.values())
    text = (
        f"Suite `{suite}`: each stage, with all processes that it had started, was killed "
        "(`SIGKILL`) at random moments, up to "
        f"{IN_A_ROW} times in a row, then run to its end. What it left after each kill was held "
        "against an undisturbed run's: a file under its final name that is not that run's counts "
        "as half-written. At the end every file was compared byte for byte. An epoch counts as "
        "trained again if its state had been saved before.\n\n"
        f"{table}"
    )
    passed = total >= 30 and all(s.passed for s in survived.values())
    bad = sum(s.completions - s.identical + s.half_written + s.repeated for s in survived.values())
    figures = f"{total} kills survived" if passed else f"{total} kills, {bad} bad ends"
    return Section(f"kills {suite}", "Killed stages", text, passed, figures)


class Victim:
    """One stage, after those before it have run, with what it writes when nothing disturbs it."""

    def __init__(self, place: Path, suite: str, stage: str) -> None:
        self.place, self.stage, self.suite = place, stage, suite
        self.log = place / f"{stage}.log"
        self.command = [sys.executable, "-m", "stages.verify.watched", stage, suite, str(self.log)]
        self.seconds = 0.0
        self.outputs, self.progress = dict[str, str](), dict[str, str]()

    def observe(self) -> None:
        """Run it once undisturbed, and remember what it wrote and how long it took."""
        started = time.monotonic()
        self.finish()
        self.seconds = time.monotonic() - started
        self.outputs = dict(self._digests(self._written()))
        self.progress = dict(self._digests([self.place / "work" / self.stage]))
        self._forget()

    def kill(self, count: int, moments: random.Random) -> Survival:
        """Kill it so many times; runs that end before their moment do not count."""
        result = Survival()
        while result.kills < count and result.too_late <= count:
            for _ in range(min(IN_A_ROW, count - result.kills)):
                if not self._killed(moments.uniform(0.05, LATEST) * self.seconds):
                    result.too_late += 1
                    break
                result.kills += 1
                result.half_written += self._half_written()
            self.finish()
            result.completions += 1
            result.identical += dict(self._digests(self._written())) == self.outputs
            trained, repeated = self.epochs()
            result.trained += trained
            result.repeated += repeated
            if result.kills < count:
                self._forget()
        return result

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, as DVC does without its outputs."""
        for path in self._written():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != NO_PROGRESS}
        environment |= {PROCESSES: "1", "PYTHONPATH": str(self.place)}
        return subprocess.Popen(
            self.command,
            cwd=self.place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Run it to its end."""
        if self.start().wait():
            raise InputError(f"stage {self.stage} of suite {self.suite} failed after a kill")

    def _killed(self, seconds: float) -> bool:
        """Whether it still ran at that moment; where not, it takes less time than was thought."""
        started = time.monotonic()
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return True
        self.seconds = time.monotonic() - started
        return False

    def _forget(self) -> None:
        """Remove its progress, so that it has work to do."""
        shutil.rmtree(self.place / "work" / self.stage, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def _written(self) -> list[Path]:
        return outputs(self.place, self.stage, self.suite)

    def _digests(self, paths: list[Path]) -> Iterator[tuple[str, str]]:
        """Checksums of whole files; a name that begins with a dot says that it is none."""
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not file.name.startswith("."):
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    yield str(file.relative_to(self.place)), digest

    def _half_written(self) -> int:
        """Files that are there under their final names, and not as they should be."""
        found = dict(self._digests(self._written()))
        wrong = sum(self.outputs.get(name) != digest for name, digest in found.items())
        for name, digest in self._digests([self.place / "work" / self.stage]):
            path = self.place / name
            if path.suffix == ".pt":
                wrong += not _is_readable(path)
            else:
                wrong += self.progress.get(name) != digest
        return wrong

    def epochs(self) -> tuple[int, int]:
        """Epochs that were trained since the last start from nothing, and those trained again."""
        if not self.log.exists():
            return 0, 0
        saved: set[tuple[str, ...]] = set()
        trained = repeated = 0
        for line in self.log.read_text().splitlines():
            what, *epoch = line.split()
            if what == "saved":
                saved.add(tuple(epoch))
            else:
                trained += 1
                repeated += tuple(epoch) in saved
        return trained, repeated


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `Victim.start` with all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_readable(path: Path) -> bool:
    try:
        return "history" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a file that is cut off raises nearly anything
        return False
