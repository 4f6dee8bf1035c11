"""Writes docs/performance.md from two runs of the benchmarks: ``python -m benchmarks.page A B``.

The first is one in a process as it comes, the second one in a process that keeps freed memory.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

import altair as alt
import torch
import vl_convert
from tabulate import tabulate

from ecqx.files import write_atomically, write_text
from ecqx.report.render import VEGA_LITE
from ecqx.report.style import FULL_PRECISION, LOOKS, print_config

PAGE, FIGURE = Path("docs/performance.md"), Path("docs/performance.png")

# name of a benchmark: what it says in the table
ROWS = {
    "test_step[resnet20-ECQ]": "ECQ step / plain training step, ResNet20, batch 64",
    "test_step[resnet20-ECQx]": "ECQx step / plain step, the same",
    "test_bare_convolutions": "plain step and the four convolutions of ECQx / plain step, the same",
    "test_ecqx_recommended": "ECQx step with `relevance.every: 8` / plain step, the same",
    "test_step[mlp_gsc, batch 256-ECQ]": "ECQ step / plain step, MLP_GSC, 390 inputs, batch 256",
    "test_step[mlp_gsc, batch 256-ECQx]": "ECQx step / plain step, the same",
    "test_step[mlp_gsc, batch 64-ECQ]": "ECQ step / plain step, MLP_GSC, batch 64 (the paper's)",
    "test_step[mlp_gsc, batch 64-ECQx]": "ECQx step / plain step, the same",
    "test_step[vgg16_bn-ECQ]": "ECQ step / plain step, VGG16_bn, 32x32, batch 64",
    "test_step[vgg16_bn-ECQx]": "ECQx step / plain step, the same",
    "test_attached[resnet20-ECQ]": "ECQ attached to the optimizer / explicit calls, ResNet20",
    "test_attached[resnet20-ECQx]": "ECQx, the same",
    "test_attached[mlp_gsc, batch 64-ECQ]": "ECQ, the same, MLP_GSC, batch 64",
    "test_attached[mlp_gsc, batch 64-ECQx]": "ECQx, the same",
    "test_dense[ECQ]": "assignment of 2.36 M weights, 4 bit, ECQ: dense costs / ours",
    "test_dense[ECQx]": "the same for ECQx: search of β on dense costs / ours",
    "test_layer[ECQ-<= 8 ms]": "assignment of 2.36 M weights, 4 bit, ECQ, milliseconds",
    "test_layer[ECQx-<= 20 ms]": "the same for ECQx",
    "test_two_processes": "sweep in one process / in two",
}
# Candidates for a faster ECQx step: what each is, and what its ratio is of.
CANDIDATES = {
    "test_half_of_zplus": (
        "half of negative inputs left out of the zplus rule where there are none",
        "ECQx step without / with it",
    ),
    "test_channels_last": (
        "channels-last memory format",
        "ECQx step with / without it",
    ),
    "test_bfloat16": (
        "relevance in bfloat16",
        "pass of relevance with / without it",
    ),
}
CURVES = {
    "weights": "weights (4 bit)",
    "bits": "bit width (a million weights)",
    "batch": "batch size (ResNet20)",
}
METHOD_COLOURS = {
    "plain": LOOKS[FULL_PRECISION].colour,
    **{method: LOOKS[method].colour for method in ("ECQ", "ECQx")},
}


# How operators of torch's profiler are summed up; the first name that is part of theirs counts.
OPERATORS = {
    "convolution_backward": "gradients of convolutions",
    "convolution": "convolutions",
    "batch_norm": "BatchNorm, with gradients",
    "assignment": "assignment of all layers",
    "Adam": "Adam's step, without its operators",
    "Attribution": "rules of relevance, without their operators",
}


Benchmark = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Time of one method against the size of the work, medians in seconds."""

    kind: str
    method: str
    sizes: list[float]
    seconds: list[float]

    @property
    def slope(self) -> float:
        """Exponent of the power of the size that the time grows with: log against log."""
        return linear_regression(
            [math.log(size) for size in self.sizes], [math.log(t) for t in self.seconds]
        ).slope


def main(plain: Path, kept: Path) -> None:
    """Write the page and its figure."""
    benchmarks, others = (json.loads(path.read_text())["benchmarks"] for path in (plain, kept))
    curves = _curves(benchmarks)
    _draw(curves)
    write_text(PAGE, _page(benchmarks, others, curves))
    print(f"{PAGE} and {FIGURE} are written")


def _curves(benchmarks: list[Benchmark]) -> list[Curve]:
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        if "curve" in info:
            points[info["curve"], info["method"]].append((info["at"], benchmark["stats"]["median"]))
    return [
        Curve(kind, method, *map(list, zip(*sorted(found), strict=True)))
        for (kind, method), found in points.items()
    ]


