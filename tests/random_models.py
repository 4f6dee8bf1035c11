"""Small models at random, what happens to them in training, and the promise that their files keep.

After any of it, a fresh copy that loads the file predicts bit for bit what the model predicts, or
making the quantizer was refused in one line.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from promise import assert_file_is_model, train
from torch import Tensor, nn

import ecqx
from ecqx.relevance import LRP

WIDTH, CLASSES, SAMPLES = 8, 4, 12


class Twice(nn.Module):
    """One module called twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.relu = inner, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(self.relu(self.inner(x)))
        return result


class ByKeyword(nn.Module):
    """A module called by the name of its argument."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(input=x)
        return result


class Convolved(nn.Module):
    """A layer on sequences of one channel, flattened again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.unsqueeze(1)).flatten(1)
        return result


class Scaled(nn.Module):
    """A matrix of its own, used without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Adapted(nn.Linear):
    """A low-rank adapter whose second factor starts at zero."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.A, self.B = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)
        nn.init.zeros_(self.B.weight)

    def forward(self, input: Tensor) -> Tensor:
        adapted: Tensor = super().forward(input) + self.B(self.A(input))
        return adapted


class Counting(nn.Identity):
    """Keeps a number in its state that is no tensor."""

    def get_extra_state(self) -> int:
        return 1

    def set_extra_state(self, state: int) -> None:
        assert state == 1


def linear(bias: bool = True) -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH, bias)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "without bias": lambda: linear(False),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "dropout": lambda: nn.Dropout(0.2),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "convolution": lambda: Convolved(nn.Conv1d(1, 2, 3, stride=2, padding=1)),
    "transposed": lambda: Convolved(nn.ConvTranspose1d(1, 1, 3, padding=1)),
    "twice": lambda: Twice(linear()),
    "by keyword": lambda: ByKeyword(linear()),
    "matrix": Scaled,
    "adapted": Adapted,
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(linear()),
    "extra state": Counting,
    "nested": lambda: nn.Sequential(linear(), nn.ReLU(), linear()),
}
# What has to be excluded of a layer.
EXCLUDED = {"adapted": "B", "weight norm": "parametrizations"}


