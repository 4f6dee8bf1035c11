"""How a network calls its layers: with further arguments, by keyword, in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ecqx
from ecqx.relevance import COMPOSITES, LRP, weight_relevance
from ecqx.relevance.rules import quotient
from ecqx.relevance.weights import Attributor

Forward = Callable[[Any, Tensor], Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Calling(nn.Module):
    """Layers that a function calls; the same ones for each function."""

    def __init__(self, forward: Forward, **layers: Callable[[], nn.Module]) -> None:
        super().__init__()
        # Each layer has the weights that belong to its name, in whatever order they are made.
        for name, make in layers.items():
            torch.manual_seed(sum(map(ord, name)))
            setattr(self, name, make())
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def assert_same(models: list[nn.Module], x: Tensor, classes: int, **settings: Any) -> None:
    """Both networks compute the same, and have the same relevances, bit by bit."""
    y = torch.arange(len(x)) % classes
    first, *others = (weight_relevance(model, x, y, **settings) for model in models)
    forwards = [[module.__dict__.get("forward") for module in m.modules()] for m in models]
    assert not any(filter(None, (f for found in forwards for f in found)))
    for other, model in zip(others, models[1:], strict=True):
        assert torch.equal(model.eval()(x), models[0].eval()(x))
        for name, relevance in first.items():
            assert torch.equal(other[name], relevance), name


# -- further arguments -----------------------------------------------------------------------------


def upsampling(kind: str) -> nn.Module:
    """Doubles an image by a transposed convolution; its size is given in the call or the layer."""
    padding = 1 if kind == "layer" else 0

    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.relu(self.down(x))
        size = list(x.shape[2:])
        if kind == "keyword":
            h = self.up(h, output_size=size)
        elif kind == "all keywords":
            h = self.up(output_size=size, input=h)
        else:
            h = self.up(h, size) if kind == "position" else self.up(h)
        return self.head(self.relu(h).mean((2, 3)))

    return Calling(
        forward,
        down=lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1),
        up=lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=padding),
        relu=nn.ReLU,
        head=lambda: nn.Linear(4, 3),
    )


KINDS = ("layer", "keyword", "all keywords", "position")


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_the_size_of_a_transposed_convolution(composite: str, weight_rule: str) -> None:
    """Given in the call it has the relevance that it has as a setting of the layer."""
    models = [upsampling(kind) for kind in KINDS]
    assert_same(models, random(6, 2, 8, 8), 3, composite=composite, weight_rule=weight_rule)


def test_two_threads_compute_the_same() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same([upsampling(kind) for kind in KINDS], random(6, 2, 8, 8), 3)
    finally:
        torch.set_num_threads(threads)


def by_keyword(keyword: bool) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in (self.conv, self.norm, self.relu, self.pool):
            x = layer(input=x) if keyword else layer(x)
        x = x.flatten(1)
        return self.head(input=x) if keyword else self.head(x)

    return Calling(
        forward,
        conv=lambda: nn.Conv2d(2, 4, 3),
        norm=lambda: nn.BatchNorm2d(4),
        relu=lambda: nn.ReLU(inplace=True),
        pool=lambda: nn.AvgPool2d(2),
        head=lambda: nn.Linear(36, 3),
    )


@pytest.mark.parametrize("composite", COMPOSITES)
def test_the_input_by_keyword(composite: str) -> None:
    models = [by_keyword(keyword) for keyword in (False, True)]
    assert_same(models, random(6, 2, 8, 8), 3, composite=composite)


def test_an_embedding_by_keyword() -> None:
    def words(keyword: bool) -> nn.Module:
        def forward(self: Any, x: Tensor) -> Tensor:
            return self.head((self.words(input=x) if keyword else self.words(x)).mean(1))

        return Calling(
            forward, words=lambda: nn.Embedding(9, 5), head=lambda: nn.Linear(5, 3, bias=False)
        )

    assert_same([words(False), words(True)], torch.arange(24).reshape(6, 4) % 9, 3)


class Scaled(nn.Linear):
    """A linear layer with a factor: an argument, or a setting."""

    factor = 1.0

    def forward(self, input: Tensor, factor: float | None = None, note: Any = None) -> Tensor:
        return super().forward(input) * (self.factor if factor is None else factor)


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
def test_a_layer_of_ones_own_with_a_factor(weight_rule: str) -> None:
    def scaled(kind: str) -> nn.Module:
        def forward(self: Any, x: Tensor) -> Tensor:
            given = {"keyword": {"factor": -3.0, "note": {"a": [1, None]}}}.get(kind, {})
            h = self.first(x, -3.0) if kind == "position" else self.first(x, **given)
            return self.head(self.relu(h))

        model = Calling(
            forward, first=lambda: Scaled(6, 8), relu=nn.ReLU, head=lambda: Scaled(8, 3)
        )
        model.first.factor = -3.0 if kind == "setting" else 1.0
        return model

    models = [scaled(kind) for kind in ("setting", "position", "keyword")]
    assert_same(models, random(6, 6), 3, composite="epsilon_plus", weight_rule=weight_rule)


def test_training_with_keywords() -> None:
    model, x, y = upsampling("keyword"), random(6, 2, 8, 8), torch.arange(6) % 3
    q = ecqx.ECQx(model, relevance=LRP())
    q.update(x, y)
    assert all(relevance.any() for relevance in q.relevance.values.values())


class Joined(nn.Linear):
    """A linear layer of several tensors."""

    def forward(self, first: Any, second: Any = None) -> Tensor:  # type: ignore[override]
        parts = first if isinstance(first, list | tuple) else [first]
        parts = [*parts, *([] if second is None else [second])]
        return super().forward(torch.cat(parts, 1))


@pytest.mark.parametrize(
    ("call", "count"),
    [
        (lambda layer, x: layer(x, x), 2),
        (lambda layer, x: layer(x, second=x), 2),
        (lambda layer, x: layer([x, x]), 2),
        (lambda layer, x: layer(first=(x,), second=x), 2),
        (lambda layer, x: layer((x.repeat(1, 2),)), 1),
    ],
)
def test_several_tensors_are_one_line(call: Callable[..., Tensor], count: int) -> None:
    model = Calling(lambda self, x: call(self.joined, x), joined=lambda: Joined(8, 3))
    with pytest.raises(ValueError, match=f"^LRP has no rule for a Joined with {count} inputs; use"):
        weight_relevance(model, random(6, 4), torch.arange(6) % 3)


class Growing(nn.Linear):
    """Puts out another shape whenever it is run."""

    runs = 0

    def forward(self, input: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(input).repeat(1, self.runs)


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_gamma_flat_bn"])
def test_another_shape_at_a_second_run_is_one_line(composite: str) -> None:
    """Not a walk beyond the memory of the smaller one."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Growing(4, 3))
    with pytest.raises(ValueError, match="a layer put out shape"):
        weight_relevance(model, random(6, 4), torch.arange(6) % 3, composite, weight_rule="gamma")
    with pytest.raises(ValueError, match=r"shape \(4, 3\), and \(4, 5\) when a rule"):
        quotient(torch.ones(4, 3), torch.ones(4, 5))
    with pytest.raises(ValueError, match="when a rule of relevance ran it again"):
        quotient(torch.ones(4, 1), torch.ones(4, 5))


