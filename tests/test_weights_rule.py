"""One rule of what is a weight: by type of layer in a model, by name in a state_dict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from running import Run, in_this_process
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

import ecqx
from ecqx.coding.bitstream import EcqxFile
from ecqx.coding.coded_state import write_coded_state
from ecqx.coding.inspection import inspect
from ecqx.coding.plain_files import Integer8File
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.experiment.score import score_file
from ecqx.methods.registry import build_method
from ecqx.models.networks import MODELS, build
from ecqx.modules import is_weight_of_state, weights_of
from ecqx.quantizers.parameters import NO_WEIGHT

Make = Callable[[], nn.Module]


def vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12
    )
    nn.init.normal_(model.heads.head.weight)
    return model


def swin() -> nn.Module:
    return SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2])


def swin_v2() -> nn.Module:
    return SwinTransformer(
        *([2, 2], 8, [1, 1], [2, 2], [2, 2]),
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, None, 2)])


def decoder() -> nn.Module:
    """Attention with learned biases, queries as an embedding, and a norm of whole maps."""
    model = nn.Module()
    model.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True)
    model.queries = nn.Embedding(5, 8)
    model.norm = nn.LayerNorm((4, 8))
    model.pairs = nn.Bilinear(3, 4, 5)
    model.register_buffer("mean", torch.zeros(1, 3, 1, 1))
    return model


# Parameters of more than one dimension that are no weights.
NETWORKS: dict[str, tuple[Make, set[str]]] = {
    "ViT": (vit, {"class_token", "encoder.pos_embedding"}),
    "Swin": (swin, {f"features.{i}.0.attn.relative_position_bias_table" for i in (1, 3)}),
    "Swin V2": (swin_v2, {f"features.{i}.0.attn.logit_scale" for i in (1, 3)}),
    "ConvNeXt": (convnext, {f"features.1.{i}.layer_scale" for i in (0, 1)}),
    "decoder": (decoder, {"attention.bias_k", "attention.bias_v", "norm.weight", "norm.bias"}),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


@networks
def test_what_is_no_weight_of_a_layer_stays(name: str) -> None:
    make, others = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    before = {key: p.detach().clone() for key, p in matrices(model).items()}
    q = ecqx.ECQx(model, bits=2, lam=0.1)
    assert set(q.weights) == set(before) - others
    for key in others:
        assert torch.equal(model.get_parameter(key), before[key])
    remarks = {r.name: r.remark for r in q.parameter_records() if r.name in others}
    assert remarks == dict.fromkeys(others, NO_WEIGHT)


@networks
def test_include_names_what_else_is_quantized(name: str) -> None:
    make, others = NETWORKS[name]
    model, one = make(), sorted(others)[0]
    for key in others:
        nn.init.normal_(model.get_parameter(key))
    assert one in ecqx.ECQx(model, include=[one], lam=0).weights
    with pytest.raises(ValueError, match=r"^include: no parameter of more than one dimension has"):
        ecqx.ECQx(make(), include=["running_mean"])
    both = ecqx.ECQx(model, include=sorted(others), exclude=[one])
    assert one not in both.weights


@pytest.mark.parametrize("name", ["LSQ", "pruning", "torchao", "EC2T", "FantastIC4"])
def test_every_method_takes_the_same(name: str) -> None:
    settings = {
        "LSQ": {"bits": 4},
        "pruning": {"bits": 4, "sparsity": 0.5},
        "torchao": {"bits": 4, "group": 0},
    }
    given = settings.get(name, {"lam": 0.0})
    kept = build_method(name, given).constrain(vit(), 1)
    more = build_method(name, given | {"include": ("pos_emb",)}).constrain(vit(), 1)
    assert kept is not None
    assert more is not None
    weights = list(kept.weights)  # type: ignore[attr-defined]
    assert weights == list(ecqx.ECQx(vit()).weights)
    assert set(more.weights) == {*weights, "encoder.pos_embedding"}  # type: ignore[attr-defined]


# What is known to be no weight in torchvision's networks.
KNOWN = ("class_token", "pos_embedding", "relative_position_bias_table", "logit_scale")
KNOWN += ("layer_scale", "positional_encoding")
WITH_BACKBONE = (
    *("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large"),
    "retinanet_resnet50_fpn",
)
FAMILIES = (
    *WITH_BACKBONE,
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0"),
    *("swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16", "raft_small", "swin3d_t", "mvit_v2_s"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvisions_networks(name: str) -> None:
    with torch.device("meta"):
        backbone = {"weights_backbone": None} if name in WITH_BACKBONE else {}
        model = torchvision.models.get_model(name, weights=None, **backbone)
    weights = dict(weights_of(model))
    others = set(matrices(model)) - set(weights)
    assert weights
    assert all(key.endswith(KNOWN) or ".rel_pos_" in key for key in others), others
    # The rule by name finds the same in its state_dict.
    state = model.state_dict()
    assert {key for key in state if is_weight_of_state(key, state[key])} == set(weights)


@pytest.mark.parametrize("name", [*MODELS, "resnet18", "deeplabv3_resnet50"])
def test_in_the_suites_networks_all_of_more_than_one_dimension_are_weights(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert list(dict(weights_of(model))) == list(matrices(model))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_weights(kind: type[nn.RNNBase]) -> None:
    more = {"proj_size": 3} if kind is nn.LSTM else {}
    model = kind(4, 6, num_layers=2, bidirectional=True, **more)
    expected = [name for name, p in model.named_parameters() if p.ndim > 1]
    assert list(dict(weights_of(model))) == expected
    state = model.state_dict()
    assert [name for name in state if is_weight_of_state(name, state[name])] == expected


class Factors(nn.Linear):
    """A linear layer with factors beside its weight."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.scale = nn.Parameter(torch.rand(6, 1) + 1)


