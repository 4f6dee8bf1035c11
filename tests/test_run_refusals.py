"""`ecqx run`: what is refused before it begins, which data a network gets, and the messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
import torch
from running import Refused, Run, on
from torch import nn
from torchvision.models import VisionTransformer

from ecqx import models
from ecqx.data import speech, voc2012
from ecqx.errors import InputError
from ecqx.experiment import prepare
from ecqx.experiment.prepare import check_relevance
from ecqx.relevance import COMPOSITES, LRP
from ecqx.training.trainer import Trainer

# The fixtures of these tests.
place, run, refused, tree = running.place, running.run, running.refused, running.tree


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "resnet21"], "'resnet21'"),
        (["--dataset", "mnist"], "--dataset"),
        (["--bitwidth", "1"], "'--bitwidth': 1 is not in the range 2<=x<=8"),
        (["--bitwidth", "many"], "--bitwidth"),
        (["--batch_size", "1"], "--batch_size"),
        (["--epochs", "-1"], "--epochs"),
        (["--max_batches", "0"], "--max_batches"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "0"], "--lr must be a finite number above 0, not 0.0"),
        (["--lr", "inf"], "--lr"),
        (["--Lambda", "-0.1"], "'--Lambda': -0.1 is not in the range x>=0"),
        (["--Lambda", "inf"], "--lam (Lambda) must be a finite number"),
        (["--Lambda", "nan"], "--lam (Lambda) must be a finite number"),
        (["--p", "1.1"], "--p"),
        (["--p", "nan"], "--p must lie in [0, 1]"),
        (["--dataset", "digits", "--exclude", "head"], "no parameter has 'head' in its name"),
        (["--dataset", "digits", "--include", "bn1"], "no parameter of more than one dimension"),
        (["--alpha", "1"], "alpha must lie in [0, 1)"),
        (["--lrp_output", "logit"], "--lrp_output"),
        (["--lrp_w_rule", "zplus"], "--lrp_w_rule"),
        (["--lrp_composite", "zplus"], f"one of {', '.join(COMPOSITES)}"),
        (["--canonizer", "densenet"], "--canonizer"),
        (["--device", "tpu"], "--device"),
        (["--model_path", "absent.pt"], "absent.pt: no such file"),
        (["--model_path", "absent.pt", "--model_rand_int"], "--model_rand_int"),
        (["--data_path", "no/where"], "CIFAR-10: not in no/where"),
        (["--dataset", "voc", "--data_path", "no/where"], "VOC2012: not in no/where"),
        (["--dataset", "folder", "--data_path", "absent"], "absent: no such file or folder"),
        (["--dataset", "digits", "--model", "resnet18"], "resnet18 does not take digits"),
        (["--dataset", "digits", "--model", "raft_small"], "raft_small does not take digits"),
        (["--nonsense"], "--nonsense"),
        (["--lr"], "--lr"),
        (["extra"], "extra"),
    ],
)
def test_bad_settings(refused: Refused, arguments: list[str], told: str) -> None:
    assert told in refused(*arguments)


def test_checkpoints_that_do_not_fit(tree: Path, place: Path, refused: Refused) -> None:
    torch.save(models.build("mlp_gsc").state_dict(), place / "mlp.pt")
    (place / "bad.pt").write_bytes(b"not a checkpoint")
    arguments = [argument for argument in on(tree) if argument != "--model_rand_int"]
    assert "mlp.pt does not fit the model" in refused(*arguments, "--model_path", "mlp.pt")
    assert "bad.pt is no checkpoint" in refused(*arguments, "--model_path", "bad.pt")


def test_weights_that_cannot_be_quantized_are_refused_before_training(
    tree: Path, place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("trained weights that are not finite")

    monkeypatch.setattr(Trainer, "fit", train)
    state = models.build("resnet20", num_classes=3).state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, place / "nan.pt")
    arguments = [argument for argument in on(tree) if argument != "--model_rand_int"]
    error = refused(*arguments, "--model_path", "nan.pt", "--pretrain_epochs", 1)
    assert "nan.pt: layer1.0.conv1.weight: weight holds NaN or infinite values" in error


def test_an_error_of_our_own_in_training_keeps_its_traceback(
    tree: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("not the user's fault")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(ValueError, match="not the user's fault"):
        run(*on(tree))


def test_pretrained_weights_that_cannot_be_had(tree: Path, refused: Refused) -> None:
    arguments = [argument for argument in on(tree) if argument != "--model_rand_int"]
    error = refused(*arguments, "--model", "squeezenet1_1", "--image_size", 32)
    assert "pre-trained weights of squeezenet1_1" in error


def test_a_network_for_pixels_needs_labels_for_pixels(tree: Path, refused: Refused) -> None:
    arguments = on(tree, "--model", "lraspp_mobilenet_v3_large", "--image_size", 32)
    assert "labels each sample as a whole" in refused(*arguments)


def test_a_network_that_its_tensors_do_not_restore(tree: Path, refused: Refused) -> None:
    error = refused(*on(tree, "--model", "mnasnet0_5", "--image_size", 32))
    assert "its tensors alone do not restore it" in error


def test_results_that_cannot_be_written(
    tree: Path, place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("trained before the folder was looked at")

    monkeypatch.setattr(Trainer, "fit", train)
    (place / "file").write_text("")
    for folder in ("file", "file/below"):
        assert "--results" in refused(*on(tree, "--results", folder))
    (place / "results/resnet20_folder_4bit_lam0.05.ecqx").mkdir(parents=True)
    assert "no regular file" in refused(*on(tree))


def test_a_new_head_of_zeros_is_refused(
    tree: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-training would change it."""

    def transformer(*_: Any) -> nn.Module:
        return VisionTransformer(8, 4, 2, 2, hidden_dim=8, mlp_dim=12, num_classes=3)

    monkeypatch.setattr(prepare, "build_network", transformer)
    assert "heads.head.weight: all its weights are zero" in refused(*on(tree))


