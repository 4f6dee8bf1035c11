"""The command ``ecqx``: models into small files and back, their contents, and experiments.

Commands import torch when they run, so that ``--help`` is immediate.
"""

from __future__ import annotations

import json
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import get_completion_class

from ecqx.cli.contents import about, as_json, summary, table
from ecqx.cli.evaluate import evaluate
from ecqx.cli.export import export, write_decoded
from ecqx.cli.options import PATH
from ecqx.cli.run import run
from ecqx.cli.search import search
from ecqx.errors import InputError, warnings_to
from ecqx.experiment.settings import bits_by_part
from ecqx.progress import announced
from ecqx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C
# Raised by click 8.2 and later if no command is given; earlier versions print the help themselves.
_NO_COMMAND = getattr(click.exceptions, "NoArgsIsHelpError", ())


def main() -> None:
    """Run the command; bad input ends it with one line on stderr and exit code 2."""
    # Names of files need not be UTF-8, and a terminal need not know every character of a name:
    # what cannot be written is escaped, as on stderr.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings_to(lambda line: click.echo(f"ecqx: {line}", err=True)):
            sys.exit(cli.main(prog_name="ecqx", standalone_mode=False))
    except _NO_COMMAND as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except (click.ClickException, InputError, OSError) as error:
        click.echo(f"ecqx: {' '.join(_message(error).split())}", err=True)
        sys.exit(2)
    except click.Abort as error:
        notes = getattr(error.__cause__, "__notes__", ())
        click.echo("; ".join(("ecqx: interrupted", *notes)), err=True)
        sys.exit(INTERRUPTED)


