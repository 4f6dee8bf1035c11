"""Relevance of weights: the weight rules, the hook, the start, and what is left as it was."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import zennit.rules as zennit_rules
from torch import Tensor, nn
from zennit.composites import LayerMapComposite
from zennit.core import Composite, Hook
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

from ecqx.models import build
from ecqx.relevance import (
    COMPOSITES,
    LRP,
    RelevanceAverage,
    build_canonizer,
    build_composite,
    output_relevance,
    weight_relevance,
    with_weight_relevance,
)
from ecqx.relevance.rules import GammaAdapt, GammaBnConv, GammaPlus, ZPlus

EPSILON = 1e-6


def stabilized(z: Tensor) -> Tensor:
    """z + ε·sign z with sign 0 = 1."""
    return z + EPSILON * torch.where(z >= 0, 1.0, -1.0)


def mlp(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(32, 10), nn.ReLU(inplace), nn.Linear(10, 4)),
    )


def batch(*shape: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator), torch.arange(shape[0]) % classes


IMAGES = (6, 3, 12, 12)


# -- the weight rules ------------------------------------------------------------------------------


def dense_weight_relevance(layer: nn.Linear, x: Tensor, R: Tensor, gamma: float) -> Tensor:
    """R_W[j, i] = Σ_batch W[j, i]·x[i]·R[j] / (z + ε·sign z)[j], with W + γW⁺ in place of W."""
    W = layer.weight + gamma * layer.weight.clamp(min=0)
    b = layer.bias + gamma * layer.bias.clamp(min=0)
    quotient = R / stabilized(x @ W.T + b)
    return torch.einsum("ji,ni,nj->ji", W, x, quotient)


@pytest.mark.parametrize(("weight_rule", "gamma"), [("epsilon", 0.0), ("gamma", 0.25)])
def test_the_weight_rule_is_its_dense_formula_in_every_layer(
    weight_rule: Any, gamma: float
) -> None:
    """With R_out by hand: the start at the last layer, the epsilon rule down to the first one."""
    model = mlp(5, 7, 4).double()
    x, y = batch(6, 5)
    x = x.double()
    relevances = weight_relevance(model, x, y, "epsilon_plus", weight_rule=weight_rule)
    first, _, last = model
    with torch.no_grad():
        hidden = first(x).relu()
        logits = last(hidden)
        R_out = torch.zeros_like(logits).scatter(1, y[:, None], logits.gather(1, y[:, None])) / 6
        R_hidden = hidden * ((R_out / stabilized(logits)) @ last.weight)
        expected = {
            "0.weight": dense_weight_relevance(first, x, R_hidden, gamma),
            "2.weight": dense_weight_relevance(last, hidden, R_out, gamma),
        }
    assert list(relevances) == list(expected)
    for name, relevance in relevances.items():
        torch.testing.assert_close(relevance, expected[name], rtol=1e-9, atol=1e-12)


def test_the_weight_rule_of_a_convolution_is_that_of_its_unfolded_linear_layer() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, bias=False).double()
    model = nn.Sequential(convolution, nn.Flatten())
    x, _ = batch(2, 3, 5, 5)
    x, y = x.double(), torch.randint(0, 2, (2, 36))
    relevance = weight_relevance(model, x, y, "epsilon_plus", output="ones")["0.weight"]
    with torch.no_grad():
        columns = nn.functional.unfold(x, 3)
        quotient = (y / 2).unflatten(1, (4, 9)) / stabilized(convolution(x).flatten(2))
        products = torch.einsum("ncp,nkp->ck", quotient, columns)
        expected = convolution.weight * products.view_as(convolution.weight)
    torch.testing.assert_close(relevance, expected, rtol=1e-9, atol=1e-12)


def test_the_sign_of_zero_is_one() -> None:
    layer = nn.Linear(2, 1, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    x = torch.ones(1, 2, dtype=torch.float64)
    relevance = weight_relevance(
        nn.Sequential(layer), x, torch.tensor([1]), "epsilon_plus", output="ones"
    )
    torch.testing.assert_close(relevance["0.weight"], layer.weight.detach() / EPSILON)


def test_the_relevance_of_a_zero_weight_is_zero_and_signs_are_kept() -> None:
    model = mlp(5, 7, 4)
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
    relevances = weight_relevance(model, *batch(6, 5))
    assert not relevances["0.weight"][:, ::2].any()
    for relevance in relevances.values():
        assert (relevance > 0).any()
        assert (relevance < 0).any()


# -- the hook --------------------------------------------------------------------------------------

LINEAR_RULES: dict[str, Callable[[], Hook]] = {
    "Epsilon": zennit_rules.Epsilon,
    "Gamma": zennit_rules.Gamma,
    "ZPlus": zennit_rules.ZPlus,
    "AlphaBeta": zennit_rules.AlphaBeta,
    "ZBox": lambda: zennit_rules.ZBox(-3.0, 3.0),
    "WSquare": zennit_rules.WSquare,
    "Flat": zennit_rules.Flat,
    "Norm": zennit_rules.Norm,
    "our ZPlus": ZPlus,
    "our GammaPlus": lambda: GammaPlus(0.1),
    "our GammaAdapt": lambda: GammaAdapt(0.25),
    "our GammaBnConv": lambda: GammaBnConv(0.05),
}
ACTIVATION_RULES: dict[str, Callable[[], Hook]] = {
    "Pass": zennit_rules.Pass,
    "ReLUDeconvNet": zennit_rules.ReLUDeconvNet,
    "ReLUGuidedBackprop": zennit_rules.ReLUGuidedBackprop,
    "ReLUBetaSmooth": zennit_rules.ReLUBetaSmooth,
    "a hook that changes nothing": Hook,
}
NOT_RULES = {"Hook", "BasicHook", "Stabilizer"}


def composite_of(linear: Hook, activation: Hook) -> Composite:
    layer_map = [
        (Activation, activation),
        (AvgPool, zennit_rules.Norm()),
        (Convolution, linear),
        (Linear, zennit_rules.Epsilon()),
        (BatchNorm, zennit_rules.Pass()),
    ]
    return LayerMapComposite(layer_map, canonizers=[build_canonizer("vgg")])


def input_relevance(composite: Composite, model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with composite.context(model) as attributed:
        logits = attributed(x)
        (relevance,) = torch.autograd.grad(logits, x, logits.detach())
    return relevance


def assert_composes(linear: Hook, activation: Hook, inplace: bool = False) -> None:
    model = cnn(inplace).eval().double()
    x, _ = batch(*IMAGES)
    seen: dict[nn.Parameter, Tensor] = {}
    plain = input_relevance(composite_of(linear, activation), model, x.double())
    ours = with_weight_relevance(composite_of(linear, activation), seen.__setitem__)
    torch.testing.assert_close(input_relevance(ours, model, x.double()), plain, rtol=1e-9, atol=0)
    weights = {p for p in model.parameters() if p.ndim > 1}
    assert weights <= set(seen)


@pytest.mark.parametrize("name", LINEAR_RULES)
def test_the_hook_hands_down_what_plain_zennit_does(name: str) -> None:
    assert_composes(LINEAR_RULES[name](), zennit_rules.Pass())


@pytest.mark.parametrize("name", ACTIVATION_RULES)
def test_the_hook_hands_down_what_plain_zennit_does_at_activations(name: str) -> None:
    assert_composes(zennit_rules.Epsilon(), ACTIVATION_RULES[name]())


@pytest.mark.parametrize("name", ACTIVATION_RULES)
def test_the_hook_takes_activations_that_overwrite_their_input(name: str) -> None:
    assert_composes(zennit_rules.Epsilon(), ACTIVATION_RULES[name](), inplace=True)


def test_no_rule_of_zennit_is_left_out() -> None:
    rules = {
        name
        for name, value in vars(zennit_rules).items()
        if isinstance(value, type) and issubclass(value, Hook)
    }
    assert rules - NOT_RULES <= {*LINEAR_RULES, *ACTIVATION_RULES}


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
def test_the_hook_alone_is_not_confused_by_overwritten_inputs(weight_rule: Any) -> None:
    results = []
    for inplace in (False, True):
        model, seen = cnn(inplace).eval(), {}
        composite = with_weight_relevance(
            composite_of(ZPlus(), zennit_rules.Pass()), seen.__setitem__, weight_rule
        )
        input_relevance(composite, model, batch(*IMAGES)[0])
        results.append([seen[p] for p in model.parameters() if p.ndim > 1])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_weight_relevance_is_the_hooks(composite: str) -> None:
    """The function adds the start and the model's state; what the hook reports is its result."""
    model, (x, y) = cnn().eval(), batch(*IMAGES)
    names = {p: name for name, p in model.named_parameters()}
    seen: dict[str, Tensor] = {}
    base = build_composite(composite)
    base.canonizers = [build_canonizer("vgg")]
    hooked = with_weight_relevance(base, lambda p, r: seen.__setitem__(names[p], r))
    start = x.clone().requires_grad_()
    with hooked.context(model):
        logits = model(start)
        torch.autograd.grad(logits, start, output_relevance(logits.detach(), y, "output"))
    for name, relevance in weight_relevance(model, x, y, composite).items():
        assert relevance.shape == dict(model.named_parameters())[name].shape
        assert torch.isfinite(relevance).all()
        assert torch.equal(relevance, seen[name])


