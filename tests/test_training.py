"""Fitting and evaluating: what is kept, when it ends, and that a stop changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecqx.data import Split
from ecqx.errors import InputError
from ecqx.quantizers.ecqx import ECQx
from ecqx.relevance import LRP
from ecqx.training.evaluation import evaluate, scores
from ecqx.training.objectives import objective_of
from ecqx.training.settings import FitSettings, steps_per_epoch
from ecqx.training.trainer import Trainer

METHODS: dict[str, LRP | None] = {
    "ECQ": None,
    "stepped": LRP(of="stepped", alpha=0.5, restart=False),
    "full precision": LRP(of="full_precision", alpha=0.5, restart=False),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        nn.Linear(4 * 16, 3),
    )


def split(samples: int, seed: int) -> Split:
    """Images whose class is that of a fixed linear map, so that there is something to learn."""
    inputs = torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    teacher = torch.randn(36, 3, generator=torch.Generator().manual_seed(99))
    return Split(inputs, (inputs.flatten(1) @ teacher).argmax(1))


TRAIN, VALIDATION = split(70, 1), split(30, 2)
SETTINGS = FitSettings(epochs=4, lr=0.02, batch_size=32)


def trainer(
    settings: FitSettings = SETTINGS,
    quantized: str | None = None,
    seed: int = 0,
    model_seed: int = 0,
    **options: Any,
) -> Trainer:
    model = network(model_seed)
    quantizer = None
    if quantized is not None:
        quantizer = ECQx(model, bits=3, lam=0.1, relevance=METHODS[quantized])
    return Trainer(model, TRAIN, VALIDATION, settings, seed, quantizer, **options)


def state_of(subject: Trainer) -> dict[str, Tensor]:
    """Everything that training changes, copied."""
    trained = subject.model if subject.quantizer is None else subject.quantizer
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal names and bits."""
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


class Recording(Trainer):
    """Keeps a copy of the state after each epoch."""

    def run_epoch(self) -> Any:
        epoch = super().run_epoch()
        self.states = [*getattr(self, "states", []), state_of(self)]
        return epoch


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the validation accuracies be those of a list, whatever the network learns."""

    def script(accuracies: Sequence[float]) -> None:
        values: Iterator[float] = iter(accuracies)
        monkeypatch.setattr("ecqx.training.trainer.evaluate", lambda *_: next(values))

    return script


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantized", "optimizer"),
    [(None, "sgd"), ("ECQ", "sgd"), *((method, "adam") for method in (None, *METHODS))],
)
def test_training_learns(quantized: str | None, optimizer: Any) -> None:
    subject = trainer(replace(SETTINGS, epochs=12, optimizer=optimizer), quantized)
    history = subject.fit()
    assert len(history) == 12
    assert history[-1].loss < 0.85 * history[0].loss
    assert all((epoch.sparsity > 0) == (quantized is not None) for epoch in history)
    assert all(epoch.steps == 3 for epoch in history)


def test_one_epoch_is_the_one_by_hand() -> None:
    subject = trainer(replace(SETTINGS, epochs=1, optimizer="sgd", weight_decay=0.1))
    history = subject.fit()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    losses = []
    for start in (0, 32, 64):
        chosen = order[start : start + 32]
        loss = F.cross_entropy(model(TRAIN.inputs[chosen]), TRAIN.targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()] * len(chosen)
    assert same(state_of(subject), dict(model.state_dict()))
    assert history[0].loss == pytest.approx(sum(losses) / 70, rel=1e-6)


@pytest.mark.parametrize("quantized", METHODS)
def test_weight_decay_spares_what_is_quantized(quantized: str) -> None:
    subject = trainer(replace(SETTINGS, weight_decay=0.3), quantized)
    assert subject.quantizer is not None
    rest = {id(p) for p in subject.model.parameters() if p.ndim == 1}
    for group in subject.optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if id(parameter) in rest else 0)


class Pixelwise(nn.Module):
    """A segmentation network as torchvision has them: a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layers(x)}