class Recurrent(nn.Module):
    """Reads a picture pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.rows(x.flatten(2).mT)[0][:, -1])
        return logits


def test_relevance_is_asked_before_training(
    tree: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("trained a network without relevance")

    monkeypatch.setattr(Trainer, "fit", train)
    monkeypatch.setattr(prepare, "build_network", lambda *_: Recurrent())
    error = refused(*on(tree, "--lrp", "--pretrain_epochs", 1))
    assert "LRP has no rule for rows.weight_ih_l0 and 1 more" in error
    assert "leave out --lrp" in error


class Unused(nn.Module):
    """Has a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.used, self.unused = nn.Flatten(), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.used(self.flat(x))
        return logits


def test_relevance_that_reaches_no_layer_is_refused() -> None:
    model, batch = Unused(), (torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))
    check_relevance(model, batch, LRP(), ["used.weight"])
    with pytest.raises(InputError, match=r"no relevance reaches unused\.weight"):
        check_relevance(model, batch, LRP(), ["used.weight", "unused.weight"])


def test_a_gpu_that_is_absent(
    tree: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device: cuda" in refused(*on(tree, "--device", "cuda"))


def test_a_package_that_is_absent(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'librosa'", name="librosa")

    monkeypatch.setattr(speech, "speech_commands", absent)
    error = refused("--dataset", "speech_commands", "--model", "mlp_gsc")
    assert "librosa" in error
    assert "pip install 'ecqx[speech]'" in error


# -- data sets and networks ------------------------------------------------------------------------


def test_speech_takes_the_full_archive_where_it_is(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def take(root: Path, archive: str, processes: int) -> None:
        asked.append((archive, processes))
        raise InputError("enough")

    monkeypatch.setattr(speech, "speech_commands", take)
    arguments = ("--dataset", "speech_commands", "--model", "mlp_gsc", "--data_path", place)
    run(*arguments, "--workers", 3)
    (place / speech.SOURCES["full"].file).touch()
    run(*arguments, "--workers", 0)
    assert asked == [("test", 3), ("full", 1)]


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("fcn_resnet50", [], ("segmentation", 256)),
        ("fcn_resnet50", ["--image_size", 100], ("segmentation", 100)),
        ("resnet18", [], ("classification", 224)),
    ],
)
def test_voc_labels_what_the_network_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, model: str, size: list[object], expected: Any
) -> None:
    asked = []

    def take(root: Path, task: str, crop: int) -> None:
        asked.append((task, crop))
        raise InputError("enough")

    monkeypatch.setattr(voc2012, "voc", take)
    run("--dataset", "voc", "--model", model, *size)
    assert asked == [expected]


