"""A quantized model as an ONNX file with integer weights.

Each weight is an initializer of integers. A DequantizeLinear node multiplies them by the step:
``float32(k) * float32(step)``, as in the model itself. With a codebook whose centroids are not
equidistant, a Gather node takes each weight from the table of centroids.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ecqx.coding.bitstream import check_replaceable, load_coded
from ecqx.coding.container import metadata_of
from ecqx.coding.few_values import as_grid
from ecqx.coding.quantized import CodebookTensor, CodedStateSource, Quantized
from ecqx.coding.tensor_files import as_text
from ecqx.errors import InputError
from ecqx.files import write_atomically
from ecqx.modules import (
    HALF,
    MainOutput,
    copied,
    load_state,
    plain_name,
    state_of,
    unwrapped,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    # Initializers, and the nodes that make a weight of them.
    _Parts = tuple[list[TensorProto], list[NodeProto]]

# The first opset with 4-bit integers.
OPSET = 21
# ONNX's integer types, narrowest first, with their ranges.
_TYPES = (("int4", -8, 7), ("uint4", 0, 15), ("int8", -128, 127), ("uint8", 0, 255))
_WRAPPER = "model."


def export_onnx(
    path: str | Path,
    model: CodedStateSource | nn.Module,
    example_input: Tensor,
    file: str | Path | None = None,
    four_bits: bool = True,
) -> int:
    """Write a quantized model as an ONNX file with integer weights; returns its size in bytes.

    The model is exported in eval mode with its logits as the only output; all other parameters
    are float32.

    Parameters
    ----------
    path : path
        Replaced as a whole, or left unchanged if anything fails.
    model : ECQx or Module
        A quantizer; or, with ``file``, a module of the architecture that was saved.
    example_input : Tensor, shape (B, …)
        A batch as the model takes it. With B > 1 the exported batch size is variable if the model
        allows it.
    file : path, optional
        A file of `ecqx.save` with the weights of the quantized model; its metadata become
        properties of the graph.
    four_bits : bool
        Store integers of up to four bits in four; some runtimes support only eight.

    Raises
    ------
    ValueError
        If a package is missing, nothing is quantized, the file does not fit the model, or torch
        cannot export the model.

    Examples
    --------
    >>> quantizer = ecqx.ECQx(model)  # doctest: +SKIP
    >>> ecqx.export_onnx("model.onnx", quantizer, torch.rand(2, 3, 32, 32))  # doctest: +SKIP
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise InputError(
                f"an export to ONNX needs {package}, which is not installed: "
                "pip install 'ecqx[onnx]'"
            )
    if not isinstance(example_input, Tensor) or example_input.ndim == 0:
        raise InputError("example_input must be a tensor with a batch as its first dimension")
    check_replaceable(path)
    network, quantized = _network(model, file)
    graph = _traced(network, example_input)
    _put_integers(graph, quantized, four_bits)
    _tidy(graph)
    from onnx import checker, helper

    if file is not None:
        texts = {name: as_text(value) for name, value in metadata_of(file).items()}
        helper.set_model_props(graph, texts)
    checker.check_model(graph)
    content = graph.SerializeToString()
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return len(content)


def _network(model: Any, file: str | Path | None) -> tuple[nn.Module, Mapping[str, Quantized]]:
    """A copy of the network for tracing, and its quantized weights."""
    if file is not None and isinstance(model, nn.Module):
        network, (whole, coded) = copied(unwrapped(model)), load_coded(file).coded_state()
        try:
            load_state(network, whole)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{file} does not fit the model: {reason}") from error
        if not coded:
            raise InputError(f"{file} holds no quantized tensor to export")
    elif file is None and hasattr(model, "coded_state"):
        coded = model.coded_state()[1]
        network = copied(model.model)
    else:
        raise InputError("an export needs a quantizer, or a module and the file it was saved to")
    network.float().eval().requires_grad_(False)
    state = state_of(network)
    for name, tensor in coded.items():
        # Exact values; those of a model in half precision are rounded.
        state[name].copy_(tensor.values())
    return network, coded


