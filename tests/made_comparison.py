"""Made records of the comparison of all methods."""

from __future__ import annotations

from typing import Any

import numpy as np
from made_runs import make_run

from ecqx.report.records import FAMILY, METHODS
from ecqx.report.rules import Fairness, Rules

TITLES = {"mlp": "MLP_GSC", "resnet20": "ResNet20", "vgg": "slim VGG16"}
PARAMETERS = {"mlp": 710_924, "resnet20": 271_098, "vgg": 531_490}
DATA = {"mlp": "Speech Commands v0.02", "resnet20": "cifar10", "vgg": "digits"}
FULL = {"mlp": 0.76, "resnet20": 0.81, "vgg": 0.975}
RATIOS = (8.0, 64.0)


def rules(trials: int) -> Rules:
    """Rules for the made tasks."""
    return Rules(0.005, {task: Fairness(RATIOS, trials) for task in TITLES})


RULES = rules(8)

# Method → how small its files are against those of ECQ, points it loses more, cost of a step.
CHARACTER = {
    "ECQ": (1.0, 0.0, 1.0),
    "ECQx": (0.94, -0.006, 2.1),
    "EC2T": (0.9, 0.02, 1.0),
    "EC2Tx": (0.75, 0.004, 2.1),
    "FantastIC4": (1.1, 0.002, 1.0),
    "FantastIC4x": (0.96, -0.004, 2.1),
    "NNCodec uniform": (1.9, 0.012, 1.0),
    "NNCodec dependent": (1.5, 0.01, 1.0),
    "pruning": (1.7, 0.004, 1.0),
    "LSQ": (1.6, 0.0, 1.02),
    "torchao": (2.6, 0.003, 1.0),
}
FIXED = {"fp16": (2.0, 0.0), "int8": (4.0, 0.001)}
LAMBDAS = (0.0, 0.05, 0.1, 0.4)


def setting(method: str, index: int) -> dict[str, Any]:
    """What tells a trial from the others of its method."""
    lam = LAMBDAS[index % 4]
    if method in ("ECQ", "ECQx"):
        return {"bits": (4, 2)[index // 4], "lam": lam, "variant": None}
    if method.startswith("EC2T"):
        return {"bits": 2, "lam": lam * 2, "variant": f"lr {(1e-3, 3e-4)[index // 4]:g}"}
    if method.startswith("FantastIC4"):
        return {"bits": 4, "lam": lam * 3, "variant": f"lr {(1e-3, 3e-4)[index // 4]:g}"}
    if method.startswith("NNCodec"):
        return {"bits": None, "lam": None, "variant": f"qp {-38 + 4 * index}"}
    if method == "pruning":
        return {"bits": None, "lam": None, "variant": f"lr 0.0003, sparsity {0.5 + 0.06 * index:g}"}
    variant = f"lr {(1e-3, 3e-4)[index % 2]:g}"
    return {"bits": (8, 4, 3, 2)[index // 2], "lam": None, "variant": variant}


def record(
    task: str, method: str, index: int, seed: int, trials: int = 8, **changes: Any
) -> dict[str, Any]:
    """A record on a plausible curve with deviation over seeds."""
    noise = np.random.default_rng([PARAMETERS[task], sum(map(ord, method)), index, seed])
    of_seed = np.random.default_rng([PARAMETERS[task], seed])
    full = FULL[task] + 0.006 * of_seed.standard_normal()
    validation = full + 0.004 * of_seed.standard_normal()
    parameters = PARAMETERS[task]
    if method in FIXED:
        ratio, loss = FIXED[method]
        own, cost = {"bits": {"fp16": None, "int8": 8}[method], "lam": None, "variant": None}, 1.0
    else:
        factor, more, cost = CHARACTER[method]
        # From a ratio of 8 to one of 90, the finer the smaller its loss.
        ratio = 8 * 11 ** (index / max(trials - 1, 1)) / factor * np.exp(0.02 * noise.normal())
        loss = more + 0.02 * (ratio / 30) ** 2 * factor
        own = setting(method, index)
    lost = loss + 0.004 * noise.standard_normal()
    accuracy = float(np.clip(full - lost, 0.1, 1))
    size = int(4 * parameters / ratio)
    coded = method in FAMILY
    made = {
        "run_id": f"{task}-{method}-{index}-{seed}",
        "task": task,
        "method": method,
        "sweep": "comparison",
        **own,
        "floats": "published" if coded else None,
        "cost": cost,
        "dataset": DATA[task],
        "train_samples": 3714,
        "epochs": 10,
        "steps": 580,
        "accuracy_start": float(full - 0.004),
        "accuracy_fp32": float(full),
        "accuracy_fp32_validation": float(validation),
        "accuracy_validation": float(
            np.clip(validation - lost + 0.002 * noise.standard_normal(), 0, 1)
        ),
        "accuracy": accuracy,
        "sparsity": float(min(0.98, 0.3 + 0.1 * index)),
        "parameters": parameters,
        "bytes": size,
        "compression_ratio": 4 * parameters / size,
    }
    if not coded:
        made |= dict.fromkeys(("bytes_integers", "bytes_other", "entropy_bits_per_weight"))
        made |= dict.fromkeys(("gradient", "pmf", "lambda_max"))
    like = "ECQx" if method in ("ECQx", "EC2Tx", "FantastIC4x") else "ECQ"
    return make_run(task, like, 4, 0.0, seed) | made | changes


def resized(row: dict[str, Any], size: int) -> dict[str, Any]:
    """The same record with a file of another size."""
    return row | {"bytes": size, "compression_ratio": 4 * row["parameters"] / size}


def records(
    tasks: tuple[str, ...] = tuple(TITLES),
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0, 1, 2),
    trials: int = 8,
) -> list[dict[str, Any]]:
    """All records of some tasks and methods."""
    return [
        record(task, method, index, seed, trials)
        for task in tasks
        for method in methods
        for index in range(1 if method in FIXED else trials)
        for seed in seeds
    ]
