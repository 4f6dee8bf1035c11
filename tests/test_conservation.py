"""Conservation (DESIGN 3.4): relevance is never made on its way through a network.

The output starts with relevance one in all; biases, BatchNorm shifts and running means are zero,
so that no relevance ends in them. A cut is the one tensor that a module named here takes: all
branches meet in it, and its gradient adds up what they bring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, pairwise, product
from typing import Any

import pytest
import torch
from conserving import positive_contributions
from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet
from zennit.composites import LayerMapComposite, SpecialFirstLayerMapComposite
from zennit.core import Composite, Hook
from zennit.layer import Sum
from zennit.rules import Epsilon, Flat, Norm, Pass
from zennit.rules import ZPlus as ZennitZPlus
from zennit.types import Activation, AvgPool, BatchNorm, Linear

from ecqx.layers import PaddedShortcut, ResidualSum
from ecqx.models import build
from ecqx.models.resnet_cifar import BasicBlock
from ecqx.quantizers.ecqx import ECQx
from ecqx.relevance import (
    CANONIZERS,
    build_canonizer,
    output_relevance,
    weight_relevance,
    weights,
    with_weight_relevance,
)
from ecqx.relevance.canonizers import SplitTorchvisionBlocks
from ecqx.relevance.rules import ZPlus
from ecqx.relevance.settings import LRP

TOLERANCE = 0.01
NETWORKS = ("mlp", "cnn", "resnet20", "resnet18", "mobilenet_v2")
RULES: dict[str, Hook] = {
    "epsilon": Epsilon(),
    "zplus": ZPlus(),
    "norm": Norm(),
}
BATCH_NORM_RULES: dict[str, Hook] = {"pass": Pass(), "epsilon": Epsilon()}


# -- networks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network, a batch for it, its canonizer, and the modules in front of which it is cut."""

    model: nn.Module
    inputs: Tensor
    canonizer: str
    cuts: list[nn.Module]


def cnn() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 12), (12, 12)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    pooled = (nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*layers, *pooled, nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5))


def without_shifts(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Biases, BatchNorm shifts and running means to zero; variances to those of the batch."""
    for module in model.modules():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        model.train()(inputs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
    return model.eval()


def make(name: str) -> Network:
    torch.manual_seed(3)
    inputs = torch.randn(4, 3, 16, 16)
    if name in ("mlp", "cnn"):
        model: nn.Module = cnn()
        if name == "mlp":
            model, inputs = build("mlp_gsc", in_features=30, num_classes=5), torch.randn(4, 30)
        cuts = list(model)
    elif name == "resnet20":
        model = build("resnet20", num_classes=5)
        cuts = [*model.layer1, *model.layer2, *model.layer3, model.linear]
    elif name == "resnet18":
        inputs = torch.randn(4, 3, 32, 32)
        model = build("resnet18", num_classes=5)
        cuts = [*model.layer1, *model.layer2, *model.layer3, *model.layer4, model.fc]
    else:
        inputs = torch.randn(4, 3, 32, 32)
        model = build(name, num_classes=5)
        cuts = [*model.features, model.classifier]
    canonizer = {"resnet18": "resnet", "mobilenet_v2": "mobilenet"}.get(name, "vgg")
    return Network(without_shifts(model, inputs), inputs, canonizer, [model, *cuts])


network = cache(make)


# -- what a test looks at --------------------------------------------------------------------------


@dataclass
class Passed:
    """What came by at one module: its rule, its input, the relevance at its own output."""

    module: nn.Module
    rule: Hook
    input: Tensor
    above: Tensor


class Watched(Hook):
    """A rule whose relevances are written down."""

    def __init__(self, rule: Hook, seen: list[Passed]) -> None:
        super().__init__()
        self.rule, self.seen = rule, seen

    def copy(self) -> Watched:
        return Watched(self.rule.copy(), self.seen)

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
        self.rule.stored_tensors = self.stored_tensors
        x = self.stored_tensors["input"][0]
        self.seen.append(Passed(module, self.rule, x, grad_output[0]))
        return self.rule.backward(module, grad_input, grad_output)


def watched(composite: Composite, seen: list[Passed]) -> Composite:
    def module_map(ctx: dict[str, Any], name: str, module: nn.Module) -> Hook | None:
        rule = composite.module_map(ctx, name, module)
        return None if rule is None else Watched(rule, seen)

    return Composite(module_map=module_map, canonizers=composite.canonizers)


@dataclass(frozen=True)
class Cut:
    """Relevance that arrived at a cut, and how many rules had been applied by then."""

    relevance: float
    rules: int


@contextmanager
def cutting(modules: list[nn.Module], seen: Sized = ()) -> Iterator[dict[nn.Module, Cut]]:
    """The cut at each module's input tensor, in the order of the backward pass."""
    cuts: dict[nn.Module, Cut] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor]) -> None:
        def arrive(relevance: Tensor) -> None:
            cuts[module] = Cut(float(relevance.double().sum()), len(seen))

        if inputs[0].requires_grad:
            inputs[0].register_hook(arrive)

    handles = [module.register_forward_pre_hook(watch) for module in modules]
    try:
        yield cuts
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Flow:
    """What one propagation showed."""

    cuts: dict[nn.Module, Cut] = field(default_factory=dict)
    seen: list[Passed] = field(default_factory=list)
    weights: dict[nn.Parameter, Tensor] = field(default_factory=dict)

    def sums(self) -> list[float]:
        return [cut.relevance for cut in self.cuts.values()]