def _page(
    benchmarks: list[Benchmark], with_kept_memory: list[Benchmark], curves: list[Curve]
) -> str:
    by_name = {benchmark["name"]: benchmark["extra_info"] for benchmark in benchmarks}
    kept = {benchmark["name"]: benchmark["extra_info"] for benchmark in with_kept_memory}
    rows = [
        (what, _ratio(by_name, name), _ratio(kept, name), _goal(by_name[name]))
        for name, what in ROWS.items()
        if name in by_name
    ]
    slopes = [
        (
            CURVES[curve.kind],
            curve.method,
            f"{curve.seconds[-1] / curve.seconds[0]:.3g}",
            f"{curve.slope:.2f}",
        )
        for curve in curves
    ]
    return "\n".join(
        [
            "# Performance",
            "",
            "`make bench` measures and writes this page. Ratios are those of medians within one",
            "run, of processor times with one thread; two things that are compared take turns.",
            "Large results cost less in a process that keeps freed memory, as the pipeline's do",
            "(`stages/run`): results of convolutions, and the costs of a dense assignment.",
            "",
            "What counts is the step: earlier goals in copies of a layer (ECQ at most 6, ECQx at",
            "most 20 copies of the weights) needed 1,200 lines of hand-vectorized loops for 0.6 %",
            "of an ECQx step of ResNet20. Plain loops replaced them; the goals are those of steps.",
            "",
            f"Measured on {_machine()}.",
            "",
            _table(rows, ("what", "measured", "with kept memory", "goal")),
            "",
            "## Where the time goes",
            "",
            "An ECQx step of ResNet20, batch 64, one thread, by torch's profiler, which adds to",
            "the cost of small operators:",
            "",
            _table(_profile(benchmarks), ("what", "share of the time (%)")),
            "",
            "## Candidates",
            "",
            "What else could make an ECQx step faster, each measured by itself:",
            "",
            _table(
                _candidates(by_name, kept),
                ("candidate", "ratio", "measured", "with kept memory", "outcome"),
            ),
            "",
            *_ranks(by_name),
            "",
            "## Beside the work of the pipeline",
            "",
            "A run starts a process for each of six stages, and worker processes, one a core, for",
            "training, and for coding and evaluation where these last longer than some seconds.",
            "",
            _table(_overheads(benchmarks), ("what", "seconds")),
            "",
            "## Cost as work grows",
            "",
            "![time against size](performance.png)",
            "",
            "Time grows with the size to the power of the slope of a straight line through the",
            "logarithms of both.",
            "",
            _table(slopes, ("against", "method", "last / first", "slope")),
            "",
        ]
    )


def _ratio(by_name: dict[str, dict[str, Any]], name: str) -> str:
    found = by_name.get(name, {})
    if "milliseconds" in found:
        return f"{found['milliseconds']:.1f}"
    return f"{found['ratio']:.2f}" if found else ""


def _goal(info: dict[str, Any]) -> str:
    goal: str = info["goal"]
    return goal.replace("<=", "≤").replace(">=", "≥")


def _candidates(
    by_name: dict[str, dict[str, Any]], kept: dict[str, dict[str, Any]]
) -> list[tuple[str, ...]]:
    return [
        (what, of, _ratio(by_name, name), _ratio(kept, name), _goal(by_name[name]))
        for name, (what, of) in CANDIDATES.items()
        if name in by_name
    ]


def _ranks(by_name: dict[str, dict[str, Any]]) -> list[str]:
    """Why bfloat16 is not kept."""
    if "test_bfloat16" not in by_name:
        return []
    ranks = by_name["test_bfloat16"]["ranks"]
    return [
        "Relevances in bfloat16 have a rank correlation with those in float32 of "
        f"{ranks['bfloat16']:.2f} (ResNet20",
        "trained on enlarged digits, median over layers); those of another batch have "
        f"{ranks['another batch']:.2f}.",
        "The quotient R / z magnifies the errors of outputs close to zero.",
    ]


def _overheads(benchmarks: list[Benchmark]) -> list[tuple[str, str]]:
    """What the pipeline costs beside its work."""
    return [
        (benchmark["extra_info"]["overhead"], f"{benchmark['stats']['median']:.1f}")
        for benchmark in benchmarks
        if "overhead" in benchmark["extra_info"]
    ]


def _table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> str:
    return tabulate(rows, header, "github", disable_numparse=True)


def _profile(benchmarks: list[Benchmark]) -> list[tuple[str, str]]:
    """What an ECQx step does, and its share of the time in percent, the largest first."""
    shares: dict[str, float] = defaultdict(float)
    for benchmark in benchmarks:
        for operator, share in benchmark["extra_info"].get("profile", {}).items():
            names = (what for part, what in OPERATORS.items() if part in operator)
            shares[next(names, "all other operators")] += 100 * share
    ordered = sorted(shares.items(), key=lambda entry: -entry[1])
    return [(what, f"{share:.1f}") for what, share in ordered]


def _machine() -> str:
    """Processor, cores and packages."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__.split('+')[0]}"


def _draw(curves: list[Curve]) -> None:
    """Write time against size, a panel for each kind of size."""
    colour = alt.Color(
        "method:N",
        title=None,
        scale=alt.Scale(domain=list(METHOD_COLOURS), range=list(METHOD_COLOURS.values())),
    )
    panels = []
    for kind, label in CURVES.items():
        rows = [
            {"method": curve.method, "size": size, "seconds": seconds}
            for curve in curves
            if curve.kind == kind
            for size, seconds in zip(curve.sizes, curve.seconds, strict=True)
        ]
        scale = alt.Scale(type="linear" if kind == "bits" else "log", zero=False)
        panels.append(
            alt.Chart({"values": rows}, width=230, height=180)
            .mark_line(point=True)
            .encode(
                x=alt.X(
                    "size:Q", title=label, scale=scale, axis=alt.Axis(format="~s", tickCount=4)
                ),
                y=alt.Y(
                    "seconds:Q",
                    scale=alt.Scale(type="log"),
                    axis=alt.Axis(format="~e", tickCount=4),
                ),
                color=colour,
            )
        )
    chart = alt.hconcat(*panels).to_dict() | {"config": print_config(len(METHOD_COLOURS))}
    png = vl_convert.vegalite_to_png(chart, vl_version=VEGA_LITE, scale=1.6)
    write_atomically(FIGURE, lambda path: path.write_bytes(png))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
