"""Where the course of a training is sent: nowhere, or to Weights & Biases."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ecqx.errors import InputError

PROJECT = "ecqx"
KEY_LENGTH = 40
# Seconds for the server to answer.
PATIENCE = 30.0


class Tracker(Protocol):
    """Takes numbers while they come up."""

    def log(self, values: Mapping[str, float]) -> None:
        """Note some numbers that belong together."""

    def finish(self) -> None:
        """Nothing more will come."""


class NoTracker:
    """Takes numbers and forgets them."""

    def log(self, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


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

    def log(self, values: Mapping[str, float]) -> None:
        """Send numbers as one step."""
        self._run.log(dict(values))

    def finish(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


def check_wandb(key: str) -> None:
    """Check what can be checked without the network, in no time.

    Parameters
    ----------
    key : str
        Of Weights & Biases; empty where the package is to find it.

    Raises
    ------
    InputError
        If the package is missing, or this cannot be a key; the message does not tell the key.
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