def of_kind(kind: str) -> tuple[nn.Module, Split]:
    """A network, and data with something to learn, for one kind of targets."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 1, 6, 6)
    if kind == "several labels":
        teacher = torch.randn(36, 3)
        return network(), Split(inputs, (inputs.flatten(1) @ teacher > 0).float())
    masks = (inputs[:, 0] > 0).to(torch.uint8) + (inputs[:, 0] > 1).to(torch.uint8)
    masks[:, 0] = 255
    return Pixelwise(), Split(inputs, masks)


@pytest.mark.parametrize("relevance", [None, LRP()])
@pytest.mark.parametrize("kind", ["several labels", "labels of pixels"])
def test_other_kinds_of_targets_are_learned(kind: str, relevance: LRP | None) -> None:
    model, data = of_kind(kind)
    quantizer = ECQx(model, bits=4, lam=0.05, relevance=relevance)
    before = evaluate(model, data)
    Trainer(model, data, data, replace(SETTINGS, epochs=30), quantizer=quantizer).fit()
    after = scores(model, data)
    assert set(after) == set(objective_of(data.targets).metrics)
    assert after[objective_of(data.targets).metric] == evaluate(model, data) > before + 0.1


def test_the_one_sample_that_is_left_over_is_left_out() -> None:
    subject = Trainer(network(), TRAIN.take(65), VALIDATION, replace(SETTINGS, epochs=1))
    assert subject.fit()[0].steps == 2
    alone = Trainer(network(), TRAIN.take(1), VALIDATION, replace(SETTINGS, epochs=1))
    assert alone.fit()[0].steps == 1


@pytest.mark.parametrize(
    ("samples", "size", "most"),
    [
        *product([1, 2, 31, 32, 33, 34, 64, 65], [32], [None, 1]),
        *((70, 1, None), (70, 1, 2), (31, 2, None), (70, 100, None), (65, 32, 2), (65, 32, 3)),
    ],
)
def test_steps_of_an_epoch_are_known_before(samples: int, size: int, most: int | None) -> None:
    settings = FitSettings(epochs=1, batch_size=size, max_batches=most)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    subject = Trainer(model, TRAIN.take(samples), VALIDATION, settings)
    assert subject.fit()[0].steps == steps_per_epoch(samples, settings) > 0


def test_a_batch_norm_that_needs_more_than_one_sample_is_refused_before_training() -> None:
    settings = FitSettings(epochs=1, batch_size=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3))
    before = state_of(Trainer(model, TRAIN, VALIDATION, settings))
    with pytest.raises(InputError, match=r"batch_size: 1, but .* 2 or more would work") as caught:
        Trainer(model, TRAIN, VALIDATION, settings).fit()
    assert "\n" not in str(caught.value)
    assert same(state_of(Trainer(model, TRAIN, VALIDATION, settings)), before)
    # BatchNorm over pixels has enough of them.
    assert Trainer(network(), TRAIN.take(5), VALIDATION, settings).fit()[0].steps == 5


@pytest.mark.parametrize("relevance", [LRP(of="stepped"), LRP(of="quantized")])
def test_a_layer_without_part_in_the_output_is_named(relevance: LRP) -> None:
    model, data = of_kind("labels of pixels")
    model.aside = nn.Linear(3, 3)
    quantizer = ECQx(model, bits=4, lam=0.05, relevance=relevance)
    with pytest.raises(ValueError, match=r"no relevance reaches aside\.weight"):
        Trainer(model, data, data, SETTINGS, quantizer=quantizer).fit()


# -- selection and end -----------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", [None, "stepped"])
@pytest.mark.parametrize(
    ("selection", "accuracies", "kept"),
    [
        ("best", [0.5, 0.7, 0.6, 0.65], 1),
        ("best", [0.5, 0.7, 0.7, 0.6], 2),
        ("best", [0.9, 0.1, 0.1, 0.1], 0),
        ("best", [0.0, 0.0, 0.0, 0.0], 3),
        ("last", [0.9, 0.7, 0.6, 0.1], 3),
    ],
)
def test_the_selected_epoch_is_kept(
    scripted: Any, quantized: str | None, selection: Any, accuracies: list[float], kept: int
) -> None:
    scripted(accuracies)
    made = trainer(replace(SETTINGS, selection=selection), quantized)
    subject = Recording(made.model, TRAIN, VALIDATION, made.settings, quantizer=made.quantizer)
    history = subject.fit()
    assert [epoch.accuracy for epoch in history] == accuracies
    assert [same(state_of(subject), state) for state in subject.states] == [
        epoch == kept for epoch in range(4)
    ]
    if subject.quantizer is not None:
        assert subject.quantizer.sparsity() == history[kept].sparsity


@pytest.mark.parametrize(
    ("patience", "accuracies", "epochs"),
    [
        (None, [0.5] * 8, 8),
        (1, [0.5, 0.5, 0.9], 2),
        (2, [0.5, 0.6, 0.605, 0.609, 0.9], 4),
        # Small steps that add up to enough within the patience.
        (2, [0.50, 0.506, 0.512, 0.518, 0.524, 0.53, 0.536, 0.542], 8),
        # A fall and a recovery to less than the best.
        (2, [0.5, 0.8, 0.3, 0.7, 0.9], 4),
        (3, [0.5, 0.8, 0.3, 0.7, 0.9, 0.9, 0.9, 0.9], 8),
        (3, [0.5, 0.8, 0.3, 0.7, 0.9, 0.9, 0.9, 0.9, 1.0], 8),
        (4, [0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9], 5),
    ],
)
def test_early_stopping(
    scripted: Any, patience: int | None, accuracies: list[float], epochs: int
) -> None:
    scripted(accuracies)
    settings = FitSettings(len(accuracies), max_batches=1, patience=patience, min_delta=0.01)
    assert len(trainer(settings).fit()) == epochs


@pytest.mark.parametrize(("most", "steps"), [(None, 3), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_max_batches(most: int | None, steps: int) -> None:
    subject = trainer(replace(SETTINGS, epochs=2, max_batches=most))
    assert [epoch.steps for epoch in subject.fit()] == [steps] * 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": -1}, "epochs must be a whole number, at least 0, not -1"),
        ({"epochs": 2.0}, "epochs must be a whole number"),
        ({"epochs": None}, "epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, not 0"),
        ({"max_batches": 0}, "max_batches must be a whole number, at least 1, not 0"),
        ({"patience": 0}, "patience must be a whole number, at least 1, not 0"),
        ({"patience": True}, "patience must be a whole number, at least 1, not True"),
        ({"lr": 0.0}, "lr must be a finite number above 0, not 0.0"),
        ({"lr": math.inf}, "lr must be a finite number above 0, not inf"),
        ({"lr": math.nan}, "lr must be a finite number above 0, not nan"),
        ({"weight_decay": -1e-3}, "weight_decay must be a finite number, at least 0, not -0.001"),
        ({"min_delta": math.nan}, "min_delta must be a finite number, at least 0, not nan"),
        ({"optimizer": "lion"}, "optimizer must be one of adam, sgd, not 'lion'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, not 'step'"),
        ({"selection": "first"}, "selection must be one of best, last, not 'first'"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        FitSettings(**setting)
    assert "\n" not in str(caught.value)


def test_no_epochs() -> None:
    subject = trainer(replace(SETTINGS, epochs=0), "ECQ")
    before = state_of(subject)
    assert subject.fit() == []
    assert same(state_of(subject), before)


@pytest.mark.parametrize("quantized", [None, "stepped"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rates(
    monkeypatch: pytest.MonkeyPatch, quantized: str | None, schedule: Any
) -> None:
    subject = trainer(replace(SETTINGS, epochs=5, schedule=schedule), quantized)
    seen: list[set[float]] = []
    original = subject.step

    def step(x: Tensor, y: Tensor) -> Tensor:
        seen.append({group["lr"] for group in subject.optimizer.param_groups})
        return original(x, y)

    monkeypatch.setattr(subject, "step", step)
    subject.fit()
    assert len(seen) == 15
    for number, rates in enumerate(seen):
        epoch = number // 3
        cosine = 0.02 / 2 * (1 + math.cos(math.pi * epoch / 5))
        assert len(rates) == 1
        assert rates.pop() == pytest.approx(cosine if schedule == "cosine" else 0.02, rel=1e-6)


# -- evaluation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_counts_in_eval_mode_and_restores_the_mode(training: bool) -> None:
    model = nn.Sequential(*network(), nn.Dropout(0.9))
    model.train(training)
    buffers = [buffer.clone() for buffer in model.buffers()]
    accuracy = evaluate(model, VALIDATION, batch_size=7)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    model.eval()
    hits = [
        int(model(x[None]).argmax()) == int(y)
        for x, y in zip(VALIDATION.inputs, VALIDATION.targets, strict=True)
    ]
    assert accuracy == sum(hits) / 30
    assert 0 < accuracy < 1


def test_evaluate_restores_the_mode_of_each_module() -> None:
    model = network()
    model.train()
    model[1].eval()
    evaluate(model, VALIDATION)
    assert [module.training for module in model] == [True, False, True, True, True]


@pytest.mark.parametrize("size", [1, 8, 30, 512])
def test_accuracy_does_not_depend_on_the_batch_size(size: int) -> None:
    model = network()
    assert evaluate(model, VALIDATION, size) == evaluate(model, VALIDATION)


# -- order and determinism -------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", [None, *METHODS])
def test_a_run_depends_on_its_seed_alone(quantized: str | None) -> None:
    results = []
    for seed, elsewhere in ((0, 1), (0, 2), (5, 1)):
        subject = trainer(quantized=quantized, seed=seed)
        torch.manual_seed(elsewhere)
        torch.rand(elsewhere)
        results.append((subject.fit(), state_of(subject)))
    first, again, other = results
    assert first[0] == again[0]
    assert same(first[1], again[1])
    assert first[0] != other[0]
    assert not same(first[1], other[1])


def test_each_epoch_has_an_order_of_its_own_and_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    def run(seed: int) -> list[list[float]]:
        seen.clear()
        subject = trainer(replace(SETTINGS, epochs=3), seed=seed)
        monkeypatch.setattr(
            subject, "step", lambda x, _: seen.append(x[:, 0, 0, 0].tolist()) or 0.0
        )
        subject.fit()
        return [[*a, *b, *c] for a, b, c in zip(*[iter(seen)] * 3, strict=True)]

    first = run(0)
    everything = sorted(TRAIN.inputs[:, 0, 0, 0].tolist())
    assert [sorted(epoch) for epoch in first] == [everything] * 3
    assert len({tuple(epoch) for epoch in first}) == 3
    assert run(0) == first
    assert run(1) != first


# -- stop and resume -------------------------------------------------------------------------------


class Stopped(Exception):  # noqa: N818
    """Stands for the kill of a process."""


def fit_until(subject: Trainer, steps: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with saved progress and stop before step number ``steps``."""
    done = 0
    original = subject.step

    def step(x: Tensor, y: Tensor) -> Tensor:
        nonlocal done
        if done == steps:
            raise Stopped
        done += 1
        return original(x, y)

    monkeypatch.setattr(subject, "step", step)
    with pytest.raises(Stopped):
        subject.fit(resume=path)


