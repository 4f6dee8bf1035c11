"""Sweeps: the runs they expand to, the names of runs and trainings, and the keys of jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_suite import MLP, changed, loaded, runs, sweep_of, write

from ecqx.data import Split, TensorData
from ecqx.errors import InputError
from ecqx.experiment.task import Task
from ecqx.methods.pruning import Pruning
from ecqx.training.settings import FitSettings
from stages import paths, quantize, trainings
from stages.manifests import REFERENCE, read_fingerprint
from stages.settings.base import load
from stages.settings.quantize import QuantizeSettings
from stages.sweeps import Run, all_runs
from stages.trainings import cost_of, training_of

PRUNING = {"sweep": "comparison", "method": "pruning", "bits": 4, "sparsity": [0.5, 0.8]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(run: Run) -> dict[str, Any]:
    assert run.method is not None
    return run.method.settings()


# -- runs ------------------------------------------------------------------------------------------


def test_runs_are_all_combinations_of_methods_variants_and_values() -> None:
    sweep = sweep_of(
        method=["ECQ", "ECQx"],
        bits=[2, 4],
        lam=[0.1, 0],
        lr=[0.01, 0.001],
        variants={"plain": {}, "other": {"pmf": "normalized"}},
    )
    found = runs(sweep)
    assert [
        (r.method_name, s["pmf"], s["bits"], s["lam"], r.fit.lr, r.variant)
        for r in found
        for s in [settings_of(r)]
    ] == [
        (method, pmf, bits, lam, lr, f"{words}, lr {lr:g}")
        for method in ("ECQ", "ECQx")
        for words, pmf in (("plain", "published"), ("other", "normalized"))
        for bits in (2, 4)
        for lam in (0.1, 0.0)
        for lr in (0.01, 0.001)
    ]
    # A whole number stands for the same run as the fraction.
    assert all(type(settings_of(r)["lam"]) is float for r in found)


def test_tasks_and_seeds_come_first_and_each_has_its_reference() -> None:
    suite = loaded()
    found = all_runs(suite.quantize, suite.tasks, suite.seeds)
    places = list(dict.fromkeys((run.task, run.seed) for run in found))
    assert places == [("mlp", 0), ("mlp", 1), ("resnet20", 0), ("resnet20", 1)]
    references = [run for run in found if run.method is None]
    assert [(run.task, run.seed) for run in references] == places
    assert {run.method_name for run in references} == {REFERENCE}


def test_settings_of_quantizer_may_be_swept_like_any_other() -> None:
    """Lists of these went to the quantizer as they were, and the stage crashed."""
    swept = {"pmf": ["published", "normalized"], "restart": [True, False]}
    found = runs(sweep_of(**swept))
    assert [(settings_of(r)["pmf"], settings_of(r)["restart"]) for r in found] == [
        (pmf, restart) for pmf in swept["pmf"] for restart in swept["restart"]
    ]
    assert [r.variant for r in found][1:3] == [
        "pmf published, restart False",
        "pmf normalized, restart True",
    ]


@pytest.mark.parametrize(
    ("written", "bands"),
    [
        (None, [(-0.2, 0.0)]),
        ("[-p, 0]", [(-0.2, 0.0)]),
        ("[0, p]", [(0.0, 0.2)]),
        ([-0.5, 0.25], [(-0.5, 0.25)]),
        ([0, 1], [(0.0, 1.0)]),
        (["[0, p]", "[-p, 0]"], [(0.0, 0.2), (-0.2, 0.0)]),
        ([[0.0, 0.1], "[0, p]"], [(0.0, 0.1), (0.0, 0.2)]),
    ],
)
def test_bands_are_pairs_words_or_lists_of_these(
    written: object, bands: list[tuple[float, float]]
) -> None:
    found = runs(sweep_of(p=0.2, sparsity_band=written))
    assert [settings_of(run)["sparsity_band"] for run in found] == bands
    # Only a list of several bands gives each run a variant, which names its band.
    assert all((run.variant is None) == (len(bands) == 1) for run in found)


def test_a_band_in_words_follows_each_p() -> None:
    found = runs(sweep_of(p=[0.1, 0.3], sparsity_band="[0, p]"))
    assert [settings_of(run)["sparsity_band"] for run in found] == [(0.0, 0.1), (0.0, 0.3)]


def test_excluded_names_are_one_value_and_lists_of_names_several() -> None:
    assert [settings_of(r)["exclude"] for r in runs(sweep_of(exclude=["bn", "fc"]))] == [
        ("bn", "fc")
    ]
    found = runs(sweep_of(exclude=[[], ["bn"], ["bn", "fc"]]))
    assert [settings_of(r)["exclude"] for r in found] == [(), ("bn",), ("bn", "fc")]
    # The default holds for every method that can leave parameters out.
    trials = ("report.comparison.tasks.mlp.trials", 2)
    excluded = ("quantize.quantizer.exclude", ["fc"])
    lsq = {"sweep": "comparison", "method": "LSQ", "bits": [2, 4]}
    torchao = {"sweep": "comparison", "method": "torchao", "bits": [4, 8], "group": 0}
    found = runs(PRUNING, lsq, torchao, changes=(trials, excluded))
    assert len(found) == 6
    assert all(settings_of(run)["exclude"] == ("fc",) for run in found)


def test_records_are_plain_values_that_survive_a_file() -> None:
    suite = loaded()
    for run in all_runs(suite.quantize, suite.tasks, suite.seeds):
        assert json.loads(json.dumps(run.record))["run_id"] == run.run_id
    pruned = next(r for r in all_runs(suite.quantize, suite.tasks, [0]) if "pru" in r.method_name)
    assert (pruned.record["settings"], pruned.record["variant"]) == (
        {"sparsity": 0.5},
        "sparsity 0.5",
    )


# -- names of runs and trainings -------------------------------------------------------------------


def names(*changes: tuple[str, Any]) -> list[str]:
    suite = loaded(*changes)
    return [run.run_id for run in all_runs(suite.quantize, suite.tasks, suite.seeds)]


def test_words_and_rules_for_people_change_no_run() -> None:
    before = names()
    images = {"name": "image_folder", "path": "x", "validation": 2, "seed": 0, "label": "my images"}
    for change in (
        ("report.titles.mlp", "another title"),
        ("data.sets.digits", [images]),
        ("report.comparison.loss", 0.5),
        ("report.comparison.tasks.mlp.ratios", [2.0, 3.0]),
        ("evaluate.layers.seed", 1),
        ("data.root", ["elsewhere"]),
    ):
        assert names(change) == before, change
    # The name of a variant is such a word too.
    first, second = (
        runs(sweep_of(variants={name: {"pmf": "normalized"}}))[0] for name in ("a", "b")
    )
    assert (first.run_id, first.variant, second.variant) == (second.run_id, "a", "b")


OF_RELEVANCE: list[tuple[str, object]] = [
    ("quantize.quantizer.p", 0.3),
    ("quantize.quantizer.sparsity_band", [0.0, 0.3]),
    ("quantize.relevance.composite", "epsilon_plus"),
    ("quantize.relevance.canonizer", "vgg"),
    ("quantize.relevance.output", "ones"),
    ("quantize.relevance.weight_rule", "gamma"),
    ("quantize.relevance.alpha", 0.5),
    ("quantize.relevance.of", "quantized"),
    ("quantize.relevance.restart", False),
    ("quantize.relevance.every", 2),
    ("quantize.relevance.samples", 8),
]
OF_ALL: list[tuple[str, object]] = [
    ("quantize.quantizer.gradient", "identity"),
    ("quantize.quantizer.exclude", ["fc"]),
    ("quantize.quantizer.pmf", "normalized"),
    ("quantize.quantizer.lambda_max", "derived"),
    (f"{MLP}.fit.epochs", 2),
    (f"{MLP}.fit.schedule", "cosine"),
    ("tasks.mlp.model.num_classes", 11),
    ("tasks.mlp.enlarge", 2),
    ("tasks.mlp.start", {"checkpoint": "x.pt"}),
]


def test_every_setting_that_a_run_uses_changes_its_name_and_no_other() -> None:
    sweep = sweep_of(method=["ECQ", "ECQx"])

    def pair(*changes: tuple[str, Any]) -> tuple[str, str]:
        ecq, ecqx = runs(sweep, changes=changes)
        return ecq.run_id, ecqx.run_id

    plain = pair()
    for change in OF_RELEVANCE:
        assert pair(change)[0] == plain[0], change
        assert pair(change)[1] != plain[1], change
    for change in OF_ALL:
        assert not set(pair(change)) & set(plain), change
    for setting, value in (("lam", 0.2), ("bits", 3), ("floats", "published"), ("lr", 1e-5)):
        other = {run.run_id for run in runs(sweep_of(method=["ECQ", "ECQx"], **{setting: value}))}
        assert not other & set(plain), setting
    # What is written out is no other setting than the default.
    assert runs(sweep_of(p=0.1, pmf="published", lr=0.0005))[0].run_id == plain[1]


def test_a_setting_in_two_sweeps_is_trained_once() -> None:
    grid = sweep_of(method=["ECQ", "ECQx"], lam=[0.1, 0.3])
    found = runs(grid, grid | {"sweep": "comparison", "floats": "published"})
    assert len({run.run_id for run in found}) == 8
    assert [run.training_id for run in found[:4]] == [run.training_id for run in found[4:]]
    assert len({run.training_id for run in found}) == 4


def test_methods_after_training_share_the_training_of_the_reference() -> None:
    after = {"sweep": "comparison", "method": ["fp16", "int8"]}
    uniform = {"sweep": "comparison", "method": "NNCodec uniform", "qp": [-20, -16]}
    suite = loaded((f"{MLP}.sweeps", [after, uniform, sweep_of()]))
    found = [r for r in all_runs(suite.quantize, suite.tasks, [0]) if r.task == "mlp"]
    reference, *others = found
    assert [run.training_id == reference.training_id for run in others] == [True] * 4 + [False]
    assert all(run.training_method is None for run in (reference, *others[:4]))
    assert [run.form_settings for run in others[2:4]] == [
        {"qp": qp, "dependent": False} for qp in (-20, -16)
    ]
    # At another learning rate it is another training.
    (slow,) = runs(after | {"method": "fp16", "lr": 1e-5})
    assert slow.training_id != reference.training_id


# -- keys of jobs ----------------------------------------------------------------------------------


def data(path: Path, label: str = "digits", scale: float = 1.0) -> Path:
    inputs = scale * torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    split = Split(inputs, torch.arange(8) % 2)
    TensorData(split, split, split, ("a", "b"), label).save(path)
    return path


def test_keys_depend_on_what_a_training_depends_on_and_on_no_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Pruning(4, 0.5)
    task = Task({"name": "mlp_gsc"}, data(folder / "data.safetensors"))
    (folder / "start").write_bytes(b"one start")
    (folder / "other").write_bytes(b"another start")
    plain: dict[str, Any] = {
        **{"task": task, "fit": FitSettings(), "seed": 0, "start": folder / "start"},
        **{"device": "cpu", "code": "0", "method": method, "method_name": "pruning"},
    }

    def key(**changes: Any) -> str:
        return training_of(**plain | changes).key

    first = key()
    others = [
        key(task=replace(task, network={"name": "resnet20"})),
        key(task=replace(task, enlarge=2)),
        key(task=replace(task, data=data(folder / "scaled.safetensors", scale=2.0))),
        key(fit=FitSettings(epochs=3)),
        key(seed=1),
        key(start=None),
        key(start=folder / "other"),
        key(code="1"),
        key(method=Pruning(4, 0.6)),
        key(method=None, method_name=REFERENCE),
    ]
    assert len({first, *others}) == 1 + len(others)
    # The device found counts, not how it was asked for.
    monkeypatch.setattr(trainings, "find_device", lambda _: torch.device("cpu"))
    assert key(device="auto") == first
    monkeypatch.setattr(trainings, "find_device", lambda _: torch.device("cuda"))
    assert key(device="auto") != first
    monkeypatch.undo()
    # One count of the cost stands for all seeds and starts.
    costs = [
        cost_of(training_of(**plain | changes), "0", "pruning").key
        for changes in ({}, {"seed": 1}, {"start": None}, {"fit": FitSettings(batch_size=32)})
    ]
    assert len(set(costs[:3])) == 1
    assert costs[3] != costs[0]
    # Places and labels do not; a file that is another one now does.
    labelled = data(folder / "elsewhere.safetensors", label="my digits")
    assert key(task=replace(task, data=labelled)) == first
    data(task.data, scale=3.0)
    assert key() != first


def test_data_are_known_by_their_samples_and_preparation() -> None:
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    split = Split(images, torch.tensor([0, 1]))
    made = TensorData(split, split, split, ("a", "b"), "images")
    prepared = replace(split, preparation=replace(split.preparation, padding=1))
    reshaped = replace(split, inputs=images.reshape(2, 3, 4, 1))
    others = [
        replace(made, train=prepared),
        replace(made, test=reshaped),
        replace(made, validation=replace(split, targets=torch.tensor([1, 0]))),
        replace(made, test=split.take(1)),
    ]
    assert len({data.checksum() for data in (made, *others)}) == 5
    assert replace(made, label="others", classes=("x", "y")).checksum() == made.checksum()


def test_a_training_depends_on_the_fingerprint_of_its_own_method(folder: Path) -> None:
    sweeps = [sweep_of(method=["ECQ", "ECQx"]), {"sweep": "comparison", "method": "fp16"}]
    write(changed((f"{MLP}.sweeps", sweeps)))
    data_file = paths.data("smoke", "digits")
    data_file.parent.mkdir(parents=True)
    data(data_file)
    start = paths.checkpoint("smoke", "mlp", 0)
    start.parent.mkdir(parents=True)
    start.write_bytes(b"a start")
    settings = load("smoke", QuantizeSettings)
    found = [run for run in all_runs(settings.quantize, settings.tasks, [0]) if run.task == "mlp"]

    def keys(**codes: str) -> list[str]:
        known = {"ECQ": "0", "ECQx": "0", REFERENCE: "0"} | codes
        return [quantize._training("smoke", settings, run, known).key for run in found]

    plain = keys()
    assert [run.method_name for run in found] == [REFERENCE, "ECQ", "ECQx", "fp16"]
    assert plain[0] == plain[3]
    assert [a != b for a, b in zip(plain, keys(ECQx="1"), strict=True)] == [
        *(False, False, True, False)
    ]
    of_reference = keys(**{REFERENCE: "1"})
    assert [a != b for a, b in zip(plain, of_reference, strict=True)] == [True, False, False, True]


def test_without_fingerprints_the_command_that_writes_them_is_named() -> None:
    with pytest.raises(InputError, match="missing; `sh stages/run fingerprint smoke` writes it"):
        read_fingerprint("smoke", "quantize")