class Twice(nn.Module):
    """One layer used twice, or two layers of the same weights used once each."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 5)
        self.second = self.first if shared else copy.deepcopy(self.first)
        self.relu = nn.ReLU()
        self.last = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.second(self.relu(self.first(x)))))


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
def test_a_layer_used_twice_has_the_sum_of_both(weight_rule: Any) -> None:
    shared, apart = (
        weight_relevance(Twice(s), *batch(6, 5), "epsilon_plus", weight_rule=weight_rule)
        for s in (True, False)
    )
    torch.testing.assert_close(
        shared["first.weight"], apart["first.weight"] + apart["second.weight"]
    )
    torch.testing.assert_close(shared["last.weight"], apart["last.weight"])
    assert "second.weight" not in shared


def test_a_layer_used_twice_may_be_one_whose_rule_changes_its_weights() -> None:
    """zennit 1.0 puts other parameters in a module's place when a rule modifies them."""
    model = Twice(True)
    before = state_of(model)
    for _ in range(2):
        assert set(weight_relevance(model, *batch(6, 5))) == {"first.weight", "last.weight"}
    assert_unchanged(model, before)


def test_tied_weights_have_the_sum_of_both() -> None:
    model = Twice(False)
    apart = weight_relevance(model, *batch(6, 5), "epsilon_plus")
    model.second.weight = model.first.weight
    tied = weight_relevance(model, *batch(6, 5), "epsilon_plus")
    torch.testing.assert_close(tied["first.weight"], apart["first.weight"] + apart["second.weight"])


