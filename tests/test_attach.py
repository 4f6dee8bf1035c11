"""Attached to an optimizer a quantizer trains to the last bit as by explicit calls, in any loop."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from promise import assert_file_is_model
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop, Rprop
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

import ecqx
from ecqx.methods.lsq import LearnedSteps
from ecqx.methods.pruning import PrunedUniform
from ecqx.quantizers import attach
from ecqx.relevance import LRP

KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "ECQ": lambda m: ecqx.ECQx(m, lam=0.1),
    "stepped": lambda m: ecqx.ECQx(m, lam=0.1, relevance=LRP()),
    "quantized": lambda m: ecqx.ECQx(m, lam=0.1, relevance=LRP(of="quantized", every=2)),
    "full precision": lambda m: ecqx.ECQx(m, lam=0.1, relevance=LRP(of="full_precision")),
    "EC2T": ecqx.EC2T,
    "EC2T stepped": lambda m: ecqx.EC2T(m, relevance=LRP()),
    "FantastIC4": ecqx.FantastIC4,
    "LSQ": lambda m: LearnedSteps(m, 4),
    "pruning": lambda m: PrunedUniform(m, 4, 0.5, 8),
}
kinds = pytest.mark.parametrize("kind", KINDS)
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
Make = Callable[[Any], Optimizer]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(8, 3))


def adamw(parameters: Any) -> Optimizer:
    return AdamW(parameters, lr=0.02, weight_decay=0.01)


def explicit_groups(q: Any, groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups of an explicit loop that train what those of the model do when attached."""
    names = {weight: name for name, weight in q.weights.items()}
    found = []
    for group in groups:
        own = [q.latent[names[p]] if p in names else p for p in group["params"]]
        if q.steps_quantized:
            own += [p for p in group["params"] if p in names]
        found.append({**group, "params": own})
    known = {*q.latent.values(), *q.model.parameters()}
    numbers = [p for g in q.parameter_groups() for p in g["params"] if p not in known]
    return [*found, {**found[0], "params": numbers, "weight_decay": 0.0}] if numbers else found


class Loop:
    """A training loop of one's own, with attach or with the explicit calls."""

    def __init__(
        self,
        q: Any,
        attached: bool,
        make: Make = adamw,
        groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    ) -> None:
        self.q, self.attached, self.model = q, attached, q.model
        own = [{"params": [*q.model.parameters()]}] if groups is None else groups(q.model)
        self.optimizer = make(own if attached else explicit_groups(q, own))
        if attached:
            q.attach(self.optimizer)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.model(x).float(), y)

    def step(self, x: Tensor, y: Tensor, step: Callable[[], object] | None = None) -> None:
        """The step after the backward pass."""
        if self.attached:
            self.q.targets(y)
        else:
            self.q.transfer_gradients()
        (step or self.optimizer.step)()
        if not self.attached:
            self.q.update(x, y)


def batches(steps: int = 6) -> Iterable[tuple[Tensor, Tensor]]:
    for step in range(steps):
        part = slice(8 * (step % 3), 8 * (step % 3) + 8)
        yield X[part], Y[part]


def plain(loop: Loop, dtype: torch.dtype = torch.float32) -> None:
    for x, y in batches():
        loop.optimizer.zero_grad()
        loop.loss(x.to(dtype), y).backward()
        loop.step(x.to(dtype), y)


def assert_equal(one: Any, other: Any) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def compared(kind: str, train: Callable[[Loop], object], **options: Any) -> tuple[Any, Any]:
    """A quantizer that is attached and one by explicit calls, trained and found equal."""
    loops = [Loop(KINDS[kind](network()), attached, **options) for attached in (True, False)]
    start = copy.deepcopy(loops[0].q.state_dict())
    for loop in loops:
        train(loop)
    assert_equal(loops[0].q, loops[1].q)
    for name, latent in loops[0].q.latent.items():
        assert not torch.equal(latent, start[f"latent.{name}"])
    return loops[0].q, loops[1].q


