"""Made runs, as the pipeline records them, and what figures of them must look like."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecqx.report.build import build
from ecqx.report.render import Figure

TASKS = {
    "mlp": "MLP_GSC on digits",
    "resnet20": "ResNet20 on digits",
    "vgg": "slim VGG16 on digits",
    "vgg_bn": "slim VGG16_bn on digits",
}
PARAMETERS = {"mlp": 480_000, "resnet20": 270_000, "vgg": 930_000, "vgg_bn": 934_000}
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
SEEDS = (0, 1, 2)

LRP_SETTINGS = {
    "alpha": 0.1,
    "composite": "epsilon_plus_flat_bn_pass",
    "canonizer": "vgg",
    "weight_rule": "epsilon",
    "lrp_output": "output",
    "relevance_of": "stepped",
    "relevance_every": 1,
    "relevance_samples": None,
}


def make_run(
    task: str, method: str, bits: int, lam: float, seed: int, **changes: Any
) -> dict[str, Any]:
    """A run as the pipeline records it, on a plausible curve with deviation over seeds."""
    p = changes.get("p")
    key = [len(task), bits, round(1000 * lam), seed, method == "ECQx", round(1000 * (p or 0))]
    noise = np.random.default_rng(key)
    added = 0.0 if method == "ECQ" else 0.02 if p is None else 0.15 * p
    strength = lam * (1 + 0.1 * noise.standard_normal())
    sparsity = min(0.99, 0.28 + 0.1 * (5 - bits) + 0.55 * (1 - np.exp(-9 * strength)) + added)
    fp32 = 0.972 + 0.004 * np.random.default_rng([len(task), seed]).standard_normal()
    loss = 0.003 * (5 - bits) + 2.5 * max(0.0, sparsity - added - 0.72) ** 1.5
    accuracy = float(np.clip(fp32 - loss + 0.003 * noise.standard_normal(), 0.1, 1))
    entropy = max(0.12, bits * (1 - sparsity) * 0.9)
    parameters = PARAMETERS.get(task, 100_000)
    integers = int(parameters * entropy / 8)
    size = integers + 6_000
    run = {
        "run_id": f"{task}-{method}-{bits}-{lam:g}-{p}-{seed}",
        "task": task,
        "dataset": "digits",
        "model": task,
        "method": method,
        "bits": bits,
        "lam": lam,
        "p": 0.1 if method == "ECQx" else None,
        "sparsity_band": None,
        "gradient": "magnitude",
        "pmf": "published",
        "lambda_max": "published",
        "floats": "raw",
        "settings": {},
        "lr": 0.001,
        "cost": 2.1 if method == "ECQx" else 1.0,
        "seed": seed,
        "epochs": 12,
        "metric": "top-1 accuracy",
        "other_metrics": {},
        "accuracy_start": 0.969,
        "accuracy_fp32": float(fp32),
        "accuracy_fp32_validation": float(fp32),
        "accuracy_validation": float(np.clip(accuracy + 0.002 * noise.standard_normal(), 0, 1)),
        "accuracy": accuracy,
        "sparsity": float(sparsity),
        "bytes": size,
        "bytes_integers": integers,
        "bytes_other": size - integers,
        "compression_ratio": 4 * parameters / size,
        "entropy_bits_per_weight": entropy,
        "sweep": "grid",
        "variant": None,
        "train_samples": 1078,
        "steps": 204,
        "batch_size": 64,
        "data_checksum": "0123abcd",
        "start": f"pretrain 00{seed}",
        "parameters": parameters,
    }
    run |= {key: value if method == "ECQx" else None for key, value in LRP_SETTINGS.items()}
    return run | changes


def make_grid(
    task: str,
    bits: tuple[int, ...] = (4,),
    lambdas: tuple[float, ...] = LAMBDAS,
    seeds: tuple[int, ...] = SEEDS,
) -> list[dict[str, Any]]:
    """All runs of a task's grid."""
    every = itertools.product(("ECQ", "ECQx"), bits, lambdas, seeds)
    return [make_run(task, *settings) for settings in every]


def make_p_sweep(task: str, bits: int = 4) -> list[dict[str, Any]]:
    """All runs of a task's sweep over p."""
    return [
        make_run(task, "ECQx", bits, lam, seed, p=p, sparsity_band=[0.0, p], sweep="p")
        for p, lam, seed in itertools.product((0.02, 0.05, 0.1, 0.2), LAMBDAS[1:5], SEEDS)
    ]


def make_trained(
    task: str, lambdas: tuple[float, ...] = (0.1, 0.2), seeds: tuple[int, ...] = SEEDS
) -> list[dict[str, Any]]:
    """Runs of all methods with trained centroids, far better than any of the grid."""
    settings = {"EC2T": (2, "ECQ"), "EC2Tx": (2, "ECQx")}
    settings |= {"FantastIC4": (4, "ECQ"), "FantastIC4x": (4, "ECQx")}
    runs = []
    for (method, (bits, like)), lam, seed in itertools.product(settings.items(), lambdas, seeds):
        run = make_run(task, like, bits, lam, seed, sweep="trained")
        formula = "derived" if bits == 2 else "published"
        better = {"accuracy": 0.999, "accuracy_validation": 0.999, "sparsity": 0.97}
        name = {"run_id": f"{task}-{method}-{lam:g}-{seed}", "method": method}
        name["lambda_max"] = formula
        runs.append(run | name | better | {"bytes": 700 + seed, "compression_ratio": 900.0})
    return runs


