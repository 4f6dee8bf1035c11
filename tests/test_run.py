"""`ecqx run`: the published options, and what an experiment writes and shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import running
import torch
from running import Run, on, record
from test_cifar import make
from torch import nn

import ecqx
from ecqx import data, models
from ecqx.cli import run as command
from ecqx.coding.inspection import inspect
from ecqx.data import TensorData, cifar_archives, image_folder
from ecqx.experiment import run as experiment
from ecqx.experiment.settings import QUANTIZERS, RunSettings
from ecqx.methods import ecq
from ecqx.methods.ecq import EntropyConstrained
from ecqx.methods.registry import method_class
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance import LRP
from ecqx.training.evaluation import scores

# The fixtures of these tests.
place, run, tree = running.place, running.run, running.tree

PUBLISHED: dict[str, Any] = {
    "batch_size": 64,
    "epochs": 10,
    "pretrain_epochs": 0,
    "max_batches": None,
    "lr": 1e-3,
    "model": "resnet20",
    "model_path": None,
    "model_rand_int": False,
    "dataset": "cifar10",
    "data_path": Path("../data"),
    "results": Path("./results"),
    "workers": 4,
    "wandb": False,
    "wandb_key": "",
    "wandb_run_name": "ECQx_NNCodec",
    "verbose": False,
    "bitwidth": 4,
    "Lambda": 0.05,
    "lrp": False,
    "lrp_output": "output",
    "lrp_composite": "epsilon_plus_flat_bn_pass",
    "lrp_w_rule": "epsilon",
    "canonizer": "resnet",
    "p": 0.1,
    "alpha": 0.1,
}


@pytest.fixture
def settings_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSettings]:
    """The settings that some arguments make."""

    def parsed(*arguments: object) -> RunSettings:
        taken = []

        def take(settings: RunSettings, *_: Any) -> SimpleNamespace:
            taken.append(settings)
            return SimpleNamespace(summary="")

        monkeypatch.setattr(experiment, "run", take)
        assert run(*arguments)[0] == 0
        return taken[0]

    return parsed


def loaded(tree: Path) -> TensorData:
    return image_folder(tree, validation=3, size=8)


def decoded(path: Path, name: str = "resnet20", **settings: Any) -> nn.Module:
    model = models.build(name, **settings)
    model.load_state_dict(ecqx.load(path))
    return model


# -- options ---------------------------------------------------------------------------------------


def test_published_options_have_their_names_and_defaults() -> None:
    own = {
        name.removeprefix("--"): parameter
        for parameter in command.run.params
        for name in parameter.opts
    }
    assert own["dataset_path"] is own["data_path"]
    context = click.Context(command.run)
    for name, default in PUBLISHED.items():
        assert own[name].get_default(context) == default, name


def test_without_options_the_settings_are_the_published_ones(
    settings_of: Callable[..., RunSettings],
) -> None:
    settings = settings_of()
    assert settings == RunSettings()
    for name, default in PUBLISHED.items():
        assert getattr(settings, "lam" if name == "Lambda" else name) == default


def test_data_path_has_two_names_and_a_variable(
    settings_of: Callable[..., RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECQX_DATA", "from/variable")
    assert settings_of().data_path == Path("from/variable")
    for name in ("--data_path", "--dataset_path"):
        assert settings_of(name, "a/b").data_path == Path("a/b")
        assert settings_of(f"{name}=a/b").data_path == Path("a/b")


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from ecqx.cli import main as cli\n"
        "try: cli.main()\n"
        "finally: assert not {'torch', 'numpy', 'wandb'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--help"], capture_output=True, check=True, text=True
    )
    assert "from a checkpoint:\n    ecqx run " in done.stdout
    for name in PUBLISHED:
        assert f"--{name}" in done.stdout


def test_quantizers_are_those_of_the_library() -> None:
    for name, width in QUANTIZERS.items():
        method = method_class(name)
        assert issubclass(method, EntropyConstrained)
        assert method.width == width


# -- a whole experiment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantizer", "lrp"), [("ECQ", False), ("ECQ", True), ("EC2T", False), ("FantastIC4", True)]
)
def test_numbers_are_those_of_the_file(
    tree: Path, place: Path, run: Run, quantizer: str, lrp: bool
) -> None:
    arguments = on(tree, "--epochs", 2, "--Lambda", 0.3, "--verbose", *["--lrp"] * lrp)
    code, out, error = run(*arguments, "--quantizer", quantizer)
    assert (code, error) == (0, "")
    kind = "4bit" if quantizer == "ECQ" else quantizer
    stem = f"resnet20_folder_{kind}_lam0.3" + "_lrp" * lrp
    file = place / "results" / f"{stem}.ecqx"
    assert {f.name for f in (place / "results").iterdir()} == {f"{stem}.ecqx", f"{stem}.json"}

    model, test = decoded(file, num_classes=3), loaded(tree).test
    accuracy = scores(model, test)["top-1 accuracy"]
    weights = [p for p in model.parameters() if p.ndim > 1]
    sparsity = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    floats = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    ratio = 4 * floats / file.stat().st_size

    noted = record(place / "results")
    assert noted["method"] == quantizer + "x" * lrp
    assert noted["settings"]["bitwidth"] == (2 if quantizer == "EC2T" else 4)
    assert noted["samples"] == {"train": 33, "validation": 3, "test": 15}
    for stage in ("quantized", "decoded file"):
        assert noted["scores"][stage] == {"top-1 accuracy": accuracy}
    assert noted["sparsity"] == pytest.approx(sparsity)
    assert noted["bytes"] == file.stat().st_size
    assert noted["compression_ratio"] == pytest.approx(ratio)
    assert 0 < noted["entropy_bits_per_weight"] < 4
    assert len(noted["epochs"]) == 2
    assert str(tree) not in json.dumps(noted)

    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    assert lines["decoded file"] == lines["quantized"] == f"{accuracy:.2%}"
    assert lines["start"] == f"{noted['scores']['start']['top-1 accuracy']:.2%}"
    assert lines["sparsity"] == f"{sparsity:.2%}"
    assert lines["size"] == f"{file.stat().st_size:,} bytes"
    assert lines["compression ratio"] == f"{ratio:.2f}"
    assert lines["file"] == f"results/{stem}.ecqx"
    assert out.count("quantized training, epoch ") == 2


def test_results_do_not_depend_on_the_place(tree: Path, place: Path, run: Run) -> None:
    contents = []
    for folder in ("a", "b"):
        assert run(*on(tree, "--epochs", 1, "--lrp", "--results", place / folder))[0] == 0
        contents.append([f.read_bytes() for f in sorted((place / folder).iterdir())])
    assert contents[0] == contents[1]
    assert run(*on(tree, "--epochs", 1, "--lrp", "--results", "c", "--seed", 1))[0] == 0
    assert contents[0] != [f.read_bytes() for f in sorted((place / "c").iterdir())]


def test_relevance_settings_arrive(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(model: nn.Module, **settings: Any) -> Any:
        built.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(ecq.ECQ, "quantizer_class", build)
    own = {
        "--lrp_output": "ones",
        "--lrp_composite": "epsilon_plus",
        "--lrp_w_rule": "gamma",
        "--canonizer": "vgg",
        "--alpha": "0.3",
    }
    options = [part for pair in own.items() for part in pair]
    assert run(*on(tree, "--lrp", "--p", 0.2, "--bitwidth", 3, *options))[0] == 130
    wanted = QuantizerSettings(bits=3, lam=0.05, p=0.2)
    assert built[0] == asdict(wanted) | {
        "relevance": LRP("epsilon_plus", "vgg", "ones", "gamma", 0.3, of="stepped", restart=True),
        "process_group": None,
    }
    assert run(*on(tree, *options))[0] == 130
    assert built[1]["relevance"] is None
    assert run(*on(tree, "--lrp", "--preset", "published"))[0] == 130
    published = QuantizerSettings(gradient="published", beta="published")
    assert built[2] == asdict(published) | {
        "relevance": LRP(additions="whole"),
        "process_group": None,
    }


def test_the_start_is_the_checkpoint(tree: Path, place: Path, run: Run) -> None:
    torch.manual_seed(5)
    start = models.build("resnet20", num_classes=3)
    torch.save({"state_dict": start.state_dict()}, place / "start.pt")
    data_only = [argument for argument in on(tree) if argument != "--model_rand_int"]
    code, out, error = run(*data_only, "--model_path", "start.pt", "--epochs", 0)
    assert (code, error) == (0, "")
    noted = record(place / "results")
    assert noted["start"] == "start.pt"
    assert noted["scores"]["start"] == scores(start, loaded(tree).test)
    ecq = ecqx.ECQx(start, bits=4, lam=0.05)
    state = ecqx.load(place / "results/resnet20_folder_4bit_lam0.05.ecqx")
    assert all(torch.equal(state[name], t) for name, t in ecq.model.state_dict().items())
    assert "resnet20, from start.pt" in out


def test_a_head_for_other_classes_is_told(tree: Path, place: Path, run: Run) -> None:
    torch.save(models.build("resnet20", num_classes=10).state_dict(), place / "ten.pt")
    data_only = [argument for argument in on(tree) if argument != "--model_rand_int"]
    code, _, error = run(*data_only, "--model_path", "ten.pt", "--epochs", 0)
    assert code == 0
    assert "another number of classes: linear.weight, linear.bias" in error
    assert ecqx.load(place / "results/resnet20_folder_4bit_lam0.05.ecqx")["linear.bias"].shape == (
        3,
    )


def test_training_in_full_precision_comes_first(tree: Path, place: Path, run: Run) -> None:
    arguments = on(tree, "--pretrain_epochs", 2, "--epochs", 1, "--verbose")
    code, out, _ = run(*arguments)
    assert code == 0
    phases = [line.split(",")[0] for line in out.splitlines() if ", epoch " in line]
    assert phases == ["pre-training", "pre-training", "quantized training"]
    noted = record(place / "results")
    assert list(noted["scores"]) == ["start", "pre-trained", "quantized", "decoded file"]
    assert noted["epochs"][0]["steps"] == 2


def kinds(path: Path) -> dict[str, str]:
    """Of the tensors of more than one dimension."""
    contents = inspect(path, statistics=False)
    return {r.name: r.kind for r in contents.tensors if len(r.shape) > 1}


def test_what_is_excluded_and_included(tree: Path, place: Path, run: Run) -> None:
    arguments = on(tree, "--model", "resnet56", "--epochs", 0)
    path = place / "results/resnet56_folder_4bit_lam0.05.ecqx"
    assert run(*arguments)[::2] == (0, "")
    assert set(kinds(path).values()) == {"quantized"}
    published = ("--exclude", "downsample", "--exclude", "aux_classifier", "--results", "b")
    code, out, error = run(*arguments, *published)
    assert code == 0
    assert error == "ecqx: exclude: no parameter has 'aux_classifier' in its name\n"
    stay = {f"layer{i}.0.downsample.0.weight" for i in (1, 2, 3)}
    assert {
        name for name, kind in kinds(place / "b" / path.name).items() if kind == "float"
    } == stay
    assert set(record(place / "b")["not_quantized"]) == stay
    assert re.search(r"not quantized +3 tensors named downsample or aux_classifier", out)


def test_training_ends_when_validation_stalls(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecqx.training.trainer.evaluate", lambda model, split: 0.5)
    code, out, _ = run(*on(tree, "--epochs", 9, "--max_batches", 1))
    assert code == 0
    assert len(record(place / "results")["epochs"]) == 5
    assert re.search(r"epochs +5 of 9", out)


def test_digits_with_one_channel(place: Path, run: Run) -> None:
    for model in ("resnet20", "mlp_gsc"):
        code, _, error = run("--dataset", "digits", "--model", model, "--epochs", 0)
        assert code == 0
        assert f"{model} starts from random weights" in error
        assert (place / f"results/{model}_digits_4bit_lam0.05.ecqx").is_file()


def test_real_photographs_with_a_label_per_pixel(shared: Path, place: Path, run: Run) -> None:
    small = ("--image_size", 64, "--batch_size", 4, "--max_batches", 1, "--epochs", 1)
    network = ("--model", "lraspp_mobilenet_v3_large", "--model_rand_int")
    code, out, error = run(*("--dataset", "voc", "--data_path", shared / "data"), *network, *small)
    assert (code, error) == (0, "")
    noted = record(place / "results")
    test = data.voc(shared / "data", "segmentation", crop=64).test
    file = place / "results/lraspp_mobilenet_v3_large_voc_4bit_lam0.05.ecqx"
    expected = scores(decoded(file, "lraspp_mobilenet_v3_large", num_classes=21), test)
    assert noted["scores"]["decoded file"] == expected == noted["scores"]["quantized"]
    assert set(expected) == {"mean IoU", "pixel accuracy"}
    assert re.search(r"14 images.* mean IoU +pixel accuracy", out)
    assert f"{expected['pixel accuracy']:.2%}" in out


def test_commands_of_the_readme(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    lines = re.findall(r"^    ecqx run (--model_path.*)$", readme, re.M)
    commands = [shlex.split(line) for line in lines]
    assert [sorted(arg.split("=")[0] for arg in c) for c in commands] == [
        ["--dataset_path", "--model_path", "--verbose"],
        ["--dataset_path", "--lrp", "--model_path", "--verbose"],
    ]
    make(tmp_path / "data", monkeypatch, train=20, test=10)
    monkeypatch.setattr(cifar_archives, "cifar", partial(data.cifar, validation=5))
    torch.save(models.build("resnet20").state_dict(), place / "resnet20.pt")
    for arguments, name in zip(commands, ("4bit_lam0.05", "4bit_lam0.05_lrp"), strict=True):
        code, out, error = run(*arguments)
        assert (code, error) == (0, "")
        assert "top-1 accuracy" in out
        assert f"results/resnet20_cifar10_{name}.ecqx" in out
        assert (place / f"results/resnet20_cifar10_{name}.ecqx").is_file()