def fused(parameters: Any) -> Optimizer:
    return Adam(parameters, lr=0.02, fused=True)


OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "RMSprop": lambda p: RMSprop(p, lr=0.01, momentum=0.5),
    "Adam, foreach": lambda p: Adam(p, lr=0.02, foreach=True),
    "Adam, fused": fused,
    **{kind.__name__: partial(kind, lr=0.01) for kind in (Adafactor, Adagrad, NAdam, Rprop)},
}


@pytest.mark.parametrize("kind", ["EC2T stepped", "LSQ"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(kind: str, optimizer: str) -> None:
    compared(kind, plain, make=OPTIMIZERS[optimizer])


@kinds
def test_kinds(kind: str, tmp_path: Path) -> None:
    q, _ = compared(kind, plain)
    if hasattr(q, "coded_state"):
        assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")


class Inheriting(SGD):
    """Clips before the inherited step, and decays after it."""

    def step(self, closure: Any = None) -> Any:
        held = [p for group in self.param_groups for p in group["params"]]
        loss = None if closure is None else closure()
        clip_grad_norm_(held, 0.05)
        super().step()
        with torch.no_grad():
            for parameter in held:
                parameter.mul_(0.99)
        return loss


class PassingOn(SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "EC2T stepped", "LSQ"])
@pytest.mark.parametrize("optimizer", [Inheriting, PassingOn])
@pytest.mark.parametrize("has_closure", [True, False])
def test_inherited_steps(kind: str, optimizer: type[SGD], has_closure: bool) -> None:
    """Once an instance of the base class exists, torch runs hooks in the inherited step, too."""
    SGD([nn.Parameter(X)])
    way = in_a_closure if has_closure else plain
    compared(kind, way, make=partial(optimizer, lr=0.1))


# -- ways to write a loop --------------------------------------------------------------------------


def micro_batches(loop: Loop) -> None:
    for _ in range(4):
        loop.optimizer.zero_grad()
        for x, y in batches(3):
            (loop.loss(x, y) / 3).backward()
        loop.step(x, y)


def clipped(loop: Loop, parameters: Callable[[Loop], list[nn.Parameter]]) -> None:
    for x, y in batches():
        loop.optimizer.zero_grad()
        loop.loss(x, y).backward()
        norm = clip_grad_norm_(parameters(loop), 0.05)
        assert norm > 0.05
        loop.step(x, y)


def clipped_over_the_model(loop: Loop) -> None:
    clipped(loop, lambda loop: [*loop.model.parameters()])


def clipped_over_the_optimizer(loop: Loop) -> None:
    """What it holds are the true gradients: explicitly those of the model."""
    held = [p for group in loop.optimizer.param_groups for p in group["params"]]
    clipped(loop, lambda loop: held if loop.attached else [*loop.model.parameters()])


def scaled(loop: Loop, unscales: bool = False, is_fused: bool = False) -> None:
    """The scale grows and shrinks; one batch overflows, and its step is left out.

    A fused optimizer leaves it out by itself, so that what follows a step is done.
    """
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    for i, (x, y) in enumerate(batches()):
        loop.optimizer.zero_grad()
        # Explicitly the optimizer does not know the gradients of the batch that is left out.
        loop.model.zero_grad()
        overflows = i == 3
        (scaler.scale(loop.loss(x, y)) * (torch.inf if overflows else 1)).backward()
        if overflows and not (loop.attached or is_fused):
            scaler.update(scaler.get_scale() / 2)
            continue

        def step() -> None:
            if unscales:
                scaler.unscale_(loop.optimizer)
            scaler.step(loop.optimizer)
            scaler.update()

        loop.step(x, y, step)


def scaled_and_unscaled(loop: Loop) -> None:
    scaled(loop, unscales=True)


def autocast(loop: Loop) -> None:
    for x, y in batches():
        loop.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loop.loss(x, y)
        loss.backward()
        loop.step(x, y)


def zeroed_by_the_model(loop: Loop) -> None:
    for x, y in batches():
        loop.model.zero_grad()
        loop.loss(x, y).backward()
        loop.step(x, y)


def zeroed_in_place(loop: Loop) -> None:
    for x, y in batches():
        loop.optimizer.zero_grad(set_to_none=False)
        loop.model.zero_grad(set_to_none=False)
        loop.loss(x, y).backward()
        loop.step(x, y)


def in_a_closure(loop: Loop) -> None:
    """As Lightning does, with everything in ``optimizer.step``."""
    for x, y in batches():

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            loop.optimizer.zero_grad()
            loss = loop.loss(x, y)
            loss.backward()
            if loop.attached:
                loop.q.targets(y)
            return loss

        if loop.attached:
            assert loop.optimizer.step(closure).item() > 0
            continue
        closure()
        loop.step(x, y)


def validated(loop: Loop) -> None:
    for x, y in batches():
        loop.optimizer.zero_grad()
        loop.loss(x, y).backward()
        loop.model.eval()(X)
        loop.model.train()
        with torch.no_grad():
            loop.model(X)
        loop.step(x, y)
        with torch.inference_mode():
            loop.model.eval()(X)
        loop.model.train()


def frozen_for_a_while(loop: Loop) -> None:
    for i, (x, y) in enumerate(batches()):
        loop.model[3].requires_grad_(i % 3 != 1)
        loop.optimizer.zero_grad()
        loop.loss(x, y).backward()
        loop.step(x, y)


WAYS = [
    *(micro_batches, clipped_over_the_model, clipped_over_the_optimizer, scaled),
    *(scaled_and_unscaled, autocast, zeroed_by_the_model, zeroed_in_place, in_a_closure),
    *(validated, frozen_for_a_while),
]


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "full precision", "EC2T stepped", "LSQ"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_ways_to_write_a_loop(kind: str, way: Callable[[Loop], None]) -> None:
    compared(kind, way)


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "EC2T stepped"])
def test_scaled_gradients_of_a_fused_optimizer(kind: str) -> None:
    train = partial(scaled, is_fused=True)
    compared(kind, train, make=fused)


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    first, rest = [*model[:3].parameters()], [*model[3:].parameters()]
    return [{"params": first, "lr": 0.05, "weight_decay": 0.1}, {"params": rest}]


