"""`ecqx evaluate`: accuracy and loss of a file, by what its metadata say or the options."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import running
import torch
from running import Run, in_this_process, on, record
from sklearn.datasets import load_digits
from torch.nn import functional as F  # noqa: N812

import ecqx
from ecqx import models
from ecqx.data import image_folder
from ecqx.training.evaluation import scores, scores_and_loss

# The fixtures of these tests.
place, run, tree = running.place, running.run, running.tree
images = partial(image_folder, validation=3, size=8)
FILE = "results/resnet20_folder_4bit_lam0.05.ecqx"


@pytest.fixture
def evaluate(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`ecqx evaluate` in this process."""
    return in_this_process(monkeypatch, capsys, "evaluate")


@pytest.fixture
def file(tree: Path, place: Path, run: Run) -> Path:
    """The file of an experiment, with metadata."""
    assert run(*on(tree, "--epochs", 1))[0] == 0
    return place / FILE


def test_a_file_of_a_run_says_all_that_is_needed(file: Path, tree: Path, evaluate: Run) -> None:
    code, out, error = evaluate(FILE, "--data_path", tree)
    assert (code, error) == (0, "")
    noted = record(file.parent)
    accuracy = noted["scores"]["decoded file"]["top-1 accuracy"]
    assert f"{accuracy:.2%}" in out
    found = json.loads(evaluate(FILE, "--data_path", tree, "--json")[1])
    assert found["scores"] == noted["scores"]["decoded file"]
    assert (found["samples"], found["model"]) == (15, "resnet20")
    assert found["bytes"] == file.stat().st_size
    model, test = models.build("resnet20", num_classes=3), images(tree).test
    model.load_state_dict(ecqx.load(file))
    x, y = next(test.batches(15))
    with torch.no_grad():
        assert found["loss"] == pytest.approx(float(F.cross_entropy(model.eval()(x), y)))


def test_file_and_record_name_classes_and_normalization(file: Path, tree: Path) -> None:
    metadata = ecqx.inspect(file).metadata
    preparation = images(tree).test.preparation
    assert metadata == record(file.parent)["metadata"]
    assert metadata == {
        **{"model": "resnet20", "dataset": "folder", "classes": ["blue", "green", "red"]},
        "input": {
            "shape": [3, 8, 8],
            "mean": list(preparation.mean),
            "std": list(preparation.deviation),
        },
    }


def test_the_normalization_is_that_of_the_file(tree: Path, place: Path, evaluate: Run) -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", num_classes=3)
    found = []
    for mean in (0.1, 0.9):
        about = {"model": "resnet20", "input": {"mean": [mean] * 3, "std": [0.2] * 3}}
        ecqx.save("m.ecqx", model, metadata=about)
        arguments = ("m.ecqx", "--dataset", "folder", "--data_path", tree, "--image_size", 8)
        found.append(json.loads(evaluate(*arguments, "--json")[1]))
        test = images(tree, mean=(mean,) * 3, deviation=(0.2,) * 3).test
        assert (found[-1]["scores"], found[-1]["loss"]) == scores_and_loss(model, test)
    assert found[0]["loss"] != found[1]["loss"]


def test_a_file_without_metadata(tree: Path, place: Path, evaluate: Run) -> None:
    model = models.build("resnet20", num_classes=3)
    ecqx.save("m.ecqx", model)
    own = ("--data_path", tree, "--image_size", 8)
    assert "m.ecqx does not say its model; --model names it" in evaluate("m.ecqx", *own)[2]
    code, _, error = evaluate("m.ecqx", "--model", "resnet20", *own)
    assert code == 2
    assert "m.ecqx does not say its dataset; --dataset names it" in error
    given = ("--model", "resnet20", "--dataset", "folder", *own)
    code, out, error = evaluate("m.ecqx", *given)
    assert code == 0
    assert error == "ecqx: m.ecqx has no input normalization; that of colours is used\n"
    accuracy = scores(model, images(tree).test)["top-1 accuracy"]
    assert f"{accuracy:.2%}" in out


