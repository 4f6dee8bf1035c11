"""Where the numbers of a training are sent: to DVCLive, TensorBoard or Weights & Biases.

A tracker is a context manager that yields a function to record numbers. It writes to a folder of
its name in the results, ``folder``, and shows the settings ``config`` beside the numbers. With
``resume`` it continues what an interrupted run wrote, otherwise it replaces that.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ecqx.errors import InputError

# Each is an optional extra of the same name.
TRACKERS = ("dvclive", "tensorboard", "wandb")
PROJECT = "ecqx"
KEY_LENGTH = 40
# Seconds for the server to answer.
PATIENCE = 30.0

# Records numbers by name, and the number of epochs after which they are known.
Log = Callable[[Mapping[str, float], int], None]


@contextmanager
def dvclive(folder: Path, name: str, config: Mapping[str, Any], resume: bool) -> Iterator[Log]:
    """Files that ``dvc metrics``, ``dvc plots`` and DVC's editors show."""
    from dvclive.live import Live

    # Independent of a DVC repository that the folder may be in.
    live: Any = Live(
        str(folder / "dvclive" / name), resume=resume, save_dvc_exp=False, dvcyaml=None
    )
    live.log_params(dict(config))

    def log(values: Mapping[str, float], step: int) -> None:
        live.step = step
        for metric, value in values.items():
            live.log_metric(metric, value)
        live.make_summary()

    try:
        yield log
    finally:
        live.end()


@contextmanager
def tensorboard(folder: Path, name: str, config: Mapping[str, Any], resume: bool) -> Iterator[Log]:
    """Event files that TensorBoard shows."""
    from torch.utils.tensorboard import SummaryWriter

    own = folder / "tensorboard" / name
    if not resume:
        for earlier in own.glob("events.out.tfevents.*"):
            earlier.unlink()
    settings = "\n".join(f"| {key} | {value} |" for key, value in config.items())
    writer: Any
    with SummaryWriter(str(own)) as writer:
        writer.add_text("settings", f"| setting | value |\n|---|---|\n{settings}")

        def log(values: Mapping[str, float], step: int) -> None:
            for metric, value in values.items():
                writer.add_scalar(metric, value, step)
            writer.flush()

        yield log


@contextmanager
def wandb(folder: Path, name: str, key: str, config: Mapping[str, Any]) -> Iterator[Log]:
    """Weights & Biases, or files where ``WANDB_MODE=offline``.

    With an empty ``key`` the package looks for one where it stores them. The server counts steps
    itself. ``InputError`` if it refuses the key or cannot be reached.
    """
    own = folder / "wandb"
    is_new = not own.exists()
    os.environ.setdefault("WANDB_CACHE_DIR", str((own / "cache").absolute()))
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb as package

    try:
        quiet = package.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            # The metadata would contain the command line, and with it the key.
            x_disable_meta=True,
            api_key=key or None,
            init_timeout=PATIENCE,
        )
        started = package.init(
            project=PROJECT, name=name, dir=str(folder), config=dict(config), settings=quiet
        )
    except (package.Error, ValueError) as error:
        if is_new:
            shutil.rmtree(own, ignore_errors=True)
        raise InputError(_refusal(str(error), key)) from error
    try:
        yield lambda values, step: started.log(dict(values))
    finally:
        started.finish()


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
    return (
        f"--wandb: Weights & Biases: {first.replace(key, '(key)') if key else first}; give a valid "
        "--wandb_key, or set WANDB_MODE=offline to keep the numbers in files"
    )
