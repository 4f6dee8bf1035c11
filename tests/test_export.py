"""The ONNX file: integers and steps, the predictions of the model, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ecqx
import ecqx.errors
from ecqx.coding import onnx_export as export
from ecqx.models.resnet_cifar import BasicResNetCifar
from ecqx.modules import main_output

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
# Nodes beside the weights take some bytes each.
PER_NODE = 300


class Segmentation(nn.Module):
    """Labels pixels, with an output beside the main one, as torchvision's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.ConvTranspose2d(8, 5, 2, 2)
        self.aux = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return {"out": self.head(features), "aux": self.aux(features)}


class Words(nn.Module):
    """An embedding, tied to the last layer, and grouped convolutions over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.head.weight = self.words.weight
        self.along = nn.Conv1d(8, 8, 3, groups=4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.along(self.words(x).transpose(1, 2)).relu().mean(2))
        return logits


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp_gsc": (
        lambda: ecqx.models.build("mlp_gsc", in_features=64, num_classes=10),
        lambda count: torch.randn(count, 64),
    ),
    "residual": (lambda: BasicResNetCifar(blocks=1), pixels),
    "segmentation": (Segmentation, pixels),
    "words": (Words, lambda count: torch.randint(12, (count, 7))),
}


def quantized(name: str) -> tuple[ecqx.ECQx, Callable[[int], Tensor]]:
    """A network with running statistics of its own, quantized without training."""
    torch.manual_seed(0)
    make, batch = NETWORKS[name]
    model = make()
    with torch.no_grad():
        for _ in range(3):
            model(batch(16))
    return ecqx.ECQx(model, bits=4, lam=0.02), batch


def predictions(path: Path, x: Tensor) -> Tensor:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    (logits,) = session.run(None, {name: x.numpy()})
    return torch.from_numpy(logits)


def initializers(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


def values(tensor: Any) -> np.ndarray[Any, Any]:
    return onnx.numpy_helper.to_array(tensor).astype(np.float32)


def restored(found: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    """A weight by the integers, zero and step that stand in the file."""
    zero = values(found[f"{name}.zero"]) if f"{name}.zero" in found else np.float32(0)
    return (values(found[f"{name}.integers"]) - zero) * values(found[f"{name}.step"])


# -- what the file holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_predicts_what_the_model_does(name: str, tmp_path: Path) -> None:
    q, batch = quantized(name)
    path = tmp_path / "model.onnx"
    assert ecqx.export_onnx(path, q, batch(2)) == path.stat().st_size
    x = batch(21)
    with torch.no_grad():
        expected = main_output(q.model.eval()(x))
    actual = predictions(path, x)
    # What tells one sample from another is large beside the difference.
    spread = float((expected - expected.mean(0)).abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * spread)
    assert torch.equal(actual.argmax(1), expected.argmax(1))

    # Each weight stands there as integers of four bits and a step, and in no other form.
    found = initializers(path)
    # The exporter knows a tied weight by its last name.
    last = {record.remark.rpartition(" ")[2]: record.name for record in q.parameter_records()}
    used = {
        last.get(name, name): k for name, k in q.integers().items() if not name.startswith("aux")
    }
    for weight, k in used.items():
        kind = onnx.TensorProto.DataType.Name(found[f"{weight}.integers"].data_type)
        assert kind in ("INT4", "UINT4")
        np.testing.assert_array_equal(
            restored(found, weight), q.model.get_parameter(weight).detach()
        )
        assert values(found[f"{weight}.integers"]).shape == tuple(k.shape)
    floats = sum(
        math.prod(tensor.dims)
        for tensor in found.values()
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    coded = q.coded_state()[1]
    kept = sum(t.numel() for n, t in q.model.state_dict().items() if n not in coded)
    assert floats <= kept + len(used)
    nodes = len(onnx.load(path).graph.node) + len(found)
    elements = sum(k.numel() for k in used.values())
    assert path.stat().st_size < elements / 2 + 4 * kept + PER_NODE * nodes


def every_grid(bits: int) -> ecqx.ECQx:
    """Three layers whose integers reach from the lowest to the highest that each grid has."""
    even = torch.linspace(-1, 1, 4096)
    even[-1] = 1.5
    layers = [nn.Linear(64, 64) for _ in range(3)]
    for layer, weight in zip(layers, (even, -even, even.abs()), strict=True):
        layer.weight.data = weight[torch.randperm(4096)].reshape(64, 64)
    q = ecqx.ECQx(nn.Sequential(*layers), bits=bits, lam=0.0)
    half = 2 ** (bits - 1)
    ends = [(int(k.min()), int(k.max())) for k in q.integers().values()]
    assert ends == [(1 - half, half), (-half, half - 1), (0, 2 * half - 1)]
    return q


@pytest.mark.parametrize(
    ("bits", "four_bits", "kinds"),
    [
        (2, True, ["INT4", "INT4", "INT4"]),
        (4, True, ["UINT4", "INT4", "UINT4"]),
        (4, False, ["INT8", "INT8", "INT8"]),
        (8, True, ["UINT8", "INT8", "UINT8"]),
    ],
)
def test_every_grid_in_the_narrowest_type_that_holds_it(
    bits: int, four_bits: bool, kinds: list[str], tmp_path: Path
) -> None:
    q, path = every_grid(bits), tmp_path / "model.onnx"
    ecqx.export_onnx(path, q, torch.randn(2, 64), four_bits=four_bits)
    found = initializers(path)
    for name, kind in zip(q.weights, kinds, strict=True):
        assert onnx.TensorProto.DataType.Name(found[f"{name}.integers"].data_type) == kind
        np.testing.assert_array_equal(restored(found, name), q.model.get_parameter(name).detach())
    x = torch.randn(9, 64)
    with torch.no_grad():
        expected = q.model(x)
    scale = float(expected.abs().max())
    torch.testing.assert_close(predictions(path, x), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("four_bits", [True, False])
def test_codebooks_are_tables_of_their_centroids(four_bits: bool, tmp_path: Path) -> None:
    """From a quantizer and from a file; where centroids are equidistant, a step instead."""
    torch.manual_seed(0)
    for q, nodes in (
        (ecqx.EC2T(Small()), {"Gather", "Cast"}),
        (ecqx.FantastIC4(Small()), {"DequantizeLinear"}),
    ):
        path, weight = tmp_path / "model.onnx", q.model.layer.weight.detach()
        ecqx.export_onnx(path, q, torch.randn(2, 4), four_bits=four_bits)
        assert nodes <= {node.op_type for node in onnx.load(path).graph.node}
        found = initializers(path)
        kind = onnx.TensorProto.DataType.Name(found["layer.weight.integers"].data_type)
        assert kind.endswith("4") == four_bits
        if "layer.weight.table" in found:
            table = values(found["layer.weight.table"])
            assert set(table.tolist()) == set(weight.unique().tolist())
            restored_weight = table[values(found["layer.weight.integers"]).astype(int)]
        else:
            restored_weight = restored(found, "layer.weight")
        np.testing.assert_array_equal(restored_weight, weight)
        x = torch.randn(9, 4)
        with torch.no_grad():
            torch.testing.assert_close(predictions(path, x), q.model.eval()(x))
        ecqx.save(tmp_path / "model.ecqx", q)
        written = path.read_bytes()
        ecqx.export_onnx(path, Small(), x, tmp_path / "model.ecqx", four_bits)
        q.model.train()
        assert len(path.read_bytes()) == len(written)


class Small(nn.Module):
    """A linear layer and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.layer(x))
        return logits