@pytest.mark.parametrize("is_there_already", [True, False])
@pytest.mark.parametrize("kind", ["ECQ", "stepped"])
def test_groups_with_a_scheduler(kind: str, is_there_already: bool) -> None:
    def train(loop: Loop) -> None:
        if loop.attached and is_there_already:
            loop.q.detach()
        highest = [group["lr"] for group in loop.optimizer.param_groups]
        scheduler = OneCycleLR(loop.optimizer, highest, total_steps=6)
        if loop.attached and is_there_already:
            loop.q.attach(loop.optimizer)
        for x, y in batches():
            loop.optimizer.zero_grad()
            loop.loss(x, y).backward()
            loop.step(x, y)
            scheduler.step()

    compared(kind, train, groups=two_groups)


@pytest.mark.parametrize("kind", ["stepped", "EC2T stepped"])
def test_named_parameters(kind: str) -> None:
    one, other = KINDS[kind](network()), KINDS[kind](network())
    optimizer = adamw(one.model.named_parameters())
    one.attach(optimizer)
    loop = Loop(other, attached=False)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(one.model(x), y).backward()
        one.targets(y)
        optimizer.step()
    plain(loop)
    assert_equal(one, other)
    for group in optimizer.param_groups:
        assert len(group["param_names"]) == len(group["params"])


