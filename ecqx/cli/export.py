"""The command ``ecqx export``: a file in formats that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecqx.cli.options import PATH
from ecqx.errors import InputError, input_errors
from ecqx.progress import announced

FORMATS = ("nnc", "onnx", "safetensors")


def _shape(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    """The sizes of 3x32x32, say."""
    sizes = [] if value is None else value.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise click.BadParameter(f"{value!r} is no shape such as 3x32x32", context, option)
    return tuple(map(int, sizes))


@click.command()
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    help="Format of the output; by default that of its suffix.",
)
@click.option(
    "--float_bits",
    type=click.IntRange(16, 31),
    default=24,
    show_default=True,
    help="For nnc: bits of the largest value in each tensor that is not quantized.",
)
@click.option("--model", metavar="NAME", help="For onnx: the network, by its name in `ecqx run`.")
@click.option("--num_classes", type=click.IntRange(1), help="For onnx: classes of the network.")
@click.option(
    "--input",
    "shape",
    callback=_shape,
    metavar="SHAPE",
    help="For onnx: shape of one input without the batch, such as 3x32x32.",
)
@click.option(
    "--four_bits/--no-four_bits",
    default=True,
    show_default=True,
    help="For onnx: integers of up to 4 bits as INT4, which some runtimes lack.",
)
def export(
    file: Path,
    output: Path,
    kind: str | None,
    float_bits: int,
    model: str | None,
    num_classes: int | None,
    shape: tuple[int, ...],
    four_bits: bool,
) -> None:
    """Write the model of a .ecqx file in a format that others read.

    nnc is a standard NNC bitstream (ISO/IEC 15938-17), which nncodec.nn.decode reads. onnx is a
    graph with integer weights for ONNX runtimes. safetensors has the decoded weights, as on model
    hubs. docs/formats.md says what each keeps.

    A file of `ecqx run` says what network it is, and of what inputs and classes; for onnx of
    another file --model and --input are needed. Such metadata go into onnx and safetensors.

    \b
    Examples:
      ecqx export resnet20.ecqx -o resnet20.nnc
      ecqx export resnet20.ecqx -o resnet20.onnx --model resnet20 --input 3x32x32
      ecqx export resnet20.ecqx -o model.safetensors
    """
    kind = kind or output.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise InputError(f"{output}: --format must be one of {', '.join(FORMATS)}")
    if kind != "onnx" and (model or num_classes or shape or not four_bits):
        raise InputError(
            "--model, --num_classes, --input and --no-four_bits are options of --format onnx"
        )
    if kind == "safetensors":
        return write_decoded(file, output)
    with announced("loading torch"):
        from ecqx.coding.bitstream import check_replaceable, load_coded
        from ecqx.coding.nnc_bitstream import export_nnc

    check_replaceable(output)
    if kind == "nnc":
        export_nnc(output, load_coded(file), float_bits, progress=True)
    else:
        _export_onnx(file, output, model, num_classes, shape, four_bits)
    click.echo(f"{output}: {output.stat().st_size:,} bytes")


def write_decoded(file: Path, output: Path) -> None:
    """Write the tensors of a .ecqx or .nnc file as .safetensors."""
    with announced("loading torch"):
        from ecqx.coding.bitstream import check_replaceable, load
        from ecqx.coding.container import metadata_of
        from ecqx.coding.nnc_bitstream import load_nnc
        from ecqx.coding.nnc_inspection import is_nnc
        from ecqx.coding.tensor_files import hub_metadata, write_tensors

    check_replaceable(output)
    if is_nnc(file):
        state, metadata = load_nnc(file, progress=True), {}
    else:
        state, metadata = load(file, progress=True), metadata_of(file)
    write_tensors(output, state, hub_metadata(metadata))
    click.echo(f"{output}: {output.stat().st_size:,} bytes")


def _export_onnx(
    file: Path,
    output: Path,
    model: str | None,
    num_classes: int | None,
    shape: tuple[int, ...],
    four_bits: bool,
) -> None:
    """Write the graph of a network that the options or the file's metadata describe."""
    import torch

    from ecqx.coding.container import metadata_of
    from ecqx.coding.onnx_export import export_onnx
    from ecqx.experiment.metadata import Described
    from ecqx.experiment.start import check_model
    from ecqx.models.networks import build, input_settings

    metadata = metadata_of(file)
    described = Described.of(file, metadata)
    model = model or described.model
    shape = shape or tuple(metadata.get("input", {}).get("shape", ()))
    classes = num_classes or len(described.classes) or None
    if not (model and shape):
        raise InputError(
            f"{file} does not say what network it is: --format onnx needs --model and --input, "
            "such as resnet20 and 3x32x32"
        )
    check_model(model)
    own = {} if classes is None else {"num_classes": classes}
    with input_errors("--"):
        network = build(model, **input_settings(model, shape), **own)
    export_onnx(output, network, torch.zeros(2, *shape), file, four_bits)