# -- the start -------------------------------------------------------------------------------------

STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "output": lambda logits: logits,
    "probability": lambda logits: logits.softmax(1),
    "ones": torch.ones_like,
}


@pytest.mark.parametrize("output", STARTS)
def test_the_start_at_classes(output: Any) -> None:
    logits, y = batch(6, 4)
    expected = torch.zeros_like(logits)
    values = STARTS[output](logits)
    for n in range(6):
        expected[n, y[n]] = values[n, y[n]] / 6
    torch.testing.assert_close(output_relevance(logits, y, output), expected)


@pytest.mark.parametrize("output", STARTS)
def test_the_start_at_several_labels(output: Any) -> None:
    """Each present class's logit; the probability of a label is its sigmoid."""
    logits, _ = batch(6, 4)
    y = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]] * 2)
    values = torch.sigmoid(logits) if output == "probability" else STARTS[output](logits)
    actual = output_relevance(logits, y, output)
    torch.testing.assert_close(actual, torch.where(y == 1, values, 0) / 6)
    torch.testing.assert_close(output_relevance(logits, y.float(), output), actual)


@pytest.mark.parametrize("output", STARTS)
def test_the_start_at_pixels(output: Any) -> None:
    """Each valid pixel's class; 255 is no class."""
    logits, _ = batch(2, 4, 3, 5)
    y = torch.randint(0, 4, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    y[0, 0], y[1, :, 2] = 255, 255
    values, expected = STARTS[output](logits), torch.zeros_like(logits)
    for n, i, j in torch.nonzero(y != 255).tolist():
        c = int(y[n, i, j])
        expected[n, c, i, j] = values[n, c, i, j] / 2
    for targets in (y, y.to(torch.uint8)):
        torch.testing.assert_close(output_relevance(logits, targets, output), expected)


@pytest.mark.parametrize("shape", [(5,), (6, 3), (6, 4, 2), ()])
def test_targets_of_another_shape_get_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"targets of shape \(.*\) do not fit logits of \(6, 4\)"):
        output_relevance(torch.zeros(6, 4), torch.zeros(shape, dtype=torch.long), "output")


