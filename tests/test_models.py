"""The networks: their sizes and names, and that importing the package loads none of the heavy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ecqx
from ecqx.coding.checkpoint import read_state
from ecqx.layers import ResidualSum
from ecqx.models import MODELS, build
from ecqx.models.loading import load_weights

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def layers(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


# -- ResNet20 --------------------------------------------------------------------------------------


def published_names() -> list[str]:
    """The state_dict of the published checkpoint, from its layout."""

    def bn(name: str) -> list[str]:
        return [f"{name}.{key}" for key in BATCH_NORM]

    names = ["conv1.weight", *bn("bn1")]
    for stage in (1, 2, 3):
        for block in range(3):
            for k in (1, 2):
                prefix = f"layer{stage}.{block}"
                names += [f"{prefix}.conv{k}.weight", *bn(f"{prefix}.bn{k}")]
    return [*names, "linear.weight", "linear.bias"]


def resnet20_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network in eval mode, from its state_dict alone."""

    def bn(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = bn("bn1", F.conv2d(x, state["conv1.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        for block in range(3):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = F.conv2d(x, state[f"{prefix}.conv1.weight"], stride=stride, padding=1)
            out = bn(f"{prefix}.bn1", out).relu()
            out = F.conv2d(out, state[f"{prefix}.conv2.weight"], padding=1)
            if stride == 2:
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (bn(f"{prefix}.bn2", out) + x).relu()
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


def test_resnet20_has_the_published_size_and_names() -> None:
    model = build("resnet20", num_classes=10)
    assert parameters(model) == 269_722
    assert list(model.state_dict()) == published_names()
    channels = [conv.out_channels for conv in layers(model, nn.Conv2d)]
    assert channels == [16] * 7 + [32] * 6 + [64] * 6
    assert all(conv.bias is None for conv in layers(model, nn.Conv2d))


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8), (3, 31)])
def test_resnet20_computes_what_it_should(channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build("resnet20", num_classes=7, in_channels=channels)
    x = torch.randn(2, channels, size, size)
    model(x)  # in train mode: running statistics that are not 0 and 1
    for bn in layers(model, nn.BatchNorm2d):
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
    with torch.no_grad():
        logits = model.eval()(x)
        expected = resnet20_by_hand(model.state_dict(), x)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_resnet20_loads_the_published_checkpoint(shared: Path) -> None:
    state = torch.load(shared / "models" / "resnet20.pt", map_location="cpu", weights_only=True)
    model = build("resnet20", num_classes=10)
    model.load_state_dict(state)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.eval()(x)
        torch.testing.assert_close(logits, resnet20_by_hand(state, x), rtol=1e-4, atol=1e-4)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "size", "file"),
    [
        ("resnet20", 269_722, "resnet20-12fca82f.th"),
        ("resnet32", 464_154, "resnet32-d509ac18.th"),
        ("resnet44", 658_586, "resnet44-014dd654.th"),
        ("resnet56_basic", 853_018, "resnet56-4bfd9763.th"),
    ],
)
def test_networks_of_basic_blocks(name: str, size: int, file: str, shared: Path) -> None:
    model = build(name)
    assert parameters(model) == size
    path = shared / "models" / file
    if not path.is_file():
        pytest.skip(f"shared/models/{file} is absent")
    assert not load_weights(model, read_state(path), file)


# -- ResNet56 --------------------------------------------------------------------------------------


def bottleneck_blocks() -> list[tuple[str, int, int, int]]:
    """Name, input channels, width and stride of the published network's 18 blocks."""
    blocks, channels = [], 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for number in range(6):
            stride = 2 if stage > 1 and number == 0 else 1
            blocks.append((f"layer{stage}.{number}", channels, width, stride))
            channels = 4 * width
    return blocks