def test_the_file_is_always_the_same_and_knows_no_path(tmp_path: Path) -> None:
    """From a quantizer, again, and from a file; the model is left as it was."""
    q, x = ecqx.ECQx(Small()), torch.randn(2, 4)
    before = {name: tensor.clone() for name, tensor in q.model.state_dict().items()}
    ecqx.save(tmp_path / "model.ecqx", q)
    other = Small()
    for name in ("a.onnx", "b.onnx"):
        ecqx.export_onnx(tmp_path / name, q, x)
    ecqx.export_onnx(tmp_path / "c.onnx", other, x, file=tmp_path / "model.ecqx")
    first, *others = ((tmp_path / f"{name}.onnx").read_bytes() for name in "abc")
    assert others == [first, first]
    for place in (Path(torch.__file__).parents[1], Path(ecqx.__file__).parents[1]):
        assert str(place).encode() not in first
    assert q.model.training
    assert all(p.requires_grad for p in q.model.parameters())
    for name, tensor in q.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not torch.equal(other.layer.weight, q.model.layer.weight)


def test_half_precision_is_exported_in_full(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).half()
    q = ecqx.ECQx(model, lam=0.0)
    x = torch.randn(9, 8).half()
    ecqx.export_onnx(tmp_path / "model.onnx", q, x)
    with torch.no_grad():
        expected = model(x).float()
    actual = predictions(tmp_path / "model.onnx", x.float())
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-2)
    k, step = q.integers()["0.weight"].numpy(), np.float32(q.grids["0.weight"].step)
    found = initializers(tmp_path / "model.onnx")
    np.testing.assert_array_equal(restored(found, "0.weight"), k * step)


# -- what is refused -------------------------------------------------------------------------------


class Choosing(nn.Module):
    """Goes another way for some inputs: no graph says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if float(y.sum()) > 0 else -y


class Apart(nn.Module):
    """Whose quantized weight has no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_bad_input_gets_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, plain = torch.randn(2, 4), nn.Linear(4, 4)
    q = ecqx.ECQx(nn.Sequential(nn.Linear(4, 4)))
    good, floats = tmp_path / "good.ecqx", tmp_path / "floats.ecqx"
    ecqx.save(good, q)
    ecqx.save(floats, plain)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "new" / "model.onnx"
    for message, arguments in {
        "an export needs a quantizer, or a module and the file": (out, plain, x),
        "floats.ecqx holds no quantized tensor": (out, nn.Linear(4, 4), x, floats),
        "good.ecqx does not fit the model: Error": (out, plain, x, good),
        "torch cannot export this model to ONNX: ": (out, ecqx.ECQx(Choosing()), x),
        "the output depends on no quantized weight": (out, ecqx.ECQx(Apart()), x),
        "folder is no regular file": (tmp_path / "folder", q, x),
        "example_input must be a tensor with a batch": (out, q, 3),
    }.items():
        with pytest.raises(ecqx.errors.InputError, match=message) as caught:
            ecqx.export_onnx(*arguments)
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(ecqx.errors.InputError, match=r"needs onnxscript, .*'ecqx\[onnx\]'"):
        ecqx.export_onnx(out, q, x)


def test_a_weight_that_the_export_changed_is_not_passed_off_as_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exporter would that merges BatchNorm into the layer before it."""
    q, x = ecqx.ECQx(Small()), torch.randn(2, 4)
    traced = export._traced

    def merged(network: nn.Module, x: Tensor) -> Any:
        network.layer.weight.data *= 1.5
        return traced(network, x)

    monkeypatch.setattr(export, "_traced", merged)
    with pytest.raises(ecqx.errors.InputError, match=r"^the export changed layer\.weight"):
        ecqx.export_onnx(tmp_path / "model.onnx", q, x)
    assert not any(tmp_path.iterdir())
