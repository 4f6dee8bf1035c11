"""`ecqx run`: what a person should look at again, and pre-training that is not repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import torch
from running import Run, on, record, write_tree
from torch import Tensor, nn

import ecqx
from ecqx.data.tensors import Split
from ecqx.experiment import kept, remarks
from ecqx.experiment.remarks import guessed, remark_on_chance
from ecqx.labels import IGNORED_LABEL
from ecqx.training.evaluation import scores
from ecqx.training.trainer import Trainer

# The fixtures of these tests.
place, quiet_run, refused, tree = running.place, running.run, running.refused, running.tree


@pytest.fixture
def run(quiet_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`ecqx run` in this process, with its remarks on tiny data."""
    for name, value in running.REMARKS.items():
        monkeypatch.setattr(remarks, name, value)
    return quiet_run


# -- remarks ---------------------------------------------------------------------------------------


def test_few_samples_few_steps_and_chance_are_named(tree: Path, place: Path, run: Run) -> None:
    code, _, error = run(*on(tree, "--epochs", 1, "--Lambda", 5))
    assert code == 0
    lines = [line.removeprefix("ecqx: ") for line in error.splitlines()]
    assert lines == record(place / "results")["remarks"]
    few, steps, chance = lines
    assert few.startswith("only 3 samples validate, so the accuracy that chooses the epoch is unc")
    assert "by up to 58 points; 100 or more are better" in few
    assert steps.startswith("an epoch has only 2 training steps")
    assert "a larger --max_batches gives more" in steps
    assert "test samples is at chance: the most frequent class alone gives 33.33%" in chance


def test_enough_samples_and_steps_cause_none(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remarks, "FEW_SAMPLES", 3)
    monkeypatch.setattr(remarks, "FEW_STEPS", 2)
    monkeypatch.setattr(remarks, "DEVIATIONS", -9.0)
    assert run(*on(tree, "--epochs", 1))[::2] == (0, "")
    assert record(place / "results")["remarks"] == []


def test_without_training_there_is_no_remark_on_it(tree: Path, run: Run) -> None:
    assert "an epoch has" not in run(*on(tree, "--epochs", 0))[2]


class Constant(nn.Module):
    """Answers the same logits for every sample or pixel."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), *self.logits.shape)


def test_chance_is_the_metric_of_a_constant_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(200, 1)
    classes = torch.randint(0, 4, (200,), generator=generator)
    classes[torch.rand(200, generator=generator) < 0.4] = 0
    one = Split(x, classes)
    commonest = Constant(torch.tensor([1.0, 0, 0, 0]))
    assert guessed(classes, 4) == scores(commonest, one)["top-1 accuracy"]

    pixels = torch.randint(0, 3, (20, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[torch.rand(pixels.shape, generator=generator) < 0.3] = 1
    pixels[0, 0] = IGNORED_LABEL
    maps = Split(torch.zeros(20, 1), pixels)
    ones = torch.zeros(5, 4, 4)
    ones[1] = 1
    assert guessed(pixels, 5) == pytest.approx(scores(Constant(ones), maps)["mean IoU"])

    several = (torch.rand(200, 3, generator=generator) < 0.2).float()
    several[:, 2] = 0
    labels = Split(x, several)
    found = scores(Constant(torch.zeros(3)), labels)["mean average precision"]
    assert guessed(several, 3) == pytest.approx(found)


def test_an_accuracy_well_above_chance_causes_no_remark() -> None:
    test = Split(torch.zeros(100, 1), torch.arange(100) % 10)
    assert remark_on_chance(0.15, test, "test", 10, "") is not None
    assert remark_on_chance(0.2, test, "test", 10, "") is None


def test_offline_the_advice_is_for_this_command(tree: Path, refused: Any) -> None:
    arguments = [argument for argument in on(tree) if argument != "--model_rand_int"]
    error = refused(*arguments, "--model", "resnet18", "--image_size", 32)
    assert "start from a checkpoint (--model_path) or random weights (--model_rand_int)" in error
    assert "SUITE" not in error


# -- pre-training ----------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phases that were trained."""
    phases: list[str] = []
    fit = Trainer.fit

    def noted(self: Trainer, *arguments: Any, **settings: Any) -> Any:
        phases.append("pre" if self.quantizer is None else "quantized")
        return fit(self, *arguments, **settings)

    monkeypatch.setattr(Trainer, "fit", noted)
    return phases


def files(place: Path, pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((place / "results").glob(pattern))]


def test_pretraining_is_shared_by_a_sweep_and_changes_nothing(
    tree: Path, place: Path, quiet_run: Run, trained: list[str]
) -> None:
    first = on(tree, "--pretrain_epochs", 2, "--epochs", 1)
    second = [*first, "--Lambda", 0.2, "--lrp", "--bitwidth", 3]
    assert quiet_run(*first)[::2] == (0, "")
    (pretrained,) = (place / "results").glob("*_pretrained_*.safetensors")
    code, _, error = quiet_run(*second)
    assert code == 0
    path = pretrained.relative_to(place)
    assert error == f"ecqx: pre-training is not repeated: {path} has its network\n"
    assert trained == ["pre", "quantized", "quantized"]
    assert quiet_run(*second, "--results", "alone")[::2] == (0, "")
    name = "resnet20_folder_3bit_lam0.2_lrp"
    for suffix in (".ecqx", ".json"):
        alone = (place / "alone" / (name + suffix)).read_bytes()
        assert (place / "results" / (name + suffix)).read_bytes() == alone


@pytest.mark.parametrize(
    "change",
    [
        ["--lr", 0.01],
        ["--seed", 1],
        ["--pretrain_epochs", 3],
        ["--batch_size", 4],
        ["--max_batches", 1],
        ["--image_size", 10],
        ["--data_path", "more"],
        ["--model", "resnet56"],
        "a package",
        "the code",
    ],
    ids=str,
)
def test_another_pretraining_is_trained(
    tree: Path,
    place: Path,
    quiet_run: Run,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
) -> None:
    arguments = on(tree, "--pretrain_epochs", 1, "--epochs", 0)
    assert quiet_run(*arguments)[0] == 0
    more: list[object] = []
    if change == "a package":
        monkeypatch.setattr(kept, "version", lambda name: "9.9")
    elif change == "the code":
        monkeypatch.setattr(kept, "_code", lambda: "edited")
    else:
        more = change
    write_tree(place / "more", train=13)
    for result in (place / "results").glob("resnet20_folder_4bit*"):
        result.unlink()
    code, _, error = quiet_run(*arguments, *more)
    assert code == 0
    assert "not repeated" not in error
    assert trained == ["pre", "quantized"] * 2


def test_a_damaged_network_is_one_line(tree: Path, place: Path, quiet_run: Run) -> None:
    arguments = on(tree, "--pretrain_epochs", 1, "--epochs", 0)
    assert quiet_run(*arguments)[0] == 0
    (pretrained,) = (place / "results").glob("*_pretrained_*")
    pretrained.write_bytes(pretrained.read_bytes()[:99])
    code, _, error = quiet_run(*arguments)
    assert code == 2
    assert f"{pretrained.relative_to(place)}: not a readable safetensors file" in error


def test_the_record_says_what_is_in_the_file(tree: Path, place: Path, quiet_run: Run) -> None:
    assert quiet_run(*on(tree, "--epochs", 0))[0] == 0
    (file,) = (place / "results").glob("*.ecqx")
    assert json.loads(files(place, "*.json")[0])["metadata"] == ecqx.inspect(file).metadata