def resnet56_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network in eval mode, from its state_dict alone."""

    def conv_bn(name: str, conv: str, bn: str, x: Tensor, **options: int) -> Tensor:
        x = F.conv2d(x, state[f"{name}{conv}.weight"], **options)
        mean, var = state[f"{name}{bn}.running_mean"], state[f"{name}{bn}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}{bn}.weight"], state[f"{name}{bn}.bias"])

    x = conv_bn("", "conv1", "bn1", x, padding=1).relu()
    for block, channels, width, stride in bottleneck_blocks():
        name = f"{block}."
        out = conv_bn(name, "conv1", "bn1", x).relu()
        out = conv_bn(name, "conv2", "bn2", out, stride=stride, padding=1).relu()
        out = conv_bn(name, "conv3", "bn3", out)
        if channels != 4 * width:
            x = conv_bn(name, "downsample.0", "downsample.1", x, stride=stride)
        x = (out + x).relu()
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def test_resnet56_has_the_published_depth_size_and_names() -> None:
    model = build("resnet56")
    names = {"conv1.weight": (16, 3, 3, 3), "fc.weight": (100, 256)}
    for block, channels, width, _ in bottleneck_blocks():
        names[f"{block}.conv1.weight"] = (width, channels, 1, 1)
        names[f"{block}.conv2.weight"] = (width, width, 3, 3)
        names[f"{block}.conv3.weight"] = (4 * width, width, 1, 1)
        if block.endswith(".0"):
            names[f"{block}.downsample.0.weight"] = (4 * width, channels, 1, 1)
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    assert {name: tuple(p.shape) for name, p in weights.items()} == names
    # Depth counts the layers in a row: not those of the shortcuts.
    assert sum("downsample" not in name for name in weights) == 56
    # BatchNorm behind every convolution, with a scale and a shift; a bias in the last layer alone.
    expected = sum(p.numel() for p in weights.values()) + 100
    expected += sum(2 * shape[0] for name, shape in names.items() if name != "fc.weight")
    assert parameters(model) == expected
    assert parameters(build("resnet56", num_classes=10)) == expected - 90 * 257
    normalized = {name.rpartition(".")[0] for name in model.state_dict() if "running_var" in name}
    convolutions = {name.removesuffix(".weight") for name in names} - {"fc"}
    assert normalized == {
        name.replace("conv", "bn").replace("downsample.0", "downsample.1") for name in convolutions
    }


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 9)])
def test_resnet56_computes_what_it_should(channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build("resnet56", num_classes=7, in_channels=channels)
    x = torch.randn(3, channels, size, size)
    for bn in layers(model, nn.BatchNorm2d):
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
    model(x)  # in train mode: running statistics that are not 0 and 1
    with torch.no_grad():
        logits = model.eval()(x)
        expected = resnet56_by_hand(model.state_dict(), x)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_residual_additions_are_layers_of_their_own() -> None:
    for name, blocks in (("resnet20", 9), ("resnet56", 18)):
        assert len(layers(build(name), ResidualSum)) == blocks


# -- VGG16 -----------------------------------------------------------------------------------------

VGG16_CHANNELS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
@pytest.mark.parametrize("width", [1.0, 0.125, 0.001])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_vgg16(name: str, width: float, in_channels: int) -> None:
    model = build(name, num_classes=10, in_channels=in_channels, width=width)
    channels = [max(1, round(c * width)) for c in VGG16_CHANNELS]
    convolutions, linear = layers(model, nn.Conv2d), layers(model, nn.Linear)
    assert [c.out_channels for c in convolutions] == channels
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 13
    sizes = [channels[-1], 512, 512, 10]
    assert [(m.in_features, m.out_features) for m in linear] == list(pairwise(sizes))
    assert len(layers(model, nn.MaxPool2d)) == 5
    assert len(layers(model, nn.ReLU)) == 15
    normalized = name == "vgg16_bn"
    assert len(layers(model, nn.BatchNorm2d)) == 13 * normalized
    # BatchNorm has two parameters a channel; its shift makes the convolutions' bias needless.
    expected = sum(9 * a * b for a, b in pairwise([in_channels, *channels]))
    expected += sum(channels) * (2 if normalized else 1)
    expected += sum((a + 1) * b for a, b in pairwise(sizes))
    assert parameters(model) == expected


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
@pytest.mark.parametrize("size", [1, 8, 16, 32, 33])
def test_vgg16_takes_small_images(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = build(name, in_channels=1, width=0.125).eval()
    x = torch.randn(3, 1, size, size)
    logits = model(x)
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


# -- MLP_GSC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_features", "num_classes"), [(735, 12), (64, 10)])
def test_mlp_gsc(in_features: int, num_classes: int) -> None:
    model = build("mlp_gsc", in_features=in_features, num_classes=num_classes)
    sizes = [in_features, 512, 512, 256, 256, 128, 128, num_classes]
    assert [tuple(m.weight.shape) for m in layers(model, nn.Linear)] == [
        (b, a) for a, b in pairwise(sizes)
    ]
    x = torch.randn(5, in_features)
    out = x
    for number, layer in enumerate(layers(model, nn.Linear)):
        out = out @ layer.weight.T + layer.bias
        out = out.clamp(min=0) if number < 6 else out
    torch.testing.assert_close(model(x), out)
    torch.testing.assert_close(model(x.reshape(5, 1, -1, 1)), out)
    assert parameters(build("mlp_gsc")) == sum(
        (a + 1) * b for a, b in pairwise([735, 512, 512, 256, 256, 128, 128, 12])
    )


# -- the small transformer -------------------------------------------------------------------------


def transformer_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Patches of 2×2 pixels in rows, two blocks of four heads, the mean of the tokens."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (32,), state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    corners = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    matrix = state["patches.weight"].flatten(1)
    h = corners @ matrix.T + state["patches.bias"] + state["positions.weight"]
    for block in ("blocks.0", "blocks.1"):
        qkv = norm(h, f"{block}.norm1") @ state[f"{block}.self_attn.in_proj_weight"].T
        qkv = qkv + state[f"{block}.self_attn.in_proj_bias"]
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in qkv.chunk(3, -1))
        attended = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1) @ v
        h = h + linear(attended.transpose(1, 2).flatten(2), f"{block}.self_attn.out_proj")
        hidden = F.gelu(linear(norm(h, f"{block}.norm2"), f"{block}.linear1"))
        h = h + linear(hidden, f"{block}.linear2")
    return linear(norm(h, "norm").mean(1), "head")


def test_the_small_transformer_computes_what_it_should() -> None:
    model = build("patch_transformer", num_classes=7, in_channels=2).eval()
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(model(x), transformer_by_hand(model.state_dict(), x))


# -- by name ---------------------------------------------------------------------------------------


def test_networks_of_torchvision() -> None:
    model = build("resnet18", num_classes=7)
    assert type(model).__module__ == "torchvision.models.resnet"
    assert parameters(model) == 11_689_512 - 993 * 513
    # The suite's own come first.
    assert "vgg16" in MODELS
    assert len(layers(build("vgg16", width=0.1), nn.Conv2d)) == 13


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose weights were to be downloaded fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"download of {args}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"]
)
def test_segmentation_networks(name: str) -> None:
    torch.manual_seed(0)
    model = build(name)
    assert not [key for key in model.state_dict() if key.startswith("aux")]
    x = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        output = model.eval()(x)
        assert list(output) == ["out"]
        assert output["out"].shape == (2, 21, 48, 40)
        assert build(name, num_classes=3).eval()(x)["out"].shape == (2, 3, 48, 40)


@pytest.mark.usefixtures("offline")
def test_an_auxiliary_classifier_is_there_on_demand() -> None:
    names = build("deeplabv3_mobilenet_v3_large", aux_loss=True).state_dict()
    assert [name for name in names if name.startswith("aux_classifier.")]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("mobilenet_v2", 32)])
def test_twenty_classes(name: str, size: int) -> None:
    model = build(name, num_classes=20).eval()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 20)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 75)])
def test_one_output_in_training_too(name: str, size: int) -> None:
    model = build(name, num_classes=5, init_weights=False)
    assert model.train()(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_weights_follow_from_the_seed() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build("resnet20").state_dict())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet999", "", "ResNet20", "__init__", "torchvision"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="model must be one of mlp_gsc, resnet20") as caught:
        build(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings", "wrong"),
    [
        ("mlp_gsc", {"in_featurs": 64}, "in_featurs"),
        ("mlp_gsc", {"width": 2}, "width"),
        ("mlp_gsc", {"num_classes": "ten"}, "str"),
        ("resnet20", {"num_classes": 2.5}, "float"),
        ("resnet20", {"blocks": 9}, "blocks"),
        ("vgg16", {"width": "half"}, "str"),
        ("vgg16_bn", {"batch_norm": False}, "batch_norm"),
        ("resnet18", {"depth": 3}, "depth"),
        ("resnet18", {"weights": "DEFAULT"}, "weights"),
    ],
)
def test_wrong_settings(name: str, settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=f"^model {name}: .*{wrong}") as caught:
        build(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mlp_gsc", {"num_classes": -1}),
        ("vgg16", {"width": float("nan")}),
        ("vgg16", {"width": float("inf")}),
        ("vgg16", {"width": -1.0}),
    ],
)
def test_impossible_sizes(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"model {name}: "):
        build(name, **settings)


# -- imports ---------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    for name in ecqx.__all__:
        assert getattr(ecqx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        ecqx.quantise  # noqa: B018