def test_the_batch_size_divides() -> None:
    """Twice the batch of the same samples: the same relevances."""
    model, (x, y) = cnn(), batch(*IMAGES)
    once = weight_relevance(model, x, y)
    twice = weight_relevance(model, torch.cat([x, x]), torch.cat([y, y]))
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-6)


class Segmentation(nn.Module):
    """A fully convolutional network that returns a dict, as torchvision's do."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.as_dict = as_dict
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
        )

    def forward(self, x: Tensor) -> Any:
        out = self.layers(x)
        return {"out": out, "aux": out.mean()} if self.as_dict else out


def test_a_segmentation_network_may_return_a_dict() -> None:
    x, _ = batch(2, 3, 8, 8)
    y = torch.randint(0, 4, (2, 8, 8))
    y[:, 0] = 255
    plain, as_dict = (weight_relevance(Segmentation(kind), x, y) for kind in (False, True))
    assert set(plain) == {"layers.0.weight", "layers.3.weight"}
    torch.testing.assert_close(as_dict, plain, rtol=0, atol=0)


def test_pixels_without_a_label_have_no_say() -> None:
    y = torch.full((2, 8, 8), 255)
    relevances = weight_relevance(Segmentation(True), batch(2, 3, 8, 8)[0], y)
    assert not any(relevance.any() for relevance in relevances.values())


# -- what is left as it was ------------------------------------------------------------------------


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that could be left changed, by identity and by value."""
    modules = dict(model.named_modules())
    return {
        "parameters": {name: id(p) for name, p in model.named_parameters()},
        "storages": {name: p.data_ptr() for name, p in model.named_parameters()},
        "values": {name: t.clone() for name, t in model.state_dict().items()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "training": {name: m.training for name, m in modules.items()},
        "inplace": {name: getattr(m, "inplace", None) for name, m in modules.items()},
        "eps": {name: getattr(m, "eps", None) for name, m in modules.items()},
        "attributes": {name: set(vars(m)) for name, m in modules.items()},
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules.values()],
    }


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = state_of(model)
    torch.testing.assert_close(after.pop("values"), before.pop("values"), rtol=0, atol=0)
    assert all(g is before["gradients"][name] for name, g in after.pop("gradients").items())
    before.pop("gradients")
    assert after == before