@pytest.mark.parametrize(
    ("quantized", "optimizer", "steps"),
    [
        (None, "adam", 7),
        ("ECQ", "sgd", 9),
        ("stepped", "adam", 3),
        ("stepped", "sgd", 7),
        ("full precision", "adam", 7),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantized: str | None,
    optimizer: Any,
    steps: int,
) -> None:
    settings = replace(SETTINGS, epochs=5, schedule="cosine", optimizer=optimizer)
    whole = trainer(settings, quantized)
    history = whole.fit()
    path = tmp_path / "epoch.pt"
    stopped = trainer(settings, quantized)
    fit_until(stopped, steps, path, monkeypatch)
    # All that counts is in the file: seed and starting weights of the new one are others.
    resumed = trainer(settings, quantized, seed=77, model_seed=77)
    assert resumed.fit(resume=path) == history
    assert same(state_of(resumed), state_of(whole))
    assert whole.best is not None
    assert resumed.best is not None
    assert same(resumed.best, whole.best)
    for name, values in whole.optimizer.state_dict()["state"].items():
        for key, value in values.items():
            assert torch.equal(
                torch.as_tensor(resumed.optimizer.state_dict()["state"][name][key]),
                torch.as_tensor(value),
            )


def with_dropout(seed: int, epochs: int = 3, quantized: bool = False) -> Trainer:
    """A network with dropout, whose global generator is as another program left it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 8), nn.Linear(8, 3))
    quantizer = ECQx(model, relevance=LRP()) if quantized else None
    settings = replace(SETTINGS, epochs=epochs)
    return Trainer(model, TRAIN, VALIDATION, settings, seed, quantizer)


@pytest.mark.parametrize("quantized", [False, True])
def test_dropout_resumes_where_it_was(tmp_path: Path, quantized: bool) -> None:
    path = tmp_path / "epoch.pt"
    whole = with_dropout(seed=4, quantized=quantized)
    history = whole.fit()
    first = with_dropout(seed=4, quantized=quantized)
    first.run_epoch()
    first.save(path)
    resumed = with_dropout(seed=77, quantized=quantized)
    torch.rand(100)
    assert resumed.fit(resume=path) == history
    assert same(state_of(resumed), state_of(whole))


def masks(subject: Trainer) -> list[Tensor]:
    """What dropout keeps in each step."""
    kept: list[Tensor] = []
    subject.model[1].register_forward_hook(  # type: ignore[index]
        lambda module, inputs, output: kept.append(output != 0) if module.training else None
    )
    subject.fit()
    return kept


def test_dropout_is_drawn_anew_for_each_seed_and_epoch() -> None:
    first = masks(with_dropout(seed=0))
    assert all(torch.equal(a, b) for a, b in zip(first, masks(with_dropout(seed=0)), strict=True))
    other = masks(with_dropout(seed=1))
    # The epochs of one seed are not those of the next seed, one later.
    drawn = [mask for mask in (*first, *other) if len(mask) == 32]
    assert not any(torch.equal(a, b) for a, b in combinations(drawn, 2))


def test_training_leaves_the_global_generator_as_it_was() -> None:
    subject = with_dropout(seed=0)
    before = torch.get_rng_state()
    subject.fit()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_run_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "epoch.pt"
    first = trainer(quantized="ECQ")
    history = first.fit(resume=path)
    again = trainer(quantized="ECQ", model_seed=3)
    monkeypatch.setattr(again, "step", lambda *_: pytest.fail("trained again"))
    assert again.fit(resume=path) == history
    assert same(state_of(again), state_of(first))
    assert [p.name for p in tmp_path.iterdir()] == ["epoch.pt"]


def test_early_stopping_survives_a_stop(tmp_path: Path, scripted: Any) -> None:
    settings = FitSettings(epochs=9, max_batches=1, patience=2)
    scripted([0.5, 0.6])
    subject = trainer(settings)
    for _ in range(2):
        subject.run_epoch()
    subject.save(tmp_path / "epoch.pt")
    scripted([0.6, 0.6, 0.9])
    resumed = trainer(settings)
    assert len(resumed.fit(resume=tmp_path / "epoch.pt")) == 4


def test_progress_is_silent_away_from_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    trainer(replace(SETTINGS, epochs=1)).fit(progress=True)
    assert capfd.readouterr() == ("", "")
