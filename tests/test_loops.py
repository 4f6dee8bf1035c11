"""The compiled loops of the assignment against numpy, and what numba may keep of them."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecqx.assignment import loops
from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid

FLOATS = st.floats(width=32, allow_nan=False)
LIBRARY = Path(loops.__file__).parents[1]
FILES = [path for path in sorted(LIBRARY.rglob("*.py")) if "compiled\ndef " in path.read_text()]


@settings(max_examples=60)
@given(st.lists(FLOATS, min_size=1, max_size=255), st.lists(FLOATS, max_size=40))
def test_lookup_and_counts(bounds: list[float], others: list[float]) -> None:
    """At the bounds, beside them and anywhere, in more than one block."""
    ends = np.sort(np.array(bounds, np.float32))
    with np.errstate(over="ignore"):
        around = [np.nextafter(ends, np.float32(end)) for end in (-np.inf, np.inf)]
    weight = np.concatenate([ends, *around, np.array(others, np.float32)])
    weight = np.resize(weight[np.isfinite(weight)], 2 * loops.BLOCK + 7)
    index, above = np.empty(weight.size, np.int32), np.empty(ends.size, np.int64)
    loops.lookup(weight, ends, index)
    loops.count_above(weight, ends, above)
    assert np.array_equal(index, np.searchsorted(ends, weight, side="left"))
    assert above.tolist() == [(weight > end).sum() for end in ends]


@given(st.lists(st.floats(1e-307, 1e308), min_size=1, max_size=30))
def test_logarithm(values: list[float]) -> None:
    # The mantissas in [√½, √2), where the series is cut off, of which Hypothesis draws few.
    x = np.array([*values, *np.linspace(0.7, 1.42, 999)])
    expected = np.array([math.log(value) for value in x])
    loops.take_logarithm(x)
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("n", [1, 511, 512, 513, 3000])
def test_thresholds_do_not_depend_on_the_place(n: int) -> None:
    """Each element is computed alike, wherever a block or a vector of instructions ends."""
    rng = np.random.default_rng(n)
    weight, relevance = rng.normal(size=(2, n)).astype(np.float32)
    clusters = (np.linspace(-1, 1, 5), rng.uniform(1, 2, 5), 2)
    nonzero, largest = rng.choice([0, 1, 3, 4], n).astype(np.int32), np.abs(relevance).max()
    t, shifted = np.empty(n), np.empty(n)
    counts = np.empty((2, loops.BINS + 2), np.int64)
    loops.zero_thresholds(weight, relevance, largest, 1e-12, nonzero, *clusters, t, counts[0])
    rolled = [np.roll(array, 3) for array in (weight, relevance, nonzero)]
    loops.zero_thresholds(
        rolled[0], rolled[1], largest, 1e-12, rolled[2], *clusters, shifted, counts[1]
    )
    assert np.array_equal(shifted, np.roll(t, 3))
    assert np.array_equal(*counts)
    assert counts[0, 0] == (t < 0).sum()
    assert counts[0, -1] == (t >= 1).sum()
    assert counts[0, 1] == ((t >= 0) & (t < 1 / loops.BINS)).sum()


# No vector instructions beyond those that every x86-64 processor has, in any library.
GENERIC = {
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "ATEN_CPU_CAPABILITY": "default",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-FMA,-FMA4",
}
ASSIGN = """
import sys
import torch
import safetensors.torch as files
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
sys.path.insert(0, sys.argv[1])
from test_loops import integers
files.save_file(integers(files.load_file(sys.argv[2])), sys.argv[3])
"""


def integers(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Grid and assignments of saved weights and relevances, by ECQ and ECQx."""
    result = {}
    for name in sorted(name for name in layers if name.startswith("weight")):
        weight, relevance = layers[name], layers[name.replace("weight", "relevance")]
        for bits in (2, 4, 5):
            grid = CentroidGrid.fit(weight, bits)
            result[f"{name} {bits} step"] = torch.tensor(grid.step)
            for lam in (0.01, 0.1):
                result[f"{name} {bits} {lam}"] = assign(weight, grid, lam)
                for band in ((-0.1, 0.0), (0.0, 0.05), (-1.0, 1.0)):
                    index = assign(weight, grid, lam, relevance, sparsity_band=band)
                    result[f"{name} {bits} {lam} {band}"] = index
    return result


def test_every_processor_assigns_the_same_integers(tmp_path: Path) -> None:
    layers, generator = {}, torch.Generator().manual_seed(0)
    for i, size in enumerate((9, 1000, 40_001)):
        layers[f"weight{i}"] = torch.randn(size, generator=generator) / 30
        layers[f"relevance{i}"] = torch.randn(size, generator=generator).mul(3).exp()
    given, result = tmp_path / "layers.safetensors", tmp_path / "integers.safetensors"
    save_file(layers, given)
    command = [sys.executable, "-c", ASSIGN, str(Path(__file__).parent), str(given), str(result)]
    subprocess.run(command, env=os.environ | GENERIC, check=True)
    restricted, native = load_file(result), integers(layers)
    assert restricted.keys() == native.keys()
    assert [name for name in native if not torch.equal(native[name], restricted[name])] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_machine_code_on_disk_depends_on_its_own_file_only(path: Path) -> None:
    """numba renews its cache when the file changes that a function stands in, and no other file.

    So compiled functions must not use functions or constants that are imported from elsewhere.
    """
    tree = ast.parse(path.read_text("utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and "compiled" in [ast.unparse(decorator) for decorator in node.decorator_list]
    ]
    used = {
        name.id
        for function in functions
        for statement in function.body
        for name in ast.walk(statement)
        if isinstance(name, ast.Name)
    }
    assert not used & imported