def peculiar(network: str) -> tuple[nn.Module, Tensor, Tensor, str]:
    """A network whose modes and flags are not all alike."""
    torch.manual_seed(0)
    if network == "cnn":
        model: nn.Module = cnn(inplace=True)
        frozen = [model[0].weight, model[1].bias, model[10].weight]
        model[1].eval()
    else:
        model = build(network, num_classes=4)
        frozen = list(model.parameters())[:2]
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    for p in frozen:
        p.requires_grad_(False)
    list(model.parameters())[-1].grad = torch.ones(4)
    x, y = batch(2, 3, 32, 32)
    return model, x, y, {"mobilenet_v2": "mobilenet"}.get(network, "resnet")


@pytest.mark.parametrize(
    ("network", "weight_rule"),
    [
        *(("cnn", "epsilon"), ("cnn", "gamma"), ("resnet20", "gamma")),
        *(("resnet18", "epsilon"), ("mobilenet_v2", "gamma")),
    ],
)
def test_everything_is_left_as_it_was(network: str, weight_rule: Any) -> None:
    model, x, y, canonizer = peculiar(network)
    x.requires_grad_()
    before, inputs = state_of(model), x.detach().clone()
    weight_relevance(model, x, y, canonizer=canonizer, weight_rule=weight_rule)
    assert_unchanged(model, before)
    assert x.grad is None
    assert torch.equal(x, inputs)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_composite_leaves_everything_as_it_was(composite: str) -> None:
    model, x, y, canonizer = peculiar("cnn")
    x = x[:, :, :12, :12]
    before = state_of(model)
    weight_relevance(model, x, y, composite, canonizer)
    assert_unchanged(model, before)


@pytest.mark.parametrize("network", ["cnn", "resnet18"])
def test_everything_is_left_as_it_was_after_an_error(network: str) -> None:
    model, x, y, canonizer = peculiar(network)
    if network == "cnn":
        x = x[:, :, :12, :12]
    before = state_of(model)
    with pytest.raises(ValueError, match="targets"):  # behind the forward pass
        weight_relevance(model, x, y[:1], canonizer=canonizer)
    assert_unchanged(model, before)
    before = state_of(model)
    with pytest.raises(RuntimeError):  # within the forward pass: too few channels
        weight_relevance(model, x[:, :2], y, canonizer=canonizer)
    assert_unchanged(model, before)


def test_relevance_can_be_measured_without_gradients_and_between_training_steps() -> None:
    """In the middle of a step: the gradient that waits for the optimizer is not touched."""
    model, (x, y) = cnn().train(), batch(*IMAGES)
    nn.functional.cross_entropy(model(x), y).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    with torch.no_grad():
        inside = weight_relevance(model, x, y)
    torch.testing.assert_close(weight_relevance(model, x, y), inside, rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients, rtol=0, atol=0)
    assert not any(relevance.requires_grad for relevance in inside.values())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model[0].weight, weight)


def test_the_same_input_gives_the_same_result() -> None:
    model, (x, y) = build("resnet20", num_classes=4), batch(4, 3, 16, 16)
    first, second = (weight_relevance(model, x, y) for _ in range(2))
    assert list(first) == [name for name, p in model.named_parameters() if p.ndim > 1]
    assert all(torch.equal(second[name], relevance) for name, relevance in first.items())


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["composite", "canonizer", "output", "weight_rule"])
def test_unknown_names_get_one_line(setting: str) -> None:
    name = "lrp_output" if setting == "output" else setting
    with pytest.raises(ValueError, match=f"^{name} must be one of .*, not 'none'$") as caught:
        weight_relevance(mlp(5, 4), *batch(6, 5), **{setting: "none"})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"^{name} must be one of"):
        LRP(**{setting: "none"})