@dataclass(frozen=True)
class Recipe:
    """How to make a model, how to train it, and what happens to it."""

    layers: list[str]
    seed: int
    dtype: torch.dtype
    tied: bool
    frozen: bool
    quantizer: str
    relevance: str | None
    settings: dict[str, Any]
    excludes: bool = False
    events: list[str] = field(default_factory=list)

    def model(self) -> nn.Module:
        """The same values at each call."""
        torch.manual_seed(self.seed)
        model = nn.Sequential(*(LAYERS[name]() for name in self.layers), nn.Linear(WIDTH, CLASSES))
        same = [m for m in model.modules() if type(m) is nn.Linear and m.out_features == WIDTH]
        if self.tied and len(same) > 1 and all("weight" in m._parameters for m in same):
            same[-1].weight = same[0].weight
        if self.frozen:
            next(model.parameters()).requires_grad_(False)
        return model.to(self.dtype)

    def quantized(self, model: nn.Module) -> Any:
        """The quantizer of a model."""
        lrp = None if self.relevance is None else LRP(of=self.relevance)  # type: ignore[arg-type]
        settings = dict(self.settings)
        if self.excludes:
            settings["exclude"] = [part for name, part in EXCLUDED.items() if name in self.layers]
        return getattr(ecqx, self.quantizer)(model, relevance=lrp, **settings)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and classes."""
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(SAMPLES, WIDTH, generator=generator)
        return x.to(self.dtype), torch.arange(SAMPLES) % CLASSES


def recipes(*quantizers: str) -> st.SearchStrategy[Recipe]:
    """Recipes of every kind, for some of the quantizers or all; plain ones are the simplest."""
    return st.builds(
        Recipe,
        layers=st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=5),
        seed=st.integers(0, 2**16),
        dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
        tied=st.booleans(),
        frozen=st.booleans(),
        quantizer=st.sampled_from(quantizers or ("ECQx", "EC2T", "FantastIC4")),
        relevance=st.sampled_from([None, "stepped", "quantized", "full_precision"]),
        settings=st.fixed_dictionaries({"lam": st.sampled_from([0.0, 0.05, 0.5])}),
        excludes=st.booleans(),
        events=st.lists(st.sampled_from(list(EVENTS)), max_size=3),
    )


def restored(recipe: Recipe, q: Any) -> Any:
    """A best epoch that comes back; of trained centroids by the quantizer."""
    source = q.model if recipe.quantizer == "ECQx" else q
    best = copy.deepcopy(dict(source.state_dict()))
    train(q, q.model, *recipe.batch())
    source.load_state_dict(best)
    return q


def averaged(recipe: Recipe, q: Any) -> Any:
    """The average of latent weights swapped in."""
    average = {name: tensor.detach().clone() for name, tensor in q.latent.items()}
    train(q, q.model, *recipe.batch())
    with torch.no_grad():
        for name, tensor in q.latent.items():
            tensor.lerp_(average[name], 0.5)
    q.update(*recipe.batch())
    return q


def by_state(recipe: Recipe, q: Any) -> Any:
    other = recipe.quantized(recipe.model())
    other.load_state_dict(copy.deepcopy(q.state_dict()))
    return other


def by_torch(recipe: Recipe, q: Any) -> Any:
    file = io.BytesIO()
    torch.save(q, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def compiled(recipe: Recipe, q: Any) -> Any:
    torch._dynamo.reset()
    train(q, torch.compile(q.model, backend="eager"), *recipe.batch())  # type: ignore[arg-type]
    return q


def parallel(recipe: Recipe, q: Any) -> Any:
    train(q, nn.DataParallel(q.model), *recipe.batch())
    return q


EVENTS: dict[str, Callable[[Recipe, Any], Any]] = {
    "deepcopy": lambda recipe, q: copy.deepcopy(q),
    "pickle": lambda recipe, q: pickle.loads(pickle.dumps(q)),
    "torch.save": by_torch,
    "state_dict": by_state,
    "restored epoch": restored,
    "average": averaged,
    "compile": compiled,
    "DataParallel": parallel,
}
# Said in the first step: of a relevance, which a quantizer does not know before, or of overflow.
IN_TRAINING = (
    *("LRP has no rule for", "no layer of the model has a rule", "no relevance reaches"),
    "NaN or infinite",
)


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, or the line that refuses it."""
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def keep_the_promise(recipe: Recipe, path: Path) -> str:
    """Train a recipe's model and see that its file is the model; what refused it, or nothing."""
    model = recipe.model()
    try:
        model(recipe.batch()[0]).float().sum().backward()
    except RuntimeError as error:  # torch has not every layer in half precision on a CPU
        return str(error)
    model = recipe.model()
    before = copy.deepcopy(model.state_dict())
    q, refusal = attempt(lambda: recipe.quantized(model))
    if refusal:
        assert "\n" not in refusal
        for name, value in model.state_dict().items():
            same = torch.equal(value, before[name]) if isinstance(value, Tensor) else True
            assert same, name
        return refusal
    _, refusal = attempt(lambda: train(q, model, *recipe.batch()))
    if refusal:
        assert any(part in refusal for part in IN_TRAINING), refusal
        return refusal
    x, _ = recipe.batch()
    assert_file_is_model(q, recipe.model(), x, path)
    for event in recipe.events:
        if "weight norm" in recipe.layers and event in ("pickle", "torch.save"):
            continue  # torch refuses it
        q, refusal = attempt(lambda q=q, event=event: EVENTS[event](recipe, q))
        if refusal:
            assert "NaN or infinite" in refusal, refusal
            return refusal
        assert_file_is_model(q, recipe.model(), x, path)
    return ""
