"""One training of the pipeline as a job, and the scores of the file that is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecqx.coding.coded_state import read_coded_state, write_coded_state
from ecqx.coding.forms import build_form
from ecqx.data import Split, TensorData
from ecqx.experiment.cost import Cost
from ecqx.experiment.jobs import PROGRESS
from ecqx.experiment.score import score_file
from ecqx.experiment.task import Task
from ecqx.experiment.train import RESULT, Training
from ecqx.methods.interface import Method
from ecqx.methods.registry import build_method
from ecqx.training.settings import FitSettings, Selection, steps_per_epoch
from ecqx.training.trainer import Trainer

CPU = torch.device("cpu")
FIT = FitSettings(epochs=4, lr=0.01, batch_size=10)
LSQ = build_method("LSQ", {"bits": 4})
PRUNING = build_method("pruning", {"bits": 4, "sparsity": 0.5})
ECQX = build_method("ECQx", {"bits": 4, "lam": 0.1})


def some_data() -> TensorData:
    """Two classes; validation has them the other way round, so that it gets worse with training."""
    inputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    targets = (inputs[:, 0] > 0).long()
    train = Split(inputs, targets)
    return TensorData(train, Split(inputs, 1 - targets), train, ("a", "b"), "made")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "data.safetensors"
    some_data().save(path)
    return Task({"name": "mlp_gsc", "in_features": 6, "num_classes": 2}, path)


def states_by_hand(task: Task, method: Method | None, fit: FitSettings) -> list[dict[str, Tensor]]:
    """The network after each epoch, and the epochs' validation accuracies."""
    data, model = some_data(), task.build(1)
    steps = fit.epochs * steps_per_epoch(len(data.train), fit)
    constraint = None if method is None else method.constrain(model, steps)
    trainer = Trainer(model, data.train, data.validation, fit, 1, constraint)
    states = []
    for _ in range(fit.epochs):
        trainer.run_epoch()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return states


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def result(
    task: Task, method: Method | None, folder: Path, **fit: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a training leaves in an empty folder, and its record."""
    folder.mkdir()
    training = Training(task, replace(FIT, **fit), 1, method, None, "cpu", "key")
    record = training.run(folder, folder / PROGRESS)
    return read_coded_state(folder / RESULT).state, record


@pytest.mark.parametrize("method", [None, LSQ, PRUNING], ids=["full precision", "LSQ", "pruning"])
def test_the_epoch_that_is_kept(method: Method | None, task: Task, tmp_path: Path) -> None:
    """The last one held for the reference alone once, whatever a method trains."""
    by_hand = states_by_hand(task, method, FIT)
    selections: tuple[Selection, ...] = ("best", "last")
    for selection in selections:
        state, record = result(task, method, tmp_path / selection, selection=selection)
        accuracies = [epoch["accuracy"] for epoch in record["history"]]
        best = max(range(FIT.epochs), key=lambda epoch: (accuracies[epoch], epoch))
        assert best < FIT.epochs - 1
        # An early epoch of pruning would be one of less sparsity than was asked for.
        kept = best if selection == "best" and method is not PRUNING else FIT.epochs - 1
        assert [equal(state, other) for other in by_hand] == [
            epoch == kept for epoch in range(FIT.epochs)
        ]


def test_interrupted_and_resumed_is_as_if_never_interrupted(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, record = result(task, ECQX, tmp_path / "whole")
    training = Training(task, FIT, 1, ECQX, None, "cpu", "key")
    run_epoch, folder = Trainer.run_epoch, tmp_path / "resumed"
    folder.mkdir()

    def interrupted(trainer: Trainer) -> Any:
        if len(trainer.history) == 2:
            raise KeyboardInterrupt
        return run_epoch(trainer)

    monkeypatch.setattr(Trainer, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.run(folder, folder / PROGRESS)
    monkeypatch.undo()
    assert [path.name for path in folder.iterdir()] == [PROGRESS]
    assert training.run(folder, folder / PROGRESS) == record
    assert equal(read_coded_state(folder / RESULT).state, whole)


def test_training_starts_from_the_checkpoint_or_from_the_seed(task: Task, tmp_path: Path) -> None:
    start = task.build(7).state_dict()
    write_coded_state(tmp_path / "start", start, {})
    nothing = replace(FIT, epochs=0)
    for given, seed, expected in ((tmp_path / "start", 1, start), (None, 7, start)):
        training = Training(task, nothing, seed, None, given, "cpu", "key")
        assert training.run(tmp_path, tmp_path / PROGRESS) == {"history": []}
        assert equal(read_coded_state(tmp_path / RESULT).state, expected)


def test_the_cost_is_counted_on_one_batch(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batches of an epoch were held in memory for it once, three times a job."""
    taken, batches = list[int](), Split.batches

    def counted(
        split: Split, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(split, size, generator):
            taken.append(len(batch[1]))
            yield batch

    monkeypatch.setattr(Split, "batches", counted)
    training = Training(task, FIT, 1, ECQX, None, "cpu", "key")
    assert 1.5 < Cost(training, "key").run(tmp_path, tmp_path / PROGRESS)["cost"] < 3
    assert [FIT.batch_size] == taken
    # Without relevance a step costs what it costs in full precision.
    plain = replace(training, method=LSQ)
    assert Cost(plain, "key").run(tmp_path, tmp_path / PROGRESS) == {"cost": 1.0}


# -- scores ----------------------------------------------------------------------------------------


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def correct_by_hand(state: dict[str, Tensor], split: Split) -> NDArray[np.bool_]:
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    hidden = np.maximum(split.inputs.double().numpy() @ w["0.weight"].T + w["0.bias"], 0)
    labels = (hidden @ w["2.weight"].T + w["2.bias"]).argmax(axis=1)
    return labels == split.targets.numpy()


@pytest.mark.parametrize("name", ["ECQ", "int8"])
def test_scores_are_those_of_the_decoded_file(name: str, tmp_path: Path) -> None:
    data, model = some_data(), linear()
    data = replace(data, test=data.test.take(17))
    method = build_method(name, {"bits": 4, "lam": 0.3} if name == "ECQ" else {})
    constraint = method.constrain(model, 1)
    method.save(tmp_path / "left", model, constraint)
    form, path = build_form(method.form, method.form_settings()), tmp_path / "file"
    form.write(tmp_path / "left", path)
    # What the model holds does not count, the file does.
    other = linear()
    nn.init.zeros_(other.get_parameter("0.weight"))
    found, correct = score_file(path, form, other, data)
    state = form.read(path)
    right = correct_by_hand(state, data.test)
    assert correct is not None
    assert correct.tolist() == right.tolist()
    weights = np.concatenate([state[n].numpy().ravel() for n in ("0.weight", "2.weight")])
    entropies = []
    for key in ("0.weight", "2.weight"):
        _, counts = np.unique(state[key].numpy(), return_counts=True)
        share = counts / counts.sum()
        entropies.append(-(share * np.log2(share)).sum() * counts.sum())
    size, parameters = len(path.read_bytes()), 6 * 5 + 5 + 5 * 2 + 2
    assert found.pop("other_metrics") == {}
    assert found == pytest.approx(
        {
            "accuracy_validation": correct_by_hand(state, data.validation).mean(),
            "accuracy": right.mean(),
            "sparsity": (weights == 0).mean(),
            "entropy_bits_per_weight": sum(entropies) / weights.size,
            "parameters": parameters,
            "bytes": size,
            "compression_ratio": 4 * parameters / size,
        }
    )
    assert found["accuracy_validation"] != found["accuracy"]
    # Of what was not to be quantized nothing is said.
    first, _ = score_file(path, form, other, data, exclude=("2",))
    assert first["sparsity"] == pytest.approx((state["0.weight"].numpy() == 0).mean())
    assert first["entropy_bits_per_weight"] == pytest.approx(entropies[0] / 30)