def propagate(network: Network, composite: Composite) -> Flow:
    """Relevance one in all, divided among the batch, from the classes 0, 1, … downwards."""
    flow = Flow()
    composite.canonizers = [build_canonizer(network.canonizer)]
    attributing = with_weight_relevance(watched(composite, flow.seen), flow.weights.__setitem__)
    inputs = network.inputs.clone().requires_grad_()
    with cutting(network.cuts, flow.seen) as flow.cuts, attributing.context(network.model) as model:
        logits = model(inputs)
        start = output_relevance(logits.detach(), torch.arange(len(inputs)), "ones")
        torch.autograd.grad(logits, inputs, start)
    return flow


def composite_of(rule: Hook, batch_norm: Hook, first: Hook | None = None) -> Composite:
    """One rule for the layers with weights, the first one's apart, Norm where branches meet."""
    layer_map = [
        (Activation, Pass()),
        ((Sum, ResidualSum, AvgPool, PaddedShortcut), Norm()),
        (Linear, rule),
        (BatchNorm, batch_norm),
    ]
    if first is None:
        return LayerMapComposite(layer_map)
    return SpecialFirstLayerMapComposite(layer_map, first_map=[(Linear, first)])


# Networks of seconds, which show each combination of rules; the large ones show each rule once.
SMALL = ("mlp", "cnn")
LARGE = tuple(name for name in NETWORKS if name not in SMALL)


def with_batch_norm(*rules: str) -> list[tuple[str, str]]:
    """The CNN with each rule for BatchNorm; the MLP, which has none, with one."""
    return [("mlp", rules[0]), *(("cnn", rule) for rule in rules)]


# -- cuts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "batch_norm"),
    [
        (name, rule, batch_norm)
        for (name, batch_norm), rule in product(with_batch_norm("pass", "epsilon"), RULES)
    ]
    + [*zip(LARGE, RULES, ("pass", "epsilon", "pass"), strict=True)],
)
def test_every_cut_carries_the_outputs_relevance(name: str, rule: str, batch_norm: str) -> None:
    net = network(name)
    composite = composite_of(RULES[rule], BATCH_NORM_RULES[batch_norm], first=Flat())
    flow = propagate(net, composite)
    assert flow.sums() == pytest.approx([1.0] * len(net.cuts), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "composite"),
    [*product(NETWORKS, ["epsilon_plus_flat_bn_pass"]), *product(SMALL, ["epsilon_flat"])],
)
def test_weight_relevance_conserves(name: str, composite: str) -> None:
    """The same by the function that training calls; the first layer of weights gets all of it.

    What would arrive at the network's input has no use there and is not computed.
    """
    net = network(name)
    with cutting(net.cuts) as cuts:
        relevances = weight_relevance(
            net.model, net.inputs, torch.arange(4), composite, net.canonizer, "ones"
        )
    sums = [cut.relevance for cut in cuts.values()]
    assert len(sums) >= len(net.cuts) - 3
    assert sums == pytest.approx([1.0] * len(sums), abs=TOLERANCE)
    first = next(name for name, p in net.model.named_parameters() if p.ndim > 1)
    assert float(relevances[first].double().sum()) == pytest.approx(1.0, abs=TOLERANCE)