@pytest.mark.parametrize(
    "name",
    [
        *("mlp_gsc", "resnet20", "resnet56", "vgg16_bn", "resnet18", "resnet50", "squeezenet1_1"),
        *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet", "densenet121"),
        *("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "efficientnet_b0"),
        *("regnet_y_400mf", "mnasnet0_5", "convnext_tiny", "swin_t"),
    ],
)
def test_every_part_of_a_network_has_a_rule(name: str) -> None:
    classes = {"num_classes": 3}
    if name == "mlp_gsc":
        model, x = models.build(name, in_features=12, **classes), torch.rand(2, 12)
    else:
        model, x = models.build(name, **classes), torch.rand(2, 3, 64, 64)
    labels_pixels = name.startswith(("deeplab", "lraspp"))
    y = torch.ones(2, 64, 64, dtype=torch.long) if labels_pixels else torch.tensor([0, 1])
    remarks = check_relevance(model, (x, y), LRP(), [])
    assert not any("no rule" in remark for remark in remarks)


def test_what_has_no_rule_is_told_once(
    tree: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head((self.first(x) ** 2).mean((2, 3)))
            return logits

    monkeypatch.setattr(prepare, "build_network", lambda *_: Squared())
    arguments = on(tree, "--image_size", 32, "--epochs", 1)
    code, _, error = run(*arguments, "--lrp")
    assert code == 0
    assert ": LRP has no rule for pow in Squared: relevance passes" in error
    assert "compare with ECQ (without --lrp)" in error
    assert error.count("\n") == 1
    assert run(*arguments)[2] == ""


# -- results of other settings ---------------------------------------------------------------------


def test_a_sweep_over_lambda_keeps_every_result(tree: Path, place: Path, run: Run) -> None:
    for strength in (0, 0.05, 0.1):
        assert run(*on(tree, "--epochs", 0, "--Lambda", strength))[0] == 0
    names = {path.name for path in (place / "results").glob("*.ecqx")}
    assert names == {f"resnet20_folder_4bit_lam{strength}.ecqx" for strength in ("0", 0.05, 0.1)}


def test_results_of_other_settings_are_not_replaced(
    tree: Path, place: Path, run: Run, refused: Refused
) -> None:
    assert run(*on(tree, "--epochs", 0, "--exclude", "conv1"))[0] == 0
    file = "results/resnet20_folder_4bit_lam0.05.ecqx"
    written = (place / file).read_bytes()
    (place / file).unlink()  # what an interruption between the two files leaves
    assert run(*on(tree, "--epochs", 0, "--exclude", "conv1"))[0] == 0
    assert run(*on(tree, "--epochs", 0, "--exclude", "conv1"))[0] == 0
    assert (place / file).read_bytes() == written

    def message(*changes: object) -> str:
        return refused(*on(tree, "--epochs", 0, "--exclude", "conv1", *changes))

    assert f"{file} was made with --lr 0.001, not 0.01" in message("--lr", 0.01)
    assert "was made with --exclude conv1, not conv1 and bn" in message("--exclude", "bn")
    assert "was made with --max_batches 2, not 3" in message("--max_batches", 3)
    running.write_tree(place / "more", train=13)
    assert f"{file} was made with data colours, not more" in message("--data_path", "more")
    # Digits that float's shortest form in the name leaves out.
    assert "was made with --Lambda 0.05, not 0.05000000001" in message("--Lambda", "0.05000000001")
    torch.save(models.build("resnet20", num_classes=3).state_dict(), place / "own.pt")
    of_checkpoint = [option for option in on(tree) if option != "--model_rand_int"]
    error = refused(*of_checkpoint, "--epochs", 0, "--exclude", "conv1", "--model_path", "own.pt")
    assert "was made with --model_rand_int on, not off" in error


def test_files_that_no_run_wrote_are_not_replaced(
    tree: Path, place: Path, refused: Refused
) -> None:
    (place / "results").mkdir()
    model, noted = (place / f"results/resnet20_folder_4bit_lam0.05{s}" for s in (".ecqx", ".json"))
    model.write_bytes(b"mine")
    assert "exists without the resnet20_folder_4bit_lam0.05.json that says" in refused(*on(tree))
    for content in ("no JSON", "[]", '{"settings": 3}', "[" * 100_000):
        noted.write_text(content)
        assert f"{noted.relative_to(place)} " in refused(*on(tree))
    assert model.read_bytes() == b"mine"
