"""Cost of a training step, relative to a plain one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import Ratio
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from ecqx.assignment.assign import assign_layers
from ecqx.data import Split
from ecqx.models import build
from ecqx.quantizers.ecqx import ECQx
from ecqx.relevance import LRP
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

BATCH, ROUNDS = 64, 9
RECOMMENDED = LRP(every=8)


@dataclass(frozen=True)
class Network:
    """A network of the suite, and the shape of its inputs."""

    name: str
    inputs: tuple[int, ...]
    batch: int
    rounds: int


RESNET20 = Network("resnet20", (3, 32, 32), BATCH, ROUNDS)
# Networks, and goals of a step by ECQ and by ECQx relative to a plain one.
GOALS = {
    "resnet20": (RESNET20, "<= 1.1", "<= 2.65"),
    "mlp_gsc, batch 256": (Network("mlp_gsc", (390,), 256, 31), "<= 1.4", "<= 2.95"),
    "mlp_gsc, batch 64": (Network("mlp_gsc", (390,), 64, 31), "<= 1.7", "<= 3.8"),
    "vgg16_bn": (Network("vgg16_bn", (3, 32, 32), BATCH, 5), "<= 1.1", "<= 2.55"),
}


def trainer(
    relevance: LRP | None = None, quantized: bool = True, network: Network = RESNET20
) -> Trainer:
    """A trainer whose model is in training mode."""
    torch.manual_seed(0)
    shape = {"in_features": network.inputs[0]} if network.name == "mlp_gsc" else {}
    model = build(network.name, num_classes=10, **shape).train()
    quantizer = ECQx(model, bits=4, lam=0.05, relevance=relevance) if quantized else None
    split = Split(torch.zeros(1, *network.inputs), torch.zeros(1, dtype=torch.long))
    return Trainer(model, split, split, FitSettings(), quantizer=quantizer)


def batch(size: int = BATCH, inputs: tuple[int, ...] = RESNET20.inputs) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *inputs), torch.arange(size) % 10


@pytest.mark.parametrize("method", ["ECQ", "ECQx"])
@pytest.mark.parametrize("case", GOALS)
def test_step(ratio: Ratio, case: str, method: str) -> None:
    network, *goals = GOALS[case]
    relevance = LRP() if method == "ECQx" else None
    plain, ours = trainer(quantized=False, network=network), trainer(relevance, network=network)
    data = batch(network.batch, network.inputs)
    goal = goals[method == "ECQx"]
    ratio(lambda: plain.step(*data), lambda: ours.step(*data), rounds=network.rounds, goal=goal)


@pytest.mark.parametrize("method", ["ECQ", "ECQx"])
@pytest.mark.parametrize("case", ["resnet20", "mlp_gsc, batch 64"])
def test_attached(ratio: Ratio, case: str, method: str) -> None:
    """A quantizer attached to the optimizer against the explicit calls."""
    network, *_ = GOALS[case]
    relevance = LRP() if method == "ECQx" else None
    explicit, attached = (own_loop(trainer(relevance, network=network), a) for a in (False, True))
    data = batch(network.batch, network.inputs)
    ratio(lambda: explicit(*data), lambda: attached(*data), rounds=network.rounds, goal="<= 1.05")


def own_loop(ours: Trainer, attached: bool) -> Callable[[Tensor, Tensor], None]:
    """The step of a loop of one's own."""
    quantizer = ours.quantizer
    assert isinstance(quantizer, ECQx)
    optimizer: torch.optim.Optimizer = ours.optimizer
    if attached:
        optimizer = torch.optim.Adam(ours.model.parameters(), lr=ours.settings.lr)
        quantizer.attach(optimizer)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(ours.model(x), y).backward()  # type: ignore[no-untyped-call]
        if attached:
            quantizer.targets(y)
            optimizer.step()
        else:
            quantizer.transfer_gradients()
            optimizer.step()
            quantizer.update(x, y)

    return step


def test_ecqx_recommended(ratio: Ratio) -> None:
    """As many steps in a row as relevance takes turns."""
    plain, ours, data = trainer(quantized=False), trainer(RECOMMENDED), batch()

    def steps(one: Trainer) -> None:
        for _ in range(RECOMMENDED.every):
            one.step(*data)

    ratio(lambda: steps(plain), lambda: steps(ours), rounds=5, goal="<= 1.4")


def test_bare_convolutions(ratio: Ratio) -> None:
    """A plain step and the four convolutions a layer of full fidelity, with nothing in between."""
    plain, other, data = trainer(quantized=False), trainer(quantized=False), batch()
    layers = inputs_of_convolutions(other.model, data[0])

    def bare() -> None:
        other.step(*data)
        for layer, x in layers:
            convolve_four_times(layer, x)

    ratio(lambda: plain.step(*data), bare, rounds=ROUNDS, goal="the floor of ECQx")


def inputs_of_convolutions(model: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """Each convolution of a model with what it is given."""
    found: list[tuple[nn.Conv2d, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(lambda m, given: found.append((m, given[0].detach())))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def convolve_four_times(layer: nn.Conv2d, x: Tensor) -> None:
    """Forward, forward of positive parts, its input gradient, the weight rule's gradient."""
    x = x.requires_grad_()
    z = layer(x)
    positive = nn.functional.conv2d(
        x, layer.weight.detach().clamp(min=0), None, layer.stride, layer.padding
    )
    torch.autograd.grad(positive, x, positive)
    torch.autograd.grad(z, layer.weight, z)


def test_profile(benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time of an ECQx step goes: the share of each operator's own time."""

    def recorded(*arguments: Any) -> None:
        with record_function("assignment"):
            assign_layers(*arguments)

    monkeypatch.setattr("ecqx.quantizers.base.assign_layers", recorded)
    ours, data = trainer(LRP()), batch()
    ours.step(*data)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        benchmark.pedantic(lambda: ours.step(*data), rounds=ROUNDS)
    times = {row.key: row.self_cpu_time_total for row in seen.key_averages()}
    total = sum(times.values())
    benchmark.extra_info["profile"] = {name: t / total for name, t in times.items()}


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("method", ["plain", "ECQ", "ECQx"])
def test_growth(benchmark: BenchmarkFixture, method: str, size: int) -> None:
    ours = trainer(LRP() if method == "ECQx" else None, quantized=method != "plain")
    data = batch(size)
    benchmark.pedantic(lambda: ours.step(*data), rounds=5, warmup_rounds=1)
    benchmark.extra_info |= {"curve": "batch", "method": method, "at": size}