def _traced(network: nn.Module, example_input: Tensor) -> ModelProto:
    """The graph of a network as torch exports it; weights keep their names."""
    device = next(network.parameters()).device
    x = example_input.detach().to(device)
    x = x.float() if x.dtype in (*HALF, torch.float64) else x
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                MainOutput(network),
                (x,),
                input_names=["input"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                # The optimizer would merge BatchNorm into the weights.
                optimize=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim.AUTO},),
            )
    except Exception as error:  # the model's code and torch's tracer may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"torch cannot export this model to ONNX: {reason}") from error
    assert program is not None
    graph: ModelProto = program.model_proto
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and log messages."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _put_integers(model: ModelProto, quantized: Mapping[str, Quantized], four_bits: bool) -> None:
    """Replace each quantized weight by integers, a step or table, and the nodes that join these."""
    from onnx import numpy_helper

    graph = model.graph
    kept, nodes = [], []
    for weight in graph.initializer:
        name = plain_name(weight.name.removeprefix(_WRAPPER))
        if name not in quantized:
            kept.append(weight)
            continue
        values = quantized[name].values().cpu().numpy()
        if not np.array_equal(numpy_helper.to_array(weight), values):
            raise InputError(f"the export changed {name}, so that it is no longer quantized")
        parts, joining = _parts(name, weight.name, as_grid(quantized[name]), four_bits)
        kept += parts
        nodes += joining
    if not nodes:
        raise InputError("the output depends on no quantized weight")
    nodes += graph.node
    for field, content in ((graph.initializer, kept), (graph.node, nodes)):
        content = [copy.deepcopy(item) for item in content]
        del field[:]
        field.extend(content)


def _parts(name: str, weight: str, tensor: Quantized, four_bits: bool) -> _Parts:
    """Integers in the narrowest type, and a step or a table; the nodes that join them."""
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    def stored(value: np.ndarray[Any, Any], what: str) -> TensorProto:
        return numpy_helper.from_array(value, f"{name}.{what}")

    k = tensor.integers.cpu().numpy()
    if isinstance(tensor, CodebookTensor):
        k = k + tensor.codebook.zero
    kind, zero = _narrowest(int(k.min()), int(k.max()), four_bits)
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    parts = [stored((k + zero).astype(dtype), "integers")]
    if isinstance(tensor, CodebookTensor):
        parts.append(stored(tensor.codebook.values.cpu().numpy(), "table"))
        # Gather takes no narrow integers.
        wide = f"{name}.positions"
        cast = helper.make_node("Cast", [parts[0].name], [wide], wide, to=TensorProto.INT32)
        return parts, [cast, helper.make_node("Gather", [parts[1].name, wide], [weight], name)]
    parts.append(stored(np.array(tensor.step, np.float32), "step"))
    if zero:
        parts.append(stored(np.array(zero, dtype), "zero"))
    inputs = [part.name for part in parts]
    return parts, [helper.make_node("DequantizeLinear", inputs, [weight], name)]


def _narrowest(low: int, high: int, four_bits: bool) -> tuple[str, int]:
    """The narrowest type of integers from ``low`` to ``high``, and the zero point it needs."""
    for kind, lowest, highest in _TYPES:
        zero = -low if low < 0 <= lowest else 0
        if lowest <= low + zero and high + zero <= highest and (four_bits or "8" in kind):
            break
    return kind, zero


def _tidy(model: ModelProto) -> None:
    """Remove the exporter's metadata, such as stack traces with paths, and name the batch size."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    model.doc_string = graph.doc_string = ""
    (batch, *_) = graph.input[0].type.tensor_type.shape.dim
    for value in (*graph.output, *graph.input):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param and dimension.dim_param == batch.dim_param:
                dimension.dim_param = "batch"
