"""The command ``ecqx search``; the options that it shares with ``ecqx run`` are that command's."""

from __future__ import annotations

from typing import Any

import click

from ecqx.cli.options import Decorator, options_of
from ecqx.cli.run import run
from ecqx.experiment.search_settings import METHODS, SearchSettings
from ecqx.experiment.settings import RunSettings
from ecqx.progress import announced

# Options of `ecqx run`: the network, the data, where the results go; and the training.
_START = (
    *("model", "model_path", "model_rand_int", "dataset", "data_path", "results", "workers"),
    *("seed", "device", "image_size"),
)
_TRAINING = ("batch_size", "epochs", "pretrain_epochs", "max_batches", "p", "exclude", "include")
_SHARED = [parameter for parameter in run.params if parameter.name in (*_START, *_TRAINING)]


_setting = options_of(SearchSettings)


def _range(*names: str, kind: Any, **attributes: Any) -> Decorator:
    return _setting(*names, type=kind, nargs=2, metavar="LOW HIGH", **attributes)


@click.command()
@_setting(
    "--max_drop",
    type=click.FloatRange(0),
    help="Points of validation accuracy that the file may lose: the 95 % upper bound of the loss.",
)
@_setting("--trials", type=click.IntRange(1), help="Trials, those of earlier calls included.")
@_setting(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Time for the trials of this call. Training in full precision before them comes on top.",
)
@_setting(
    "--processes",
    type=click.IntRange(1),
    help="Trials at the same time, one a core at most. With more than one the result is not "
    "deterministic.",
)
@_setting(
    "--method",
    "methods",
    type=click.Choice(METHODS),
    multiple=True,
    help="Method to try. May be repeated.",
)
@_range("--bits", kind=click.IntRange(2, 8), help="Bits per weight of ECQ and ECQx.")
@_range(
    "--Lambda",
    "lam",
    kind=click.FloatRange(0, min_open=True),
    help="Strength of the entropy constraint, Λ.",
)
@_range(
    "--lr",
    kind=click.FloatRange(0, min_open=True),
    help="Learning rate of a trial's training.",
)
@_setting(
    "--pretrain_lr",
    type=click.FloatRange(0, min_open=True),
    help="Learning rate of the training in full precision.",
)
@_setting(
    "--bits_of",
    multiple=True,
    metavar="PART[=BITS]",
    help="Bits of their own for the weights of a module, or for all with PART in their name: "
    "searched, or given. May be repeated.",
)
@click.option("--verbose", is_flag=True, help="Print a line for each trial.")
def search(verbose: bool, **options: Any) -> None:
    """Search the smallest file of a network for an allowed loss of accuracy.

    Each trial trains the quantized network by another method, bit width, Lambda and learning rate,
    from the same weights. Of the files whose loss has a 95 % upper bound (paired bootstrap over the
    validation samples) of at most --max_drop points the smallest is chosen, and evaluated on the
    test data; if there is none, the one with the smallest bound. Writes smallest.ecqx, search.json
    and a page, search.html, to RESULTS/MODEL_DATASET_search. The same command continues an
    interrupted search; so does one with more --trials. Needs pip install 'ecqx[search]'.

    \b
    Examples. ResNet20 on CIFAR-10, from a checkpoint:
      ecqx search --model resnet20 --model_path resnet20.pt --dataset cifar10 --max_drop 0.5
    Your own pictures, in an hour, the first layer with bits of its own:
      ecqx search --model resnet18 --dataset folder --data_path photos \\
          --pretrain_epochs 5 --pretrain_lr 1e-4 --minutes 60 --bits_of conv1
    """
    start = RunSettings(**{name: options[name] for name in _START})
    own = {k: v for k, v in options.items() if k not in _START or k == "seed"}
    is_trained = bool(SearchSettings(**own).pretrain_epochs)
    with announced("loading torch"):
        from ecqx.experiment.search import search as run_search
        from ecqx.experiment.start import start_of

    build, data = start_of(start, is_trained)
    folder = start.results / f"{start.model}_{start.dataset}_search"
    if verbose:
        own["say"] = click.echo
    found = run_search(build, data, folder, device=start.device, metadata=start.names, **own)
    click.echo(found.summary)


# Its own options first.
search.params += _SHARED