class Wrapper(Optimizer):
    """An optimizer in another one, as accelerate and Lightning have it."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self, closure: Any = None) -> None:
        self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


def test_wrapped_optimizers() -> None:
    compared("stepped", plain, make=lambda parameters: Wrapper(adamw(parameters)))


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "EC2T"])
def test_layers_that_the_optimizer_is_given_later(kind: str) -> None:
    """As fine-tuning that unfreezes layer by layer."""

    def train(loop: Loop) -> None:
        frozen = {"params": [*loop.model[:3].parameters()], "lr": 0.01}
        for parameter in frozen["params"]:
            parameter.requires_grad_(True)
        own = frozen if loop.attached else explicit_groups(loop.q, [frozen])[0]
        loop.optimizer.add_param_group(own)
        plain(loop)

    def last(model: nn.Module) -> list[dict[str, Any]]:
        model[:3].requires_grad_(False)
        return [{"params": [*model[3:].parameters()]}]

    compared(kind, train, groups=last)


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "full precision", "EC2T", "LSQ"])
def test_compiled(kind: str) -> None:
    """Also where the compiled model ran before it was attached to."""

    def train(loop: Loop) -> None:
        torch._dynamo.reset()
        loop.q.detach()
        loop.model = torch.compile(loop.q.model, backend="aot_eager", fullgraph=True)
        loop.loss(X, Y).backward()
        loop.model.zero_grad()
        if loop.attached:
            loop.q.attach(loop.optimizer)
        plain(loop)

    compared(kind, train)


def test_compiled_in_place() -> None:
    def train(loop: Loop) -> None:
        torch._dynamo.reset()
        loop.model.compile(backend="eager")
        plain(loop)

    compared("stepped", train)


def test_a_compiled_step() -> None:
    def train(loop: Loop) -> None:
        torch._dynamo.reset()
        step = torch.compile(loop.optimizer.step, backend="eager")
        for x, y in batches(3):
            loop.optimizer.zero_grad()
            loop.loss(x, y).backward()
            loop.step(x, y, step)

    compared("EC2T stepped", train)


@pytest.mark.parametrize("kind", ["ECQ", "stepped"])
def test_averages_of_weights(kind: str) -> None:
    """Of the model, which torch copies with its hooks, and of the latent weights."""
    averages: list[dict[str, Tensor]] = []

    def train(loop: Loop) -> None:
        average = AveragedModel(loop.model, multi_avg_fn=None)
        latent = {name: tensor.detach().clone() for name, tensor in loop.q.latent.items()}
        for x, y in batches():
            loop.optimizer.zero_grad()
            loop.loss(x, y).backward()
            loop.step(x, y)
            average.update_parameters(loop.model)
            average.module.train()(x)
            for name, tensor in loop.q.latent.items():
                latent[name].lerp_(tensor.detach(), 0.1)
        averages.append({**average.state_dict(), **latent})

    compared(kind, train)
    one, other = averages
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("LSQ", torch.bfloat16),
        *((k, d) for k in ("ECQ", "stepped", "EC2T") for d in (torch.bfloat16, torch.float64)),
    ],
)
@pytest.mark.parametrize("model_first", [True, False])
def test_other_precisions_and_a_resumed_training(
    kind: str, dtype: torch.dtype, model_first: bool
) -> None:
    """Latent weights of half-precision weights have an optimizer's state in float32."""
    expected = Loop(KINDS[kind](network().to(dtype)), attached=False)
    first = Loop(KINDS[kind](network().to(dtype)), attached=True)
    for loop in (expected, first):
        plain(loop, dtype)
    second = Loop(KINDS[kind](network().to(dtype)), attached=True)
    file = io.BytesIO()
    torch.save([first.model.state_dict(), first.optimizer.state_dict()], file)
    file.seek(0)
    states = zip((second.model, second.optimizer), torch.load(file), strict=True)
    for part, state in states if model_first else reversed([*states]):
        part.load_state_dict(state)
    for loop in (expected, second):
        plain(loop, dtype)
    assert_equal(second.q, expected.q)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    loop = Loop(KINDS["stepped"](network()), attached=True)
    plain(loop)
    before = copy.deepcopy(loop.q.state_dict())
    other = adamw(network().parameters()).state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        loop.optimizer.load_state_dict(other)
    loop.model.eval()(X)
    for name, tensor in before.items():
        assert torch.equal(loop.q.state_dict()[name], tensor), name