class Filters(nn.Module):
    """A layer that torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))


def test_a_layer_that_torch_does_not_know_is_named() -> None:
    model = nn.Sequential(Factors(), Filters())
    with pytest.warns(UserWarning, match=r"not quantized: 1\.weight, because Filters is no layer"):
        q = ecqx.ECQx(model)
    assert list(q.weights) == ["0.weight"]
    assert list(ecqx.ECQx(model, include=["1.weight"]).weights) == ["0.weight", "1.weight"]
    with pytest.raises(ValueError, match=r"no weight to quantize: .* include can name others"):
        ecqx.ECQx(Filters())


def test_a_weight_that_is_computed_is_refused_only_where_it_is_one() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"^0\.parametrizations\.weight\.original0: weight is com"):
        ecqx.ECQx(model)
    assert list(ecqx.ECQx(model, exclude=["0."]).weights) == ["1.weight"]


# -- a state_dict ----------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_this_process(monkeypatch, capsys)


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "mean": drawn(1, 3, 1, 1) + 116,
        "conv.weight": drawn(8, 3, 3, 3),
        "positions.pe": drawn(1, 20, 8),
        "attention.in_proj_weight": drawn(24, 8),
        "attention.bias_k": drawn(1, 1, 8),
        "lstm.weight_hh_l0_reverse": drawn(12, 3),
        "norm.weight": drawn(8),
        "layer.weight_g": drawn(8, 1),
        "steps": torch.arange(6).reshape(2, 3),
    }


WEIGHTS = {"conv.weight", "attention.in_proj_weight", "lstm.weight_hh_l0_reverse"}
LEFT = {"mean", "positions.pe", "attention.bias_k", "layer.weight_g"}


def test_encode_takes_weights_and_names_the_rest(tmp_path: Path, run: Run) -> None:
    path, output = tmp_path / "model.safetensors", tmp_path / "model.ecqx"
    save_file(state(), path)
    code, out, error = run("encode", path, "-o", output)
    assert (code, error) == (0, "")
    assert set(out.splitlines()[1].partition(": ")[2].split(", ")) == LEFT
    kinds = {record.name: record.kind for record in inspect(output).tensors}
    assert {name for name, kind in kinds.items() if kind == "quantized"} == WEIGHTS
    back = ecqx.load(output)
    assert all(torch.equal(back[n], t) for n, t in state().items() if n not in WEIGHTS)


def test_encode_includes_and_warns(tmp_path: Path, run: Run) -> None:
    path, output = tmp_path / "model.safetensors", tmp_path / "model.ecqx"
    save_file(state(), path)
    options = ["--include", "pe", "--include", "nothing", "--exclude", "conv", "--exclude", "mean"]
    code, out, error = run("encode", path, "-o", output, *options)
    assert code == 0
    assert error == f"ecqx: {path}: no tensor has 'nothing' in its name (--include)\n"
    assert out.splitlines()[1].endswith(": attention.bias_k, layer.weight_g")
    kinds = {record.name: record.kind for record in inspect(output).tensors}
    quantized = {name for name, kind in kinds.items() if kind == "quantized"}
    assert quantized == WEIGHTS - {"conv.weight"} | {"positions.pe"}
    code, out, error = run("encode", path, "-o", output, "--include", "steps")
    assert (code, out) == (2, "")
    assert "no tensor has 'steps' in its name (--include)" in error


def test_integers_of_eight_bits_are_of_the_same_tensors(tmp_path: Path) -> None:
    left, path = tmp_path / "left.safetensors", tmp_path / "file"
    write_coded_state(left, state(), {})
    Integer8File().write(left, path)
    back = Integer8File().read(path)
    same = {name for name, tensor in state().items() if torch.equal(back[name], tensor)}
    assert same == set(state()) - WEIGHTS


def test_statistics_of_a_file_are_those_of_what_is_quantized(tmp_path: Path) -> None:
    """Its class token and positions are no weights, and have no zeros."""
    torch.manual_seed(0)
    model, path = vit(), tmp_path / "model.ecqx"
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(6), Preparation())
    data = TensorData(split, split, split, tuple("abcdef"), "images")
    for include in ((), ("pos_embedding",)):
        q = ecqx.ECQx(model, bits=2, lam=0.3, include=include)
        ecqx.save(path, q)
        score, _ = score_file(path, EcqxFile(), vit(), data, include=include)
        assert score["sparsity"] == pytest.approx(q.sparsity())