class TwoInputs(nn.Module):
    """A layer that LRP has no rule for: two inputs at one linear module."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.bilinear = SumOfTwo(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x) + self.linear(x)


class SumOfTwo(nn.Linear):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


def test_a_module_of_two_inputs_gets_one_line() -> None:
    model = TwoInputs().train()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"no rule for a SumOfTwo with 2 inputs; use ECQ"):
        weight_relevance(model, *batch(6, 5))
    assert_unchanged(model, before)


# -- the running average ---------------------------------------------------------------------------


def test_the_average_is_signed_and_restarts() -> None:
    model, alpha = mlp(5, 7, 4), 0.3
    average = RelevanceAverage(LRP(alpha=alpha))
    batches = [batch(6, 5), tuple(t[1:4] for t in batch(6, 5)), batch(4, 5)]
    expected: dict[str, Tensor] = {}
    for x, y in batches:
        new = weight_relevance(model, x, y)
        expected = {
            name: r if name not in expected else (1 - alpha) * r + alpha * expected[name]
            for name, r in new.items()
        }
        torch.testing.assert_close(average.update(model, x, y), expected, rtol=1e-4, atol=1e-7)
    assert any((r < 0).any() for r in average.values.values())
    average.start_epoch()
    assert average.values == {}
    x, y = batches[0]
    torch.testing.assert_close(average.update(model, x, y), weight_relevance(model, x, y))


def test_between_its_turns_the_average_stays() -> None:
    """Steps 0 and 3 of an epoch measure; the next epoch begins with a measurement again."""
    model, batches = mlp(5, 7, 4), [batch(6, 5), batch(4, 5), batch(5, 5), batch(3, 5)]
    average = RelevanceAverage(LRP(every=3, restart=False))
    first = {k: v.clone() for k, v in average.update(model, *batches[0]).items()}
    for x, y in batches[1:3]:
        assert_same(average.update(model, x, y), first)
    new = weight_relevance(model, *batches[3])
    expected = {name: r.lerp(first[name], 0.1) for name, r in new.items()}
    assert_same(average.update(model, *batches[3]), expected)
    average.start_epoch()
    assert any(
        not torch.equal(r, expected[name]) for name, r in average.update(model, *batches[1]).items()
    )


def test_some_samples_stand_for_the_batch() -> None:
    model, (x, y) = mlp(5, 7, 4), batch(6, 5)
    few = RelevanceAverage(LRP(samples=2)).update(model, x, y)
    assert_same(few, weight_relevance(model, x[:2], y[:2]))
    all_of_them = RelevanceAverage(LRP(samples=100)).update(model, x, y)
    assert_same(all_of_them, weight_relevance(model, x, y))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("setting", ["every", "samples"])
def test_less_than_one_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} must be a whole number above 0, not 0$"):
        LRP(**{setting: 0})


class Overwriting(nn.Module):
    """Changes what layers put out, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.conv1, self.conv2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.conv1(x))
        hidden = hidden.sub_(0.2) if self.in_place else hidden - 0.2
        out = self.conv2(hidden)
        out = out.add_(hidden) if self.in_place else out + hidden
        return self.head(out.mean((2, 3)))


def test_what_is_overwritten_in_place_is_judged_as_it_was() -> None:
    torch.manual_seed(0)
    plain, overwriting = Overwriting(in_place=False), Overwriting(in_place=True)
    overwriting.load_state_dict(plain.state_dict())
    x, y = torch.randn(6, 2, 5, 5), torch.arange(6) % 4
    expected = weight_relevance(plain, x, y)
    for name, relevance in weight_relevance(overwriting, x, y).items():
        torch.testing.assert_close(relevance, expected[name], rtol=1e-5, atol=1e-7)


def test_a_copy_measures_on_its_own_model() -> None:
    model, (x, y) = mlp(5, 7, 4), batch(6, 5)
    average = RelevanceAverage(LRP())
    average.update(model, x, y)
    other_model, other = copy.deepcopy((model, average))
    assert_same(pickle.loads(pickle.dumps(average)).values, average.values)
    assert_same(other.update(other_model, x, y), average.update(model, x, y))


def test_a_model_without_any_rule_is_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Softmax(1))
    with pytest.raises(
        ValueError, match=r"^no layer of the model has a rule of relevance; use ECQ$"
    ):
        weight_relevance(model, torch.rand(2, 3), torch.tensor([0, 1]))