def test_an_optimizer_that_has_trained_in_half_precision() -> None:
    model = network().bfloat16()
    optimizer = adamw(model.parameters())
    F.cross_entropy(model(X.bfloat16()).float(), Y).backward()
    optimizer.step()
    before = optimizer.state[model[0].weight]["exp_avg"].clone()
    q = KINDS["ECQ"](model)
    q.attach(optimizer)
    moment = optimizer.state[model[0].weight]["exp_avg"]
    assert moment.dtype == torch.float32
    assert torch.equal(moment, before.float())
    optimizer.step()
    assert optimizer.state[model[0].bias]["exp_avg"].dtype == torch.bfloat16
    q.sparsity()


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "EC2T"])
def test_weights_that_keep_their_place_in_memory(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a CUDA graph is recorded."""
    monkeypatch.setattr(attach, "_is_captured", lambda: True)
    places: list[dict[str, int]] = []

    def train(loop: Loop) -> None:
        places.append({name: w.data_ptr() for name, w in loop.q.weights.items()})
        plain(loop)
        places.append({name: w.data_ptr() for name, w in loop.q.weights.items()})

    compared(kind, train)
    assert places[0] == places[1]


def test_sparse_gradients() -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(6, 8, sparse=True), nn.Flatten(), nn.Linear(32, 3))

    tokens = (X[:, :4].abs() * 2).long().clamp(max=5)
    loops = [Loop(ecqx.ECQx(made()), attached) for attached in (True, False)]
    for loop in loops:
        for _ in range(4):
            loop.optimizer.zero_grad()
            loop.loss(tokens, Y).backward()
            loop.step(tokens, Y)
    assert_equal(loops[0].q, loops[1].q)


# -- targets ---------------------------------------------------------------------------------------


def decided(several: bool, classes: int) -> tuple[Any, Any]:
    """By the model's own decision, and by giving that decision."""
    found = []
    for attached in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))
        q = ecqx.ECQx(model, lam=0.2, relevance=LRP())
        own = [{"params": [*model.parameters()]}]
        optimizer = adamw(own if attached else explicit_groups(q, own))
        if attached:
            q.attach(optimizer, several_labels=several)
        for x, _ in batches():
            optimizer.zero_grad()
            logits = model(x)
            logits.square().mean().backward()
            is_sign = several or classes == 1
            decision = (logits > 0).float() if is_sign else logits.argmax(1)
            if not attached:
                q.transfer_gradients()
            optimizer.step()
            if not attached:
                q.update(x, decision)
        found.append(q)
    return found[0], found[1]


@pytest.mark.parametrize(("several", "classes"), [(False, 3), (True, 3), (False, 1)])
def test_without_targets_the_model_decides(several: bool, classes: int) -> None:
    assert_equal(*decided(several, classes))


