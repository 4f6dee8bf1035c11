"""Where the course of a training is sent: to DVCLive, TensorBoard or Weights & Biases."""

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
    """Takes numbers while they come up."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note some numbers that belong together, known after so many epochs."""

    def finish(self) -> None:
        """Nothing more will come."""


class Trackers:
    """Any number of trackers as one; none of them takes numbers and forgets them."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hand the numbers to each."""
        for tracker in self._trackers:
            tracker.log(values, step)

    def finish(self) -> None:
        """Finish each."""
        for tracker in self._trackers:
            tracker.finish()


class DvcLiveTracker:
    """Writes numbers to files that ``dvc metrics``, ``dvc plots`` and DVC's editors show.

    Parameters
    ----------
    folder : Path
        Gets a folder ``dvclive`` with one folder for each name.
    name : str
        Of the run; what it left behind earlier is replaced.
    config : mapping
        Settings to be shown beside the numbers.
    resume : bool
        Go on with what the run left behind instead.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], resume: bool) -> None:
        from dvclive.live import Live

        # It belongs to a folder of results, not to the repository that this may lie in.
        self._live: Any = Live(
            str(folder / "dvclive" / name), resume=resume, save_dvc_exp=False, dvcyaml=None
        )
        self._live.log_params(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add the numbers to the files."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def finish(self) -> None:
        """Write what is left."""
        self._live.end()


class TensorBoardTracker:
    """Writes numbers to event files that TensorBoard shows.

    Parameters
    ----------
    folder : Path
        Gets a folder ``tensorboard`` with one folder for each name.
    name, config, resume
        As for `DvcLiveTracker`.
    """

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
        """Add the numbers to the file."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class WandbTracker:
    """Sends numbers to Weights & Biases, or keeps them in files where ``WANDB_MODE=offline``.

    Parameters
    ----------
    folder : Path
        Gets a folder ``wandb`` with all that the package writes.
    name : str
        Of the run.
    key : str
        Empty: the package finds one where it stores them.
    config : mapping
        Settings to be shown beside the numbers.

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
                # It would hold the command line, and with it the key.
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
        """Send the numbers together; the server counts how often, which may go beyond epochs."""
        self._run.log(dict(values))

    def finish(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


def check_trackers(names: Sequence[str], wandb_key: str = "") -> None:
    """Check what can be checked without the network, in no time.

    Parameters
    ----------
    names : sequence of str
        Of `TRACKERS`.
    wandb_key : str
        See `check_wandb`.

    Raises
    ------
    InputError
        If a package is missing, or this cannot be a key.
    """
    for name in names:
        if name == "wandb":
            check_wandb(wandb_key)
        elif find_spec(name) is None:
            raise InputError(
                f"--tracker {name} needs a package that is not installed: "
                f"pip install 'ecqx[{name}]'"
            )


def check_wandb(key: str) -> None:
    """Check what can be checked without the network, in no time.

    Parameters
    ----------
    key : str
        Of Weights & Biases; empty where the package is to find it.

    Raises
    ------
    InputError
        If the package is missing, or this cannot be a key; the message does not contain the key.
    """
    if find_spec("wandb") is None:
        raise InputError("--wandb needs a package that is not installed: pip install 'ecqx[wandb]'")
    if key and not re.fullmatch(rf"[\w-]{{{KEY_LENGTH},}}", key, re.ASCII):
        raise InputError(
            f"--wandb_key: a key has {KEY_LENGTH} letters and digits or more, this one has "
            f"{len(key)} characters or others among them"
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