def _message(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror:
        file = error.filename2 or error.filename  # the new name, if renaming failed
        return f"{file}: {error.strerror}" if file else error.strerror
    return str(error)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Exit codes:
  0    done
  1    an error in ecqx itself, with a traceback
  2    bad input or a file that cannot be read or written: one line says which
  130  interrupted (Ctrl-C); the line says how to go on""",
)
@click.version_option(__version__, prog_name="ecqx")
def cli() -> None:
    """Make a trained network small: weights of 2 to 5 bits, entropy-coded in one file.

    `run` trains the quantized network on data, which keeps its accuracy; `search` tries methods and
    settings for the smallest file; `encode` quantizes a checkpoint without training. Each writes
    one .ecqx file; `info` shows its contents, `decode` turns it back into a state_dict, and
    `export` writes it in formats that others read. Every
    command has an example: ecqx COMMAND --help.

    \b
    Try it on scikit-learn's digits, in a minute and without a download:
      ecqx run --dataset digits --model mlp_gsc --pretrain_epochs 20 --lrp --verbose
      ecqx info results/mlp_gsc_digits_4bit_lam0.05_lrp.ecqx
    """


cli.add_command(run)
cli.add_command(evaluate)
cli.add_command(export)
cli.add_command(search)


@cli.command()
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write.")
@click.option(
    "--bitwidth", type=click.IntRange(2, 8), default=4, show_default=True, help="Bits per weight."
)
@click.option(
    "--bits_of",
    multiple=True,
    metavar="PART=BITS",
    help="Bits of the weights of a module, or of all with PART in their name, in place of "
    "--bitwidth. May be repeated.",
)
@click.option(
    "--Lambda",
    "lam",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="Strength of the entropy constraint: larger is smaller and less exact.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PART",
    help="Leave the weights of a module, or all with PART in their name, unquantized. May be "
    "repeated.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PART",
    help="Quantize the tensors of a module, or all with PART in their name, too, though they are "
    "not named as weights. May be repeated.",
)
@click.option(
    "--step",
    type=click.Choice(["float32", "nnc"]),
    default="float32",
    show_default=True,
    help="How exact step sizes are; nnc makes a file of `ecqx export --format nnc` smaller.",
)
@click.option(
    "--floats",
    type=click.Choice(["raw", "published"]),
    default="raw",
    show_default=True,
    help="How the other tensors are stored: without loss, or with loss by NNCodec.",
)
@click.pass_context
def encode(
    context: click.Context,
    checkpoint: Path,
    output: Path,
    bitwidth: int,
    bits_of: tuple[str, ...],
    lam: float,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    step: Any,
    floats: Any,
) -> None:
    """Write a model to one small file.

    CHECKPOINT is a quantizer checkpoint, whose integers are coded unchanged, or a state_dict
    (.safetensors, .pt, .pth, .nnc), whose weights are quantized by ECQ without training: tensors of
    more than one dimension that are named `weight` or `..._weight`. Others are named and stored as
    they are. Without training accuracy drops quickly: try 4 or 5 bits and a small Lambda, or train
    by `ecqx run`.

    Weights that have few values already, by any method of quantization, are stored without loss.
    In such a model the other weights are quantized only if you give --bitwidth or --Lambda.

    \b
    Example:
      ecqx encode resnet20.pt -o resnet20.ecqx --bitwidth 4 --Lambda 0.05
    """
    with announced("loading torch"):
        from ecqx.cli.weights import coded_weights
        from ecqx.coding import bitstream
        from ecqx.coding.checkpoint import read_state
        from ecqx.coding.coded_state import is_coded_state, read_coded_state
        from ecqx.coding.inspection import inspect
        from ecqx.coding.nnc_bitstream import load_nnc
        from ecqx.coding.nnc_inspection import is_nnc

    bitstream.check_replaceable(output)
    with checkpoint.open("rb"):
        pass  # so that a missing file is reported in our words, not a library's
    remarks: list[str] = []
    if is_coded_state(checkpoint):
        own = ("bitwidth", "bits_of", "lam", "exclude", "include", "step")
        _refuse_settings(context, checkpoint, own)
        coded = read_coded_state(checkpoint)
    else:
        wanted = bool(_given(context, ("bitwidth", "bits_of", "lam")))
        settings = {"bits": bits_by_part(bitwidth, bits_of), "lam": lam, "step": step}
        state = (load_nnc if is_nnc(checkpoint) else read_state)(checkpoint)
        coded, remarks = coded_weights(checkpoint, state, exclude, include, settings, wanted)
    try:
        bitstream.save(output, coded, floats=floats, progress=True)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    click.echo(summary(output, inspect(output, statistics=False)))
    for remark in remarks:
        click.echo(remark)


@cli.command()
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The .safetensors file to write.")
def decode(file: Path, output: Path) -> None:
    """Turn a .ecqx or .nnc file back into a state_dict.

    The same as `ecqx.load` in Python, whose result `model.load_state_dict` takes.

    \b
    Example:
      ecqx decode resnet20.ecqx -o resnet20.safetensors
    """
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: the name of the output must end in .safetensors")
    write_decoded(file, output)


@cli.command()
@click.argument("file", type=PATH)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON instead of a table.")
def info(file: Path, json_wanted: bool) -> None:
    """Show what is in a .ecqx or .nnc file: its tensors, their sizes, sparsity and entropy.

    Sparsity is the share of weights that are zero. Entropy is the first-order entropy of the
    integers in bits per weight: the size by an ideal coder that codes each weight independently.
    Ratio is 4 bytes per weight over the bytes in the file.

    \b
    Example:
      ecqx info resnet20.ecqx
      ecqx info resnet20.ecqx --json | python -m json.tool
    """
    from ecqx.coding.inspection import inspect
    from ecqx.coding.nnc_inspection import inspect_nnc, is_nnc

    contents = (inspect_nnc if is_nnc(file) else inspect)(file, progress=True)
    if json_wanted:
        click.echo(json.dumps(as_json(file, contents), indent=2))
    else:
        parts = (table(contents), about(contents), summary(file, contents))
        click.echo("\n\n".join(filter(None, parts)))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and values with the Tab key.

    \b
    Example, for ~/.bashrc or ~/.zshrc:
      eval "$(ecqx completion bash)"
      eval "$(ecqx completion zsh)"
    and for fish:
      ecqx completion fish > ~/.config/fish/completions/ecqx.fish
    """
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(cli, {}, "ecqx", "_ECQX_COMPLETE").source())


def _refuse_settings(context: click.Context, checkpoint: Path, names: Sequence[str]) -> None:
    """Refuse settings that would change a checkpoint that is already quantized."""
    for option in _given(context, names):
        raise InputError(f"{checkpoint} is quantized already; leave out {option}")


def _given(context: click.Context, names: Sequence[str]) -> list[str]:
    """Those options among the names of settings that stand on the command line."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
    ]