def test_targets_count_for_one_step() -> None:
    """A loop that forgets them falls back to the decision, not to those of another batch."""
    q = KINDS["quantized"](network())
    optimizer = adamw(q.model.parameters())
    q.attach(optimizer)
    for x, y in ((X[:8], Y[:8]), (X[:5], None)):
        optimizer.zero_grad()
        q.model(x).square().mean().backward()
        if y is not None:
            q.targets(y)
        optimizer.step()
    assert q.relevance.steps == 2


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 8), nn.Linear(6, 8)
        self.act, self.head = nn.ReLU(), nn.Linear(8, 3)

    def forward(
        self, x: Tensor, z: Tensor | None = None, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        out = self.one(x) if z is None else self.one(x) + self.other(z)
        return {"logits": self.head(self.act(out))}


@pytest.mark.filterwarnings("ignore:LRP has no rule for add")
@pytest.mark.parametrize(
    "inputs",
    [
        lambda x: ((x, x + 1), {}),
        lambda x: ((x,), {"z": x}),
        lambda x: ((), {"x": x, "count": torch.tensor(8)}),
    ],
)
def test_models_of_several_inputs(inputs: Callable[[Tensor], Any]) -> None:
    found = []
    for attached in (True, False):
        torch.manual_seed(0)
        q = ecqx.ECQx(TwoInputs(), lam=0.2, relevance=LRP(), exclude=["other"])
        loop = Loop(q, attached)
        for x, y in batches():
            loop.optimizer.zero_grad()
            args, kwargs = inputs(x)
            F.cross_entropy(q.model(*args, **kwargs)["logits"], y).backward()
            given = dict(zip(("x", "z"), args, strict=False)) | kwargs
            loop.step(given, y)
        found.append(q)
    assert_equal(*found)


# -- copies, detaching, errors ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ECQ", "quantized", "LSQ"])
def test_detached_it_goes_on_by_explicit_calls_and_back(kind: str) -> None:
    q = KINDS[kind](network())
    loop = Loop(q, attached=True, make=lambda p: SGD(p, lr=0.1))
    before = [len(group["params"]) for group in loop.optimizer.param_groups]
    other = Loop(KINDS[kind](network()), attached=False, make=lambda p: SGD(p, lr=0.1))
    plain(loop)
    q.detach()
    q.detach()
    explicit = Loop(q, attached=False, make=lambda p: SGD(p, lr=0.1))
    plain(explicit)
    q.attach(loop.optimizer)
    assert [len(group["params"]) for group in loop.optimizer.param_groups] == before
    plain(loop)
    for _ in range(3):
        plain(other)
    assert_equal(q, other.q)


@kinds
def test_detach_leaves_nothing(kind: str) -> None:
    q = KINDS[kind](network())
    optimizer = adamw(q.model.parameters())
    groups = [[*group["params"]] for group in optimizer.param_groups]
    q.attach(optimizer)
    for x, y in batches(2):
        optimizer.zero_grad()
        F.cross_entropy(q.model(x), y).backward()
        optimizer.step()
    q.detach()
    assert [[*group["params"]] for group in optimizer.param_groups] == groups
    assert {*optimizer.state} <= {*groups[0]}
    assert not q.model._forward_hooks
    assert not q.model._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("kind", ["ECQ", "stepped"])
def test_copies_are_not_attached(kind: str, copied: Callable[[Any], Any]) -> None:
    loop = Loop(KINDS[kind](network()), attached=True)
    plain(loop)
    other = copied(loop.q)
    before = copy.deepcopy(other.state_dict())
    plain(loop)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    plain(Loop(other, attached=True))
    assert any(not torch.equal(before[name], t) for name, t in other.state_dict().items())


def test_a_copy_of_the_model_remembers_no_batch() -> None:
    q = KINDS["stepped"](network())
    q.attach(adamw(q.model.parameters()))
    other = copy.deepcopy(q.model)
    other(X)
    (hook,) = other._forward_hooks.values()
    assert hook.__self__.inputs is None
    assert q._attachment._batch.inputs is None
    q.model(X)
    assert q._attachment._batch.inputs is X


def test_onnx_of_an_attached_quantizer(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    loop = Loop(KINDS["stepped"](network()), attached=True)
    plain(loop)
    ecqx.export_onnx(tmp_path / "model.onnx", loop.q, X)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"input": X.numpy()})
    expected = loop.model.eval()(X).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Breaking(SGD):
    """Stops in the middle of its step, as for want of memory."""

    breaks = True

    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
        if self.breaks:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter += 0.01
            raise MemoryError
        return super().step()


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "EC2T", "LSQ"])
def test_a_step_that_breaks_off(kind: str, tmp_path: Path) -> None:
    q = KINDS[kind](network())
    optimizer = Breaking(q.model.parameters(), lr=0.1)
    q.attach(optimizer)
    before = {name: weight.detach().clone() for name, weight in q.weights.items()}
    for saves in (True, False):
        optimizer.zero_grad()
        F.cross_entropy(q.model(X), Y).backward()
        gradient = q.model[0].weight.grad
        with pytest.raises(MemoryError):
            optimizer.step()
        if saves:
            assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")
        else:
            q.model(X)
        assert q.model[0].weight.grad is gradient
        if kind != "LSQ":  # whose step sizes have moved
            assert all(torch.equal(weight, before[name]) for name, weight in q.weights.items())
    optimizer.breaks = False
    q.targets(Y)
    optimizer.step()
    assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")