@torch.no_grad()
def dropped(passed: Passed) -> float:
    """Relevance of the units without contribution, and the stabilizer's share of the others'.

    The contributions are the positive ones for ZPlus, all together for Epsilon and Norm; Pass and
    Flat drop nothing.
    """
    if isinstance(passed.rule, Pass | Flat):
        return 0.0
    if isinstance(passed.rule, ZPlus):
        z = positive_contributions(passed.module, passed.input)
    else:
        z = passed.module(passed.input).abs()
    return float((passed.above * 1e-6 / (z + 1e-6)).double().sum())


@cache
def sparse(name: str) -> Network:
    """The network with 2-bit weights, most of them zero."""
    net = make(name)
    assert ECQx(net.model, bits=2, lam=0.5).sparsity() > 0.6
    return net


BATCH_NORMS = ("pass", "epsilon", "zplus")
KINDS = [("zplus", "dense"), ("zplus", "sparse"), ("flat", "sparse")]


@pytest.mark.parametrize(
    ("name", "batch_norm", "rule", "weights"),
    [
        (*network_and_rule, *kind)
        for network_and_rule, kind in [
            *product(with_batch_norm(*BATCH_NORMS), KINDS),
            *product(zip(LARGE, BATCH_NORMS, strict=True), KINDS[1:]),
        ]
    ],
)
def test_what_a_cut_lacks_was_dropped(name: str, rule: str, batch_norm: str, weights: str) -> None:
    """Units without contribution drop relevance; nothing else does.

    Flat in every layer shows it best: it hands relevance to units that are zero, too.
    """
    rules = {"zplus": ZPlus(), "flat": Flat(), **BATCH_NORM_RULES}
    net = network(name) if weights == "dense" else sparse(name)
    flow = propagate(net, composite_of(rules[rule], rules[batch_norm]))
    lost = [0.0, *accumulate(map(dropped, flow.seen))]
    arriving_and_lost = [cut.relevance + lost[cut.rules] for cut in flow.cuts.values()]
    assert arriving_and_lost == pytest.approx([1.0] * len(net.cuts), abs=TOLERANCE)


def test_zplus_on_batch_norm_does_drop_relevance() -> None:
    """Or the test above would show nothing."""
    flow = propagate(network("resnet20"), composite_of(ZennitZPlus(), ZennitZPlus()))
    assert abs(flow.sums()[-1] - 1) > 5 * TOLERANCE


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_sum_to_the_relevance_at_their_layers_own_output(name: str, rule: str) -> None:
    flow = propagate(network(name), composite_of(RULES[rule], Pass()))
    layers = [p for p in flow.seen if isinstance(p.module, nn.Linear | nn.Conv2d)]
    assert len(layers) == sum(p.ndim > 1 for p in network(name).model.parameters())
    for passed in layers:
        error = float(flow.weights[passed.module.weight].double().sum() - passed.above.sum())
        assert abs(error) <= TOLERANCE * float(passed.above.abs().sum())


# -- residual blocks -------------------------------------------------------------------------------


