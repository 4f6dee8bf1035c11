"""The command ``ecqx run``: names and defaults of options as in the published code's ``run.py``."""

from __future__ import annotations

import warnings
from typing import Any

import click

from ecqx.cli.options import PATH, options_of
from ecqx.errors import InputWarning
from ecqx.experiment.settings import DATASETS, DEVICES, PRESETS, QUANTIZERS, RunSettings
from ecqx.experiment.tracking import TRACKERS
from ecqx.progress import announced
from ecqx.relevance.settings import CANONIZERS, OUTPUTS, WEIGHT_RULES

_setting = options_of(RunSettings)

# Options that `ecqx evaluate` has, too.
DATA_PATH = _setting(
    "--data_path",
    "--dataset_path",
    "data_path",
    type=PATH,
    envvar="ECQX_DATA",
    show_envvar=True,
    metavar="FOLDER",
    help="Folder with the data set, or to download it to; for folder the tree itself or an "
    "archive of it.",
)
WORKERS = _setting(
    "--workers",
    type=click.IntRange(0),
    help="Processes that compute the features of speech_commands. No effect on training and on "
    "other data sets, which are kept in memory.",
)
DEVICE = _setting("--device", type=click.Choice(DEVICES), help="auto uses a GPU if there is one.")
IMAGE_SIZE = _setting(
    "--image_size",
    type=click.IntRange(1, 4096),
    metavar="PIXELS",
    help="Side of the images of voc and folder. Default: 256 for segmentation, 32 for folder with "
    "one of the suite's own networks, else 224.",
)


@click.command()
# BatchNorm cannot be trained on one sample.
@_setting("--batch_size", type=click.IntRange(2), help="Samples per training batch.")
@_setting("--epochs", help="Epochs of quantized training.")
@_setting(
    "--pretrain_epochs",
    type=click.IntRange(0),
    help="Epochs of full-precision training before that.",
)
@_setting("--max_batches", type=int, help="Largest number of batches per epoch.")
@_setting("--lr", help="Learning rate of Adam.")
@_setting(
    "--model",
    metavar="NAME",
    help="resnet20, 32, 44 or 56 (bottleneck blocks), resnet56_basic, vgg16, vgg16_bn, mlp_gsc or "
    "patch_transformer, which fit any number of classes and channels, or any network of "
    "torchvision, those for segmentation included.",
)
@_setting(
    "--model_path",
    type=PATH,
    metavar="FILE",
    help="Checkpoint to start from: .pt, .pth, .safetensors or .ecqx. By default torchvision's "
    "networks start from their pre-trained weights, the others from random weights.",
)
@_setting("--model_rand_int", help="Always start from random weights.")
@_setting(
    "--dataset",
    type=click.Choice(DATASETS),
    help="voc is segmentation for torchvision's segmentation networks and multi-label "
    "classification for others; folder is a tree of train/CLASS/IMAGE and test/CLASS/IMAGE.",
)
@DATA_PATH
@_setting("--results", type=PATH, metavar="FOLDER", help="Folder for the results.")
@WORKERS
@_setting(
    "--tracker",
    type=click.Choice(TRACKERS),
    multiple=True,
    help="Log the training for this tool, in a folder of its name in the results; wandb to Weights "
    "& Biases. May be repeated.",
)
@_setting("--wandb", help="Same as --tracker wandb (published name).")
@_setting(
    "--wandb_key",
    metavar="KEY",
    help="API key, 40 characters or more; by default the one that `wandb login` stored. "
    "Not needed if WANDB_MODE=offline.",
)
@_setting("--wandb_run_name", metavar="NAME", help="Name of the run in Weights & Biases.")
@_setting("--verbose", help="Print a line per epoch.")
@_setting(
    "--quantizer",
    type=click.Choice(list(QUANTIZERS)),
    help="Centroids: an equidistant grid (ECQ), zero and two trained values (EC2T), or all sums of "
    "four trained values (FantastIC4).",
)
@_setting(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Settings without an option: the suite's, or those of the published code: signed gradient "
    "scaling, its search of β, and additions that do not split relevance.",
)
@_setting(
    "--bitwidth",
    type=click.IntRange(2, 8),
    help="Bits per weight for ECQ; EC2T uses 2, FantastIC4 4.",
)
@_setting(
    "--bits_of",
    multiple=True,
    metavar="PART=BITS",
    help="Bits of the weights of a module, or of all with PART in their name, in place of "
    "--bitwidth. May be repeated.",
)
@_setting(
    "--Lambda",
    "lam",
    type=click.FloatRange(0),
    help="Strength of the entropy constraint: larger is sparser.",
)
@_setting(
    "--exclude",
    multiple=True,
    metavar="PART",
    help="Leave the weights of a module, or all with PART in their name, unquantized; published: "
    "downsample and aux_classifier. May be repeated.",
)
@_setting(
    "--include",
    multiple=True,
    metavar="PART",
    help="Quantize the parameters of a module, or all with PART in their name, too, though they "
    "are no weights. May be repeated.",
)
@_setting("--lrp", help="Use the relevance of weights: ECQx instead of ECQ.")
@_setting(
    "--lrp_output",
    type=click.Choice(OUTPUTS),
    help="Initial relevance of the target's logit.",
)
@_setting(
    "--lrp_composite",
    metavar="NAME",
    help="LRP rules by type of layer; an unknown name lists the known ones.",
)
@_setting(
    "--lrp_w_rule", type=click.Choice(WEIGHT_RULES), help="Rule for the relevance of weights."
)
@_setting(
    "--canonizer",
    type=click.Choice(CANONIZERS),
    help="How a network is rewritten for LRP; here all choices are equivalent and cover all of "
    "these networks.",
)
@_setting("--p", type=click.FloatRange(0, 1), help="Strength of the relevance.")
@_setting(
    "--alpha", help="Weight of the previous relevance in the running average, at least 0, below 1."
)
@_setting(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of random weights, sample order and dropout.",
)
@DEVICE
@IMAGE_SIZE
def run(**options: Any) -> None:
    """Quantize a network during training, write it to a small file and evaluate that.

    Trains with Adam, keeps the epoch with the best validation accuracy and stops after four
    epochs without improvement. Writes MODEL_DATASET_BITSbit_lamLAMBDA.ecqx and .json (EC2T, say, in
    place of BITSbit for a method with trained centroids; with --lrp: ..._lrp) and prints test
    accuracies. The same command continues an interrupted run; the files of other settings are not
    overwritten.

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
    with announced("loading torch"):
        from ecqx.experiment.run import run as run_experiment
        from ecqx.training.distributed import connected, is_first

    with connected(), warnings.catch_warnings():
        say = click.echo if is_first() else _silent
        if not is_first():
            warnings.simplefilter("ignore", InputWarning)
        say(run_experiment(settings, say).summary)


def _silent(line: str) -> None:
    pass