@pytest.mark.parametrize("kind", ["ECQ", "stepped", "LSQ"])
@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_forgotten_after_a_step_that_broke_off(kind: str, to_none: bool) -> None:
    """As by a loop that leaves out a batch for which memory did not suffice."""
    q = KINDS[kind](network())
    optimizer = Breaking(q.model.parameters(), lr=0.1)
    q.attach(optimizer)
    F.cross_entropy(q.model(X), Y).backward()
    with pytest.raises(MemoryError):
        optimizer.step()
    q.model.zero_grad(set_to_none=to_none)
    q.model(X)
    assert not any(p.grad is not None and p.grad.any() for p in q.model.parameters())


class Twice(SGD):
    """A step that asks for the loss again."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return closure()


def sharded(q: Any) -> None:
    q.model[0].__class__ = type("FSDPLinear", (type("FSDPModule", (), {}), nn.Linear), {})
    q.attach(adamw(q.model.parameters()))


def twice(q: Any) -> None:
    optimizer = adamw(q.model.parameters())
    q.attach(optimizer)
    q.attach(optimizer)


def with_two_calls_of_the_closure(q: Any) -> None:
    optimizer = Twice(q.model.parameters())
    q.attach(optimizer)

    def closure() -> None:
        F.cross_entropy(q.model(X), Y).backward()

    optimizer.step(closure)


def with_an_explicit_call(q: Any) -> None:
    q.attach(adamw(q.model.parameters()))
    F.cross_entropy(q.model(X), Y).backward()
    q.transfer_gradients()


def in_eval_mode(q: Any) -> None:
    optimizer = adamw(q.model.parameters())
    q.attach(optimizer)
    F.cross_entropy(q.model.eval()(X), Y).backward()
    optimizer.step()


def after_the_scheduler(q: Any) -> None:
    optimizer = adamw(q.model.parameters())
    OneCycleLR(optimizer, 0.1, total_steps=2)
    q.attach(optimizer)


REFUSED: list[tuple[str, Callable[[Any], object], str]] = [
    ("ECQ", lambda q: q.attach(torch.optim.LBFGS(q.model.parameters())), "LBFGS runs the model"),
    ("ECQ", lambda q: q.attach(torch.optim.SparseAdam([*q.weights.values()])), "SparseAdam takes"),
    ("ECQ", lambda q: q.attach(adamw(q.parameter_groups())), r"made from parameter_groups\(\)"),
    ("ECQ", lambda q: q.attach(adamw(q.model[3].parameters())), r"does not hold 0\.weight"),
    ("ECQ", lambda q: q.attach(object()), "a object is no torch.optim.Optimizer"),
    ("ECQ", sharded, "FSDP"),
    ("ECQ", twice, r"call detach\(\) before"),
    ("ECQ", with_two_calls_of_the_closure, "Twice calls its closure several times"),
    ("LSQ", with_an_explicit_call, "the attached optimizer's step does that"),
    ("EC2T", with_an_explicit_call, "the attached optimizer's step does that"),
    ("stepped", in_eval_mode, "was not called as a whole, by model"),
    ("EC2T", after_the_scheduler, "scheduler after attach"),
    ("stepped", lambda q: q.targets(Y), "call attach before"),
]


@pytest.mark.parametrize(("kind", "use", "message"), REFUSED)
def test_what_is_refused(kind: str, use: Callable[[Any], object], message: str) -> None:
    q = KINDS[kind](network())
    before = copy.deepcopy(q.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        use(q)
    assert "\n" not in str(caught.value)
    for name, tensor in q.state_dict().items():
        assert "running" in name or "batches" in name or torch.equal(tensor, before[name])