class Unsplit(nn.Module):
    """A residual block that adds its branches without a layer for it."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        out = block.relu1(block.bn1(block.conv1(x)))
        return block.relu2(block.bn2(block.conv2(out)) + block.shortcut(x))


def growth(sums: list[float]) -> list[float]:
    """Factor from cut to cut, downwards."""
    return [below / above for above, below in pairwise(sums)]


def block_sums(net: Network, blocks: list[nn.Module], canonizer: str) -> list[float]:
    with cutting(blocks) as cuts:
        weight_relevance(net.model, net.inputs, torch.arange(4), canonizer=canonizer, output="ones")
    return [1.0, *(cut.relevance for cut in cuts.values())]


@pytest.fixture
def without_rules_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "build_operation_rules", lambda name: {})


@pytest.mark.usefixtures("without_rules_of_functions")
def test_relevance_does_not_grow_at_the_blocks_of_resnet20_but_does_unsplit() -> None:
    """Published: about two-fold a block, 154-fold in all, since additions are not split."""
    net = make("resnet20")
    stages = (net.model.layer1, net.model.layer2, net.model.layer3)
    split = block_sums(net, [block for stage in stages for block in stage], "resnet")
    assert growth(split) == pytest.approx([1.0] * 9, abs=TOLERANCE)
    with torch.no_grad():
        expected = net.model(net.inputs)
    for stage in stages:
        for i, block in enumerate(stage):
            stage[i] = Unsplit(block)
    with torch.no_grad():
        torch.testing.assert_close(net.model(net.inputs), expected)
    unsplit = block_sums(net, [block for stage in stages for block in stage], "resnet")
    assert all(1.5 < factor < 2.5 for factor in growth(unsplit))
    assert unsplit[-1] > 100
    net = make("resnet20")
    stages = (net.model.layer1, net.model.layer2, net.model.layer3)
    whole = LRP(canonizer="resnet", output="ones", additions="whole")
    with cutting([block for stage in stages for block in stage]) as cuts:
        weights.Attributor(net.model, whole)(net.inputs, torch.arange(4))
    assert [1.0, *(cut.relevance for cut in cuts.values())] == pytest.approx(unsplit, rel=1e-4)


@pytest.mark.parametrize("canonizer", CANONIZERS)
def test_relevance_does_not_grow_at_the_blocks_of_torchvision(canonizer: str) -> None:
    net = network("resnet18")
    blocks = [module for module in net.cuts[1:] if module is not net.model.fc]
    assert growth(block_sums(net, blocks, canonizer)) == pytest.approx([1.0] * 8, abs=TOLERANCE)


@pytest.mark.usefixtures("without_rules_of_functions")
def test_relevance_grows_at_the_blocks_of_torchvision_unsplit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SplitTorchvisionBlocks, "apply", lambda *_: [])
    net = network("resnet18")
    blocks = [module for module in net.cuts[1:] if module is not net.model.fc]
    unsplit = block_sums(net, blocks, "resnet")
    assert all(1.5 < factor < 2.5 for factor in growth(unsplit))
    assert unsplit[-1] > 100


class OwnBasic(resnet.BasicBlock):
    """A user's block: another name, the same forward."""


class OwnBottleneck(resnet.Bottleneck):
    expansion = 1


class OwnInverted(mobilenetv2.InvertedResidual):
    pass


class OwnForward(resnet.BasicBlock):
    """A user's block that does more than torchvision's."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


OWN_BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "BasicBlock": lambda: OwnBasic(8, 8),
    "Bottleneck": lambda: OwnBottleneck(8, 8),
    "InvertedResidual": lambda: OwnInverted(8, 8, stride=1, expand_ratio=2),
}


def of_blocks(block: Callable[[], nn.Module]) -> Network:
    """A user's own network, with no module of torchvision's but the blocks' bases."""
    torch.manual_seed(3)
    first = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    inputs = torch.randn(4, 3, 16, 16)
    model = without_shifts(nn.Sequential(*first, *(block() for _ in range(3)), *last), inputs)
    return Network(model, inputs, "resnet", [*model[2:5], model[5]])


@pytest.mark.parametrize("name", OWN_BLOCKS)
def test_blocks_of_a_users_subclass_are_split(name: str) -> None:
    net = of_blocks(OWN_BLOCKS[name])
    composite = composite_of(Epsilon(), Pass(), first=Flat())
    assert propagate(net, composite).sums() == pytest.approx([1.0] * 4, abs=TOLERANCE)


def test_a_forward_of_ones_own_is_kept() -> None:
    """Its additions and factors are functions with rules."""
    net = of_blocks(lambda: OwnForward(8, 8))
    before = net.model(net.inputs)
    seen: list[Tensor] = []
    net.model.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    assert growth(block_sums(net, net.cuts[:3], "resnet")) == pytest.approx([1.0] * 3, abs=0.02)
    torch.testing.assert_close(seen[0], before)


def test_additions_by_functions_have_the_relevance_of_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchvision's ResNet18 and MobileNetV2, whose additions are split or left as they are."""
    for name in ("resnet18", "mobilenet_v2"):
        net = network(name)
        arguments = (net.model, net.inputs, torch.arange(4))
        with monkeypatch.context() as patched:
            patched.setattr(SplitTorchvisionBlocks, "apply", lambda *_: [])
            by_functions = weight_relevance(*arguments)
        for parameter, relevance in weight_relevance(*arguments).items():
            assert torch.equal(by_functions[parameter], relevance)


def test_relevance_does_not_grow_at_the_gates_of_mobilenet_v3() -> None:
    """Units without a positive contribution drop theirs; nothing is made."""
    net = make("mobilenet_v3_small")
    sums = block_sums(net, net.cuts[1:-1], "mobilenet")
    assert all(factor < 1 + TOLERANCE for factor in growth(sums))
    assert sums[-1] > 0.9