def test_files_of_other_formats(
    file: Path,
    tree: Path,
    evaluate: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ecqx_command = in_this_process(monkeypatch, capsys)
    places = ("--data_path", tree)
    expected = json.loads(evaluate(file, *places, "--json")[1])["scores"]
    assert ecqx_command("decode", file, "-o", "m.safetensors")[0] == 0
    assert ecqx_command("export", file, "-o", "m.nnc", "--float_bits", 31)[0] == 0
    torch.save(ecqx.load(file), "m.pt")
    # Only safetensors has a place for metadata.
    own = ("--model", "resnet20", "--dataset", "folder", "--image_size", 8)
    for name, options in (("m.safetensors", ()), ("m.pt", own), ("m.nnc", own)):
        code, out, _ = evaluate(name, *places, "--json", *options)
        assert code == 0
        assert json.loads(out)["scores"] == expected


def test_features_are_those_of_the_file(place: Path, run: Run, evaluate: Run) -> None:
    arguments = ("--dataset", "digits", "--model", "mlp_gsc", "--epochs", 0, "--model_rand_int")
    assert run(*arguments)[::2] == (0, "")
    path = place / "results/mlp_gsc_digits_4bit_lam0.05.ecqx"
    found = json.loads(evaluate(path, "--json")[1])
    assert found["scores"] == record(path.parent)["scores"]["decoded file"]
    about = ecqx.inspect(path).metadata
    ((mean,), (deviation,)) = about["input"]["features"]
    raw = load_digits().data
    assert abs(mean - raw.mean()) < 0.1
    assert abs(deviation - raw.std()) < 0.1
    about["input"]["features"] = [[mean + 1], [deviation]]
    ecqx.save("other.ecqx", ecqx.load(path), metadata=about)
    code, _, error = evaluate("other.ecqx")
    assert code == 2
    assert "standardized by other numbers than those of digits" in error


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"classes": ["a", "b", "c"]}, "m.ecqx has the classes a, b, c, and colours has blue, gre"),
        ({"classes": "abc"}, "its metadata are not those of ecqx run"),
        ({"input": [3, 8, 8]}, "its metadata are not those"),
        ({"input": {"mean": [0.5], "std": []}}, "its metadata are not those"),
        ({"input": {"mean": [0.5], "std": [0]}}, "its metadata are not those"),
        ({"input": {"mean": [True], "std": [1]}}, "its metadata are not those"),
        ({"input": {"mean": [0.5], "std": [0.2]}}, "normalizes 1 channels of pixels"),
        ({"model": 3}, "its metadata are not those"),
        ({"dataset": "imagenet"}, "the data set 'imagenet', which ecqx does not know"),
        ({"model": "resnet21"}, "'resnet21'"),
    ],
)
def test_metadata_that_do_not_fit_are_one_line(
    metadata: dict[str, Any], told: str, tree: Path, place: Path, evaluate: Run
) -> None:
    own = {"model": "resnet20", "dataset": "folder"} | metadata
    ecqx.save("m.ecqx", models.build("resnet20", num_classes=3), metadata=own)
    code, out, error = evaluate("m.ecqx", "--data_path", tree, "--image_size", 8)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"ecqx: [^\n]+\n", error)
    assert told in error


def test_files_that_do_not_fit_the_data(tree: Path, place: Path, evaluate: Run) -> None:
    own = ("--dataset", "folder", "--data_path", tree, "--image_size", 8)
    ecqx.save("ten.ecqx", models.build("resnet20", num_classes=10))
    ecqx.save("vgg.ecqx", models.build("vgg16", num_classes=3))
    (place / "bad.ecqx").write_bytes(b"ECQX")
    (place / "other.txt").write_bytes(b"text")
    for name, told in (
        ("ten.ecqx", "ten.ecqx is a network for another number of classes than the 3 of colours"),
        ("vgg.ecqx", "vgg.ecqx does not fit the model"),
        ("bad.ecqx", "bad.ecqx is cut off"),
        ("other.txt", "other.txt is no checkpoint that can be loaded safely"),
        ("absent.ecqx", "absent.ecqx: No such file"),
    ):
        code, _, error = evaluate(name, "--model", "resnet20", *own)
        assert code == 2
        assert told in error
        assert error.count("\n") == 1


def test_the_loss_is_the_mean_over_samples(tree: Path) -> None:
    model, test = models.build("resnet20", num_classes=3), images(tree).test
    found, loss = scores_and_loss(model, test)
    assert found == scores(model, test)
    assert math.isfinite(loss)
    x, y = next(test.batches(15))
    with torch.no_grad():
        parts = [F.cross_entropy(model.eval()(x[i : i + 1]), y[i : i + 1]) for i in range(15)]
    assert loss == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)
