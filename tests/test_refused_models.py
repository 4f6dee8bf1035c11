"""What no file could hold of a model is refused when the quantizer is made, not when it saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from promise import assert_file_is_model
from torch import Tensor, nn

import ecqx
from ecqx.methods.lsq import LearnedSteps
from ecqx.relevance import LRP

Change = Callable[[nn.Sequential], object]
X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))


def parameter(values: Tensor) -> Change:
    return lambda m: m.register_parameter("odd", nn.Parameter(values, requires_grad=False))


def buffer(values: Tensor, persistent: bool = True) -> Change:
    return lambda m: m.register_buffer("odd", values, persistent=persistent)


class ExtraState(nn.Identity):
    """A layer that keeps more than tensors in its state."""

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 1}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"steps": 1}


def renamed(model: nn.Module) -> None:
    def hook(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        state[f"{prefix}kernel"] = state.pop(f"{prefix}weight")

    model[0].register_state_dict_post_hook(hook)  # type: ignore[index]


def cast(model: nn.Module) -> None:
    def hook(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        for name in list(state):
            state[name] = state[name].half()

    model.register_state_dict_post_hook(hook)


def transposed(model: nn.Module) -> None:
    def hook(module: nn.Module, state: Any, prefix: str, _: Any) -> None:
        state["0.weight"] = state["0.weight"].T

    model.register_state_dict_post_hook(hook)


REFUSED: dict[str, tuple[Change, str]] = {
    "complex": (parameter(torch.ones(3, 3, dtype=torch.complex64)), "odd: has dtype torch.complex"),
    "fp8": (parameter(torch.ones(3, 3).to(torch.float8_e4m3fn)), "odd: has dtype torch.float8"),
    "uint16": (buffer(torch.ones(3, dtype=torch.uint16)), "odd: has dtype torch.uint16"),
    "complex buffer": (buffer(torch.ones(3, dtype=torch.complex64)), "odd: has dtype"),
    "sparse": (buffer(torch.eye(3).to_sparse()), r"odd: is not a dense tensor .*\(sparse_coo\)"),
    "sparse rows": (parameter(torch.eye(3).to_sparse_csr()), "odd: is not a dense tensor"),
    "meta buffer": (buffer(torch.ones(3, device="meta")), "odd: is not a dense tensor with values"),
    "16 dimensions": (buffer(torch.ones((1,) * 16)), "odd: has 16 dimensions; at most 15"),
    "extra state": (lambda m: m.append(ExtraState()), r"3\._extra_state: is not a dense tensor"),
    "long name": (lambda m: m.register_buffer("x" * 1025, X), "no name of at most 1024"),
    "not Unicode": (lambda m: m.register_buffer("\udce9", X), "not valid Unicode"),
    "renamed": (renamed, r"0\.weight: the state_dict does not hold this parameter under its name"),
    "cast": (cast, r"0\.weight: the state_dict does not hold this parameter"),
    "transposed": (transposed, r"0\.weight: the state_dict does not hold this parameter"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(
    "make", [ecqx.ECQx, ecqx.EC2T, lambda m: LearnedSteps(m, 4)], ids=["ECQx", "EC2T", "LSQ"]
)
def test_what_no_file_can_hold(kind: str, make: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    change, message = REFUSED[kind]
    model = plain()
    change(model)
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=message) as caught:
        make(model)
    assert "\n" not in str(caught.value)
    assert torch.equal(model[0].weight, before)
    # Saving says the same, unless only the quantized weight is at fault.
    if "state_dict" not in message:
        with pytest.raises(ValueError, match=message):
            ecqx.save(tmp_path / "model.ecqx", model)
        assert not any(tmp_path.iterdir())


STORED: dict[str, tuple[Change, dict[str, Any]]] = {
    "half": (buffer(torch.ones(3, dtype=torch.bfloat16)), {}),
    "not in the state": (buffer(torch.ones(3, dtype=torch.complex64), persistent=False), {}),
    "excluded and renamed": (renamed, {"exclude": ["0."]}),
    "integers": (buffer(torch.arange(3)), {}),
}


@pytest.mark.parametrize("kind", STORED)
def test_what_a_file_can_hold(kind: str, tmp_path: Path) -> None:
    change, settings = STORED[kind]
    model, fresh = plain(), plain()
    change(model)
    change(fresh)
    q = ecqx.ECQx(model, **settings)
    if kind == "excluded and renamed":
        ecqx.save(tmp_path / "model.ecqx", q)
        assert "0.kernel" in ecqx.load(tmp_path / "model.ecqx")
    else:
        assert_file_is_model(q, fresh, X, tmp_path / "model.ecqx")


# -- modes -----------------------------------------------------------------------------------------


class Merging(nn.Linear):
    """A linear layer with a low-rank adapter, which eval mode merges into the weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.A, self.B = (
            nn.Parameter(torch.randn(n, m)) for n, m in ((2, sizes[0]), (sizes[1], 2))
        )
        self.merged = False
        self.calls: list[bool] = []

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        self.calls.append(mode)
        if self.merged == mode:
            sign = -1 if mode else 1
            self.weight.data += sign * self.B.data @ self.A.data
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        return out if self.merged else out + input @ self.A.T @ self.B.T


class KeptInEval(nn.Sequential):
    """Its BatchNorm never trains."""

    def train(self, mode: bool = True) -> KeptInEval:
        super().train(mode)
        for module in self:
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


class Stubborn(nn.ReLU):
    """Knows no modes, as a frozen part whose ``train`` does nothing."""

    def train(self, mode: bool = True) -> Stubborn:
        return self


@pytest.mark.parametrize("exclude", [["0."], ["0.A", "0.B"]])
@pytest.mark.parametrize("of", ["stepped", "quantized", "full_precision"])
def test_layers_that_merge_in_eval_mode(exclude: list[str], of: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    merging = Merging(6, 16)
    model = KeptInEval(merging, nn.BatchNorm1d(16), Stubborn(), nn.Linear(16, 5)).train()
    q = ecqx.ECQx(model, lam=0.05, relevance=LRP(of=of), exclude=exclude)
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.01)
    modes = [module.training for module in model.modules()]
    assert modes == [True, True, False, True, True]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), torch.arange(8) % 5).backward()
        q.transfer_gradients()
        optimizer.step()
        base = merging.weight.detach().clone()
        q.update(X, torch.arange(8) % 5)
        assert [module.training for module in model.modules()] == modes
        assert not merging.merged
        assert merging.calls[-1]
        if "0." in exclude:
            torch.testing.assert_close(merging.weight.detach(), base)
    ecqx.save(tmp_path / "model.ecqx", q)
    # While it is merged the quantized weight is no centroid.
    model.eval()
    if "0." not in exclude:
        with pytest.raises(ValueError, match=r"0\.weight: .*no centroids of the quantizer"):
            ecqx.save(tmp_path / "model.ecqx", q)
    model.train()
    ecqx.save(tmp_path / "model.ecqx", q)


def test_what_eval_mode_does_not_use_has_no_relevance() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Merging(6, 16), nn.ReLU(), nn.Linear(16, 5))
    relevance = ecqx.weight_relevance(model, X, torch.arange(8) % 5)
    assert set(relevance) == {"0.weight", "2.weight"}
    q = ecqx.ECQx(model, relevance=LRP(), include=["0.A", "0.B"])
    with pytest.raises(ValueError, match=r"no relevance reaches 0\.[AB]: "):
        q.update(X, torch.arange(8) % 5)
