"""The command ``ecqx evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ecqx.cli.options import PATH
from ecqx.cli.run import DATA_PATH, DEVICE, IMAGE_SIZE, WORKERS
from ecqx.experiment.settings import DATASETS, RunSettings
from ecqx.progress import announced


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--dataset",
    type=click.Choice(DATASETS),
    help="Data set whose test split is used. Default: that of the file's metadata.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="As for `ecqx run`. Default: that of the file's metadata.",
)
@DATA_PATH
@WORKERS
@DEVICE
@IMAGE_SIZE
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    file: Path,
    dataset: str | None,
    model: str | None,
    image_size: int | None,
    json_wanted: bool,
    **places: Any,
) -> None:
    """Show accuracy and loss of a file on a data set.

    The network is built by its name, the weights are those of FILE, and images are normalized as
    its metadata say: `ecqx run` and `ecqx search` write network, data set, classes and
    normalization into their files. Of a file without metadata, such as a checkpoint, --model and
    --dataset name the network and the data, whose own normalization is used.

    \b
    Example:
      ecqx evaluate results/mlp_gsc_digits_4bit_lam0.05.ecqx
      ecqx evaluate photos.ecqx --model resnet18 --dataset folder --data_path photos
    """
    settings = RunSettings(**places)
    with file.open("rb"):
        pass  # a missing file is noticed at once
    with announced("loading torch"):
        from ecqx.experiment.file_accuracy import file_accuracy

    found = file_accuracy(file, settings, model=model, dataset=dataset, image_size=image_size)
    click.echo(json.dumps(found, indent=2) if json_wanted else _table(found))


def _table(found: Mapping[str, Any]) -> str:
    """The accuracy of a file as a table of one row."""
    from tabulate import tabulate

    title = f"test split of {found['data']}, {found['samples']:,} samples"
    header = (title, *found["scores"], "loss")
    scores = [f"{score:.2%}" for score in found["scores"].values()]
    row = (found["model"], *scores, f"{found['loss']:.4f}")
    right = ("left", *["right"] * (len(row) - 1))
    return tabulate([row], header, disable_numparse=True, colalign=right)