def make_relevance(task: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weights and relevances of a first and a last layer that go together loosely."""
    noise = np.random.default_rng(len(task))
    layers = {}
    for name, shape in (("layers.0.weight", (64, 32)), ("layers.6.weight", (10, 64))):
        weight = noise.normal(0, 0.08, shape)
        relevance = (
            weight * noise.lognormal(0, 1.5, shape) * noise.choice([0, 1], shape, p=[0.1, 0.9])
        )
        layers[name] = (weight.astype(np.float32), relevance.astype(np.float32))
    return layers


def make_decoded(task: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same layers on a coarse grid, their relevance changed a little."""
    noise = np.random.default_rng(1)
    return {
        name: (np.round(weight / 0.03) * 0.03, relevance * noise.lognormal(0, 0.2, relevance.shape))
        for name, (weight, relevance) in make_relevance(task).items()
    }


def make_inputs(task: str, shape: tuple[int, ...] = (8, 8)) -> dict[str, np.ndarray]:
    """Four test samples with the relevance of their inputs by two networks."""
    noise = np.random.default_rng(2)
    pixels = noise.random((4, *shape), dtype=np.float32)
    relevance = noise.normal(0, 0.1, (4, *shape[-2:])).astype(np.float32)
    images = shape[0] == 3
    return {
        f"{task}/input": (255 * pixels).astype(np.uint8) if images else pixels,
        f"{task}/relevance full precision": relevance,
        f"{task}/relevance decoded": relevance * np.float32(0.5),
        f"{task}/label": np.arange(4),
        f"{task}/label full precision": np.arange(4),
        f"{task}/label decoded": np.array([0, 1, 3, 3]),
    }


def make_layers(task: str) -> list[dict[str, Any]]:
    """Records per layer of a reference run of both methods."""
    return [
        {
            "task": task,
            "method": method,
            "bits": 4,
            "lam": 0.1,
            "seed": 0,
            "layer": f"layers.{index}.weight",
            "elements": 4096 // (index + 1),
            "sparsity": 0.6 + 0.05 * index,
            "entropy_bits_per_weight": 2.0 - 0.3 * index,
            "bytes": 1024 // (index + 1),
        }
        for method in ("ECQ", "ECQx")
        for index in range(4)
    ]


def make_suite(tasks: tuple[str, ...] = tuple(TASKS)) -> dict[str, Any]:
    """Everything `build` takes, for some tasks."""
    runs = []
    for task in tasks:
        runs += make_grid(task, bits=(2, 3, 4, 5) if task == "mlp" else (4,))
    if "mlp" in tasks:
        runs += make_p_sweep("mlp")
    return {
        "records": runs,
        "relevance": {task: make_relevance(task) for task in tasks[:2]},
        "suite": "embedded",
        "tasks": {task: TASKS[task] for task in tasks},
        "layers": [layer for task in tasks for layer in make_layers(task)],
    }


def make_minimal_suite() -> dict[str, Any]:
    """One task, one bit width, two Λ, two seeds, no sweep over p, nothing else."""
    return {
        "records": make_grid("mlp", lambdas=(0.02, 0.2), seeds=(0, 1)),
        "relevance": {},
        "suite": "smoke",
        "tasks": {"mlp": TASKS["mlp"]},
        "layers": [],
    }


def draw(suite: dict[str, Any], out: Path) -> dict[str, Figure]:
    """Build a suite without the files of its figures; return the figures by name."""
    figures: dict[str, Figure] = {}

    def files(self: Figure) -> dict[str, bytes]:
        figures[self.name] = self
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "files", files)
        build(out=out, **suite)
    return figures


