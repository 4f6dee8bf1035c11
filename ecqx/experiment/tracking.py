"""Where the numbers of a training are sent: to DVCLive, TensorBoard or Weights & Biases.

Each tracker writes to a folder of its own in the results, ``folder``. ``config`` are settings to
show beside the numbers; with ``resume`` a tracker continues what the run ``name`` left behind, and
otherwise replaces it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ecqx.errors import InputError

# Each is an optional extra of the same name.
TRACKERS = ("dvclive", "tensorboard", "wandb")
PROJECT = "ecqx"
KEY_LENGTH = 40
# Seconds for the server to answer.
PATIENCE = 30.0


class Tracker(Protocol):
    """Receives the numbers of a training."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers by name, known after ``step`` epochs."""

    def finish(self) -> None:
        """Called once, after the last numbers."""


class Trackers:
    """Any number of trackers as one."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers

    def log(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(values, step)

    def finish(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


class DvcLiveTracker:
    """Writes files that ``dvc metrics``, ``dvc plots`` and DVC's editors show."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], resume: bool) -> None:
        from dvclive.live import Live

        # Independent of a DVC repository that the folder may be in.
        self._live: Any = Live(
            str(folder / "dvclive" / name), resume=resume, save_dvc_exp=False, dvcyaml=None
        )
        self._live.log_params(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def finish(self) -> None:
        self._live.end()


class TensorBoardTracker:
    """Writes event files that TensorBoard shows."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], resume: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        own = folder / "tensorboard" / name
        if not resume:
            for earlier in own.glob("events.out.tfevents.*"):
                earlier.unlink()
        self._writer: Any = SummaryWriter(str(own))
        settings = "\n".join(f"| {key} | {value} |" for key, value in config.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{settings}")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class WandbTracker:
    """Sends numbers to Weights & Biases, or keeps them in files where ``WANDB_MODE=offline``.

    With an empty ``key`` the package looks for one where it stores them.

    Raises
    ------
    InputError
        If the server refuses the key, or cannot be reached.
    """

    def __init__(self, folder: Path, name: str, key: str, config: Mapping[str, Any]) -> None:
        own = folder / "wandb"
        is_new = not own.exists()
        os.environ.setdefault("WANDB_CACHE_DIR", str((own / "cache").absolute()))
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        try:
            quiet = wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                # The metadata would contain the command line, and with it the key.
                x_disable_meta=True,
                api_key=key or None,
                init_timeout=PATIENCE,
            )
            self._run = wandb.init(
                project=PROJECT, name=name, dir=str(folder), config=dict(config), settings=quiet
            )
        except (wandb.Error, ValueError) as error:
            if is_new:
                shutil.rmtree(own, ignore_errors=True)
            raise InputError(_refusal(str(error), key)) from error

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the numbers as one step; the server counts the steps itself."""
        self._run.log(dict(values))

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


def check_trackers(names: Sequence[str], wandb_key: str = "") -> None:
    """Check packages and key without a connection; ``InputError`` for the first that is wrong.

    The message does not contain the key.
    """
    for name in names:
        if find_spec(name) is None:
            option = "--wandb" if name == "wandb" else f"--tracker {name}"
            raise InputError(
                f"{option} needs a package that is not installed: pip install 'ecqx[{name}]'"
            )
    is_key = re.fullmatch(rf"[\w-]{{{KEY_LENGTH},}}", wandb_key, re.ASCII)
    if "wandb" in names and wandb_key and not is_key:
        raise InputError(
            f"--wandb_key: a key has {KEY_LENGTH} letters and digits or more, this one has "
            f"{len(wandb_key)} characters or others among them"
        )


def _refusal(reason: str, key: str) -> str:
    """One line, without the key."""
    first = reason.splitlines()[0].rstrip(".") if reason else "no reason given"
    if key:
        first = first.replace(key, "(key)")
    return (
        f"--wandb: Weights & Biases: {first}; give a valid --wandb_key, or set WANDB_MODE=offline "
        "to keep the numbers in files"
    )
