"""The command ``ecqx run``: the options of the published ``run.py``, same names and defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ecqx.experiment.settings import DATASETS, DEVICES, QUANTIZERS, RunSettings
from ecqx.experiment.tracking import TRACKERS
from ecqx.progress import sign

# Those of ecqx.relevance, which imports torch.
OUTPUTS = ("output", "probability", "ones")
WEIGHT_RULES = ("epsilon", "gamma")
CANONIZERS = ("vgg", "resnet", "resnetcifar", "mobilenet")
_PATH = click.Path(path_type=Path)
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _setting(*names: str, **attributes: Any) -> _Decorator:
    """An option for a setting, with its default; the last of its names is the setting's."""
    default = getattr(RunSettings, names[-1].removeprefix("--"))
    if default is False:
        return click.option(*names, is_flag=True, **attributes)
    return click.option(*names, default=default, show_default=default not in ("", ()), **attributes)


@click.command()
@_setting("--batch_size", help="Samples a training batch, at least 2.")
@_setting("--epochs", help="Epochs of quantized training.")
@_setting("--pretrain_epochs", help="Epochs of training in full precision before.")
@_setting("--max_batches", type=int, help="Batches an epoch at most.")
@_setting("--lr", help="Learning rate of Adam.")
@_setting(
    "--model",
    metavar="NAME",
    help="resnet20, resnet56, vgg16, vgg16_bn or mlp_gsc, which fit any number of classes and "
    "channels, or any network of torchvision, those for segmentation included.",
)
@_setting(
    "--model_path",
    type=_PATH,
    metavar="FILE",
    help="Checkpoint to start from: .pt, .pth, .safetensors or .ecqx. Without it torchvision's "
    "networks start from their pre-trained weights, the others from random ones.",
)
@_setting("--model_rand_int", help="Start from random weights in any case.")
@_setting(
    "--dataset",
    type=click.Choice(DATASETS),
    help="voc trains torchvision's networks for segmentation on pixels, others on images with "
    "several labels; folder is a tree of train/CLASS/IMAGE and test/CLASS/IMAGE.",
)
@_setting(
    "--data_path",
    "--dataset_path",
    "data_path",
    type=_PATH,
    envvar="ECQX_DATA",
    show_envvar=True,
    metavar="FOLDER",
    help="Where the data set is, or is downloaded to; for folder the tree itself or an archive "
    "of it.",
)
@_setting("--results", type=_PATH, metavar="FOLDER", help="Where files are written.")
@_setting(
    "--workers",
    help="Processes that compute the features of speech_commands. No effect on other data sets "
    "and on training: their data are held in memory.",
)
@_setting(
    "--tracker",
    type=click.Choice(TRACKERS),
    multiple=True,
    help="Send the course of the training to a folder of this name in the results, for its tool "
    "to show; wandb to Weights & Biases. May be repeated.",
)
@_setting("--wandb", help="Published short form of --tracker wandb.")
@_setting(
    "--wandb_key",
    metavar="KEY",
    help="Key for it, of 40 characters or more; by default the one that `wandb login` stored. "
    "Not needed where WANDB_MODE=offline.",
)
@_setting("--wandb_run_name", metavar="NAME", help="Name of the run there.")
@_setting("--verbose", help="Tell each epoch.")
@_setting(
    "--quantizer",
    type=click.Choice(list(QUANTIZERS)),
    help="Where the centroids lie: equidistant (ECQ), three of which two are trained (EC2T), or "
    "the sums of four that are trained (FantastIC4).",
)
@_setting("--bitwidth", help="Bits per weight of ECQ, 2 to 8; EC2T has 2, FantastIC4 4.")
@_setting("--Lambda", "lam", help="Strength of the entropy constraint: higher is sparser.")
@_setting("--lrp", help="Let the relevance of weights decide, too: ECQ becomes ECQx.")
@_setting(
    "--lrp_output",
    type=click.Choice(OUTPUTS),
    help="Relevance that the target's logit starts with.",
)
@_setting(
    "--lrp_composite",
    metavar="NAME",
    help="Rules of LRP by kind of layer; a wrong name lists the right ones.",
)
@_setting(
    "--lrp_w_rule", type=click.Choice(WEIGHT_RULES), help="Rule for the relevance of weights."
)
@_setting(
    "--canonizer",
    type=click.Choice(CANONIZERS),
    help="Published choice of how a network is rewritten for LRP; here each does what any of "
    "these networks needs.",
)
@_setting("--p", help="Strength of the relevance, 0 to 1.")
@_setting(
    "--alpha", help="Share of the previous relevance in its running average, from 0, below 1."
)
@_setting("--seed", help="Of random weights, the order of the samples and dropout.")
@_setting("--device", type=click.Choice(DEVICES), help="auto takes a GPU where there is one.")
@_setting(
    "--image_size",
    type=int,
    metavar="PIXELS",
    help="Side of the images of voc and folder. Default: 32 for folder with a network that is not "
    "torchvision's, 256 for segmentation, else 224.",
)
def run(**options: Any) -> None:
    """Quantize a network during training, write it to a small file and evaluate that.

    Trains with Adam, keeps the epoch that is best on a validation split and ends when four
    epochs bring nothing. Parameters with `downsample` or `aux_classifier` in their name are not
    quantized. Writes MODEL_DATASET_BITSbit.ecqx and .json (with --lrp MODEL_DATASET_BITSbit_lrp),
    and shows accuracies on the test split. The same command continues what was interrupted.

    \b
    Examples. ResNet20 on CIFAR-10, from a checkpoint:
      ecqx run --model_path resnet20.pt --data_path ../data --lrp --verbose
    A pre-trained network on your own pictures, in photos/train/CLASS/ and photos/test/CLASS/:
      ecqx run --model resnet18 --dataset folder --data_path photos \\
          --pretrain_epochs 5 --lr 1e-4 --lrp --verbose
    On two GPUs, each with its part of every batch:
      torchrun --nproc_per_node 2 --no_python ecqx run --lrp
    """
    settings = RunSettings(**options)
    with sign("loading torch"):
        from ecqx.experiment.run import run as run_experiment
        from ecqx.training.distributed import connected, is_first

    with connected():
        say, warn = (click.echo, _warn) if is_first() else (_be_silent, _be_silent)
        say(run_experiment(settings, say, warn).summary)


def _warn(line: str) -> None:
    click.echo(f"ecqx: {line}", err=True)


def _be_silent(line: str) -> None:
    pass