def scales(chart: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    """The scales of a channel in all layers of a chart."""
    parts = chart.get("layer", [chart])
    found = [part.get("encoding", {}).get(channel, {}) for part in parts]
    return [entry["scale"] for entry in found if "scale" in entry]


def chart_rows(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of a chart."""
    return list(chart["data"]["values"])


SPEECH = "Speech Commands v0.02, test archive (split by speaker; silence by clip)"
MIXED_TASKS = {
    "mlp": "MLP_GSC",
    "resnet20": "ResNet20",
    "resnet18": "ResNet18",
    "deeplab": "DeepLabV3",
}
MIXED_DATA: dict[str, dict[str, Any]] = {
    "mlp": {"dataset": SPEECH, "train_samples": 3911, "steps": 160, "epochs": 10},
    "resnet20": {
        "dataset": "cifar10",
        "train_samples": 45_000,
        "steps": 280,
        "epochs": 2,
        "start": "pretrain 77 of 0123456789abcdef",
    },
    "resnet18": {
        "dataset": "voc2012 classification",
        "train_samples": 7386,
        "steps": 2320,
        "epochs": 20,
        "metric": "mean average precision",
    },
    "deeplab": {
        "dataset": "voc2012 segmentation (14 images)",
        "train_samples": 8,
        "steps": 4,
        "batch_size": 2,
        "epochs": 1,
        "metric": "mean IoU",
    },
}
# Name of a variant and what it replaces, in the order in which the table has to show them.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("p: 0.05, band [-p, 0]", {"p": 0.05, "sparsity_band": [-0.05, 0.0]}),
    ("p: 0.2, band [-p, 0]", {"p": 0.2, "sparsity_band": [-0.2, 0.0]}),
    ("p: 0.05, band [0, p]", {"p": 0.05, "sparsity_band": [0.0, 0.05]}),
    ("p: 0.2, band [0, p]", {"p": 0.2, "sparsity_band": [0.0, 0.2]}),
    ("averaging: 0.5", {"alpha": 0.5}),
    ("averaging: 0.9", {"alpha": 0.9}),
    ("gradient: identity", {"gradient": "identity"}),
    ("gradient: published", {"gradient": "published"}),
    ("a relevance of quantized weights", {"relevance_of": "quantized"}),
    ("pmf: normalized", {"pmf": "normalized"}),
    ("lambda_max: derived", {"lambda_max": "derived"}),
    ("a restart each epoch", {}),
)


def make_mixed_grid(task: str, **options: Any) -> list[dict[str, Any]]:
    """The grid of a task of the mixed suite, on its own data and with its own metric."""
    runs = [run | MIXED_DATA[task] for run in make_grid(task, **options)]
    if task == "deeplab":
        runs = [run | {"other_metrics": {"pixel accuracy": run["accuracy"] + 0.01}} for run in runs]
    for run in runs:
        if task in ("resnet18", "deeplab"):
            names = ("accuracy", "accuracy_fp32", "accuracy_validation", "accuracy_start")
            run |= {name: run[name] * 0.6 for name in names}
    return runs


def make_ablation(task: str, seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """Runs of every variant at two Λ."""
    base = {"sparsity_band": [-0.1, 0.0]} | MIXED_DATA[task]
    runs = []
    for (variant, replaced), lam, seed in itertools.product(VARIANTS, (0.05, 0.2), seeds):
        run = make_run(task, "ECQx", 4, lam, seed, sweep="ablation", variant=variant)
        name = f"{task}-{variant}-{lam:g}-{seed}"
        runs.append(run | base | {"run_id": name} | replaced)
    return runs


def make_mixed_suite() -> dict[str, Any]:
    """Four tasks on data of their own, with three metrics, and all that `build` can take."""
    runs = []
    for task in MIXED_TASKS:
        bits = (2, 4) if task == "resnet20" else (4,)
        runs += make_mixed_grid(task, bits=bits)
    bands = {"ECQ": None, "ECQx": [-0.1, 0.0]}
    runs = [run | {"sparsity_band": bands[run["method"]]} for run in runs]
    runs += [*make_ablation("mlp"), *make_ablation("resnet20")]
    return {
        "records": runs,
        "relevance": {"mlp": make_relevance("mlp")},
        "suite": "mixed",
        "tasks": MIXED_TASKS,
        "layers": [layer for task in MIXED_TASKS for layer in make_layers(task)],
        "published": [{"task": "resnet20", "bits": 4, "lam": 0.05}],
        "yardsticks": make_yardsticks(),
        "decoded": {"mlp": make_decoded("mlp")},
        "samples": make_samples("deeplab")
        | make_inputs("mlp")
        | make_inputs("resnet20", (3, 90, 80)),
        "classes": {"deeplab": CLASSES},
    }


def make_yardsticks() -> list[dict[str, Any]]:
    """Results of the published algorithm on the mixed suite's ResNet20."""
    names = ("task", "method", "bits", "lam", "accuracy", "sparsity", "bytes")
    return [
        dict(zip(names, values, strict=True))
        for values in (
            ("resnet20", "ECQ", 4, 0.05, 0.9472, 0.346, 72_000),
            ("resnet20", "ECQx", 4, 0.05, 0.9692, 0.382, 58_000),
            ("resnet20", "ECQ", 4, 0.2, 0.9303, 0.717, 36_318),
        )
    ]


CLASSES = ["background", *(f"thing {i}" for i in range(1, 21))]


def make_samples(task: str, count: int = 3, height: int = 40, width: int = 56) -> dict[str, Any]:
    """Images and masks: a box of one class each, in a rim without labels."""
    noise = np.random.default_rng(0)
    truth = np.zeros((count, height, width), np.uint8)
    for i in range(count):
        truth[i, 8:30, 10 + 5 * i : 40] = 3 + 4 * i
    predicted = np.roll(truth, 3, axis=2)
    decoded = np.roll(truth, 5, axis=1)
    truth[:, :3] = truth[:, -3:] = 255
    image = noise.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return {
        f"{task}/image": image,
        f"{task}/truth": truth,
        f"{task}/full precision": predicted,
        f"{task}/decoded": decoded,
    }