# -- the order of execution ------------------------------------------------------------------------

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "stem": lambda: nn.Conv2d(2, 4, 3),
    "body": lambda: nn.Conv2d(4, 4, 3),
    "relu": nn.ReLU,
    "head": lambda: nn.Linear(4, 3),
}
ORDERS = {
    "in the order of execution": ("stem", "body", "relu", "head"),
    "the head first": ("head", "body", "relu", "stem"),
    "the body first": ("body", "head", "stem", "relu"),
}


def through(self: Any, x: Tensor) -> Tensor:
    return self.head(self.relu(self.body(self.relu(self.stem(x)))).mean((2, 3)))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_the_first_layer_is_the_first_that_runs(composite: str) -> None:
    """Not the first that was assigned to an attribute."""
    models = [Calling(through, **{name: LAYERS[name] for name in o}) for o in ORDERS.values()]
    assert_same(models, random(6, 2, 8, 8), 3, composite=composite)


def test_a_layer_that_never_runs_is_not_the_first() -> None:
    """An auxiliary head of the training, assigned before everything else."""
    aux = {"aux": lambda: nn.Linear(8, 3)}
    assert_same(
        [Calling(through, **LAYERS), Calling(through, **aux, **LAYERS)], random(6, 2, 8, 8), 3
    )


def test_an_embedding_that_runs_first_takes_the_place_of_the_first_layer() -> None:
    def sentences(*order: str) -> nn.Module:
        layers: dict[str, Callable[[], nn.Module]] = {
            "words": lambda: nn.Embedding(9, 5),
            "hidden": lambda: nn.Linear(5, 5),
            "head": lambda: nn.Linear(5, 3),
        }

        def forward(self: Any, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.hidden(self.words(x).mean(1))))

        return Calling(forward, **{name: layers[name] for name in order})

    models = [sentences("words", "hidden", "head"), sentences("head", "hidden", "words")]
    assert_same(models, torch.arange(24).reshape(6, 4) % 9, 3)


def test_each_batch_has_the_rules_of_the_first() -> None:
    """A layer that the first batch leaves out has a rule when it is called; a failed pass none."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        return self.head(self.relu(self.second(h)) if float(x[0, 0]) > 0 else h)

    model = Calling(
        forward,
        second=lambda: nn.Linear(4, 4),
        head=lambda: nn.Linear(4, 3),
        first=lambda: nn.Linear(4, 4),
        relu=nn.ReLU,
    )
    x, y = random(6, 4), torch.arange(6) % 3
    short, long = x.clone(), x.clone()
    short[0, 0], long[0, 0] = -1, 1
    attributor = Attributor(model)
    with pytest.raises(RuntimeError):
        attributor(short[:, :3], y)
    found = [attributor(batch, y) for batch in (short, long)]
    for relevance, batch in zip(found, (short, long), strict=True):
        for name, expected in weight_relevance(model, batch, y).items():
            assert torch.equal(relevance[name], expected)
    assert [len(relevance) for relevance in found] == [2, 3]
