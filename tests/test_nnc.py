"""Standard NNC bitstreams: NNCodec's own decoder reads what is written, value by value."""

from __future__ import annotations

import math
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nncodec.extensions import deepCABAC
from torch import Tensor, nn

import ecqx
import ecqx.errors
from ecqx.assignment.centroids import CentroidGrid
from ecqx.assignment.codebooks import Codebook
from ecqx.coding import nnc_tensors, nnc_units
from ecqx.coding.entropy_coder import Coding
from ecqx.coding.nnc_bitstream import load_nnc
from ecqx.coding.nnc_inspection import inspect_nnc, is_nnc
from ecqx.coding.quantized import CodebookTensor, CodedState, QuantizedTensor
from ecqx.methods.registry import build_method, method_class
from ecqx.training.settings import FitSettings
from stages.sweeps import Run

# NNCodec prints, takes seconds to import and ends its process on an error: it gets its own.
DECODE = """
import sys
import numpy as np
from nncodec import nn
for path in sys.argv[1:]:
    decoded = nn.decode(bytearray(open(path, "rb").read()))
    np.savez(path + ".npz", **{f"{i:03d} {name}": a for i, (name, a) in enumerate(decoded.items())})
"""


def by_nncodec(*paths: Path) -> list[dict[str, np.ndarray]]:
    """What the package itself decodes, names in its order."""
    names = [str(path) for path in paths]
    subprocess.run([sys.executable, "-c", DECODE, *names], check=True, capture_output=True)
    decoded = []
    for name in names:
        with np.load(f"{name}.npz") as arrays:
            decoded.append({key.partition(" ")[2]: arrays[key] for key in arrays.files})
    return decoded


def same_bits(found: np.ndarray, expected: Tensor) -> bool:
    """Whether an array, loaded into a tensor of this type, is this tensor bit by bit."""
    loaded = torch.from_numpy(found).to(expected.dtype).reshape(expected.shape)
    # Zeros may lose their sign.
    return torch.equal(loaded, expected)


class Model(nn.Module):
    """Layers and buffers of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second, self.last = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)
        self.register_buffer("index", torch.arange(-4, 8).reshape(3, 4))
        self.register_buffer("float16", torch.randn(7).half())
        self.register_buffer("float64", torch.randn(3, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("number", torch.tensor(2.5))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("infinite", torch.tensor([0.0, -math.inf]))
        self.register_buffer("huge", torch.tensor([2**40]))


def trained_by_nobody() -> Model:
    torch.manual_seed(0)
    model = Model()
    model.norm(torch.randn(32, 16, 4, 4) * 2 + 1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def exported(path: Path, model: object) -> str:
    """Write a file; the warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        size = ecqx.export_nnc(path, model)
    assert size.total == path.stat().st_size
    assert len(caught) <= 1
    return str(caught[0].message) if caught else ""


def test_nncodec_reads_every_weight_as_it_is(tmp_path: Path) -> None:
    """Steps of 8 bits and of 24, two to eight bits a weight, and codebooks."""
    quantizers = {
        "exact": ecqx.ECQx(trained_by_nobody(), bits=4),
        "nnc": ecqx.ECQx(trained_by_nobody(), bits=4, step="nnc"),
        "two": ecqx.ECQx(trained_by_nobody(), bits=2),
        "eight": ecqx.ECQx(trained_by_nobody(), bits=8, lam=0.0),
        "ternary": ecqx.EC2T(trained_by_nobody()),
        "sums": ecqx.FantastIC4(trained_by_nobody()),
    }
    paths = [tmp_path / f"{name}.nnc" for name in quantizers]
    for path, quantizer in zip(paths, quantizers.values(), strict=True):
        exported(path, quantizer)
    left_out = {"empty", "infinite", "huge", "norm.num_batches_tracked"}
    for path, quantizer, decoded in zip(
        paths, quantizers.values(), by_nncodec(*paths), strict=True
    ):
        state, quantized = quantizer.coded_state()
        assert list(decoded) == [name for name in state if name not in left_out]
        for name, tensor in quantized.items():
            assert same_bits(decoded[name], tensor.values()), (path.name, name)
        ours = load_nnc(path)
        assert list(ours) == list(decoded)
        for name, found in decoded.items():
            assert same_bits(found, ours[name]), (path.name, name)
        # A model takes what was decoded, whatever the types: all but what was left out.
        loaded = {name: torch.from_numpy(found) for name, found in decoded.items()}
        missing, unexpected = trained_by_nobody().load_state_dict(loaded, strict=False)
        # PyTorch itself makes up for the counter.
        assert set(missing) == left_out - {"norm.num_batches_tracked"}
        assert not unexpected
    # Integers with a step of 8 bits need no codebook.
    assert paths[1].stat().st_size < paths[0].stat().st_size


def test_layers_of_one_value_and_of_every_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = [(1,), (7,), (1, 9), (9, 1), (1, 1), (3, 4, 5), (2, 3, 2, 3, 2), (40, 300)]
    tensors = {}
    for number, shape in enumerate(shapes):
        k = torch.randint(-8, 8, shape)
        empty_rows = k.clone()
        empty_rows[::2] = 0
        kinds = {"any": k, "zero": 0 * k, "one": 0 * k + 3, "rows": empty_rows}
        for name, integers in kinds.items():
            for step in (0.1, 0.25):
                tensors[f"{name}.{number}.{step}"] = QuantizedTensor(integers, step, 4)
    # Eight bits without a sign: the largest weight has more bits than the smallest.
    tensors["unsigned"] = QuantizedTensor(torch.arange(256).reshape(16, 16), 0.0123, 8)
    state = {name: tensor.values() for name, tensor in tensors.items()}
    assert exported(tmp_path / "odd.nnc", CodedState(state, tensors)) == ""
    (decoded,) = by_nncodec(tmp_path / "odd.nnc")
    ours = load_nnc(tmp_path / "odd.nnc")
    for name, expected in state.items():
        assert decoded[name].shape == tuple(expected.shape)
        assert same_bits(decoded[name], expected), name
        assert torch.equal(ours[name], expected), name


def test_a_model_that_was_loaded_from_a_file_keeps_its_weights(tmp_path: Path) -> None:
    """Nothing says that they are quantized but their few values."""
    quantizer = ecqx.ECQx(trained_by_nobody(), bits=4)
    model = trained_by_nobody()
    model.load_state_dict(quantizer.model.state_dict())
    exported(tmp_path / "a.nnc", quantizer)
    exported(tmp_path / "b.nnc", model)
    of_quantizer, of_model = load_nnc(tmp_path / "a.nnc"), load_nnc(tmp_path / "b.nnc")
    for name in quantizer.weights:
        assert torch.equal(of_model[name], of_quantizer[name])
        assert torch.equal(of_model[name], model.state_dict()[name])


def test_what_the_syntax_cannot_hold_is_named_in_one_line(tmp_path: Path) -> None:
    model = trained_by_nobody()
    line = exported(tmp_path / "model.nnc", model)
    assert "\n" not in line
    for what in (
        "model.nnc: ",
        "number as a tensor of one dimension",
        "index and 1 more as int32",
        "float16 as float32",
        "norm.num_batches_tracked left out (counters)",
        "more rounded to 24 bits",
        "float64 rounded to float32",
        "empty left out (empty)",
        "infinite left out (not finite, or 2^30 and more)",
        "huge left out (beyond int32)",
    ):
        assert what in line
    (decoded,) = by_nncodec(tmp_path / "model.nnc")
    assert decoded["index"].dtype == np.int32
    for name in ("index", "float16", "mask", "number"):
        assert same_bits(decoded[name], model.state_dict()[name])
    for name in ("first.weight", "second.bias", "norm.running_var", "float64"):
        expected = model.state_dict()[name].numpy().astype(np.float64)
        assert np.abs(decoded[name] - expected).max() <= np.abs(expected).max() * 2.0**-24
        np.testing.assert_allclose(decoded[name], expected, rtol=2.0**-11, atol=0)


@pytest.mark.parametrize("spread", [1, 6, 7, 30, 120])
def test_floats_are_exact_within_31_bits_of_the_largest(spread: int) -> None:
    """And rounded to the nearest multiple of its 31st bit elsewhere; or to fewer bits."""
    rng = np.random.default_rng(spread)
    values = np.ldexp(rng.uniform(1, 2, 500), rng.integers(-spread, 1, 500)).astype(np.float32)
    values *= rng.choice([-1, 1], 500)
    values[:2] = np.nextafter(np.float32(2), np.float32(0)), 0
    coded, is_exact = nnc_tensors.fixed_point(values)
    found = coded.values()
    assert is_exact == bool((found == values).all())
    assert is_exact or spread > 6
    error = np.abs(found.astype(np.float64) - values)
    assert error.max() <= 2.0**-31
    # Two to the seventh below the largest binade every float32 still is a multiple.
    assert (error[np.abs(values) >= 2.0**-6] == 0).all()
    fewer, _ = nnc_tensors.fixed_point(values, 24)
    error = np.abs(fewer.values().astype(np.float64) - values)
    assert error.max() <= 2.0**-24
    assert (error <= np.maximum(2.0**-11 * np.abs(values), 2.0**-31)).all()
    # What has eleven bits from the start stays as it is.
    half = values[np.abs(values) >= 2.0**-6].astype(np.float16).astype(np.float32)
    assert (nnc_tensors.fixed_point(half, 24)[0].values() == half).all()


def test_the_largest_and_the_smallest_numbers() -> None:
    for values in ([2.0**30 * (1 - 2.0**-24)], [0.0], [1e-45, -1e-45], [3.0], [-0.0]):
        array = np.array(values, np.float32)
        coded, _ = nnc_tensors.fixed_point(array)
        unit = nnc_tensors.encode("x", coded, False)
        found = nnc_tensors.decode(unit, nnc_tensors.PARAMETERS).values()
        assert np.abs(found - array).max() <= max(2.0**-65, abs(values[0]) * 2.0**-31)
    with pytest.raises(ValueError, match="finite values below"):
        nnc_tensors.fixed_point(np.array([2.0**30], np.float32))


def test_a_step_for_nnc_has_eight_bits_and_moves_little() -> None:
    torch.manual_seed(0)
    for scale in (1e-6, 0.02, 0.3, 7.0):
        weight = torch.randn(999) * scale
        plain, rounded = CentroidGrid.fit(weight, 4), CentroidGrid.fit(weight, 4, step="nnc")
        assert (plain.zero, len(plain)) == (rounded.zero, len(rounded))
        assert abs(rounded.step / plain.step - 1) <= 2.0**-8
        assert math.frexp(rounded.step)[0] * 256 % 1 == 0
        levels = np.arange(-3, 4, dtype=np.int32)
        coded = nnc_tensors.on_grid(levels, rounded.step)
        assert coded is not None
        assert (coded.codebook == ()) == (rounded.step < 1)
    with pytest.raises(ValueError, match=r"^step must be one of float32, nnc, not 'seven'$"):
        CentroidGrid.fit(weight, 4, step="seven")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^step is a setting of grids; trained centroids"):
        ecqx.EC2T(nn.Linear(4, 4), step="nnc")


def test_the_step_is_a_setting_of_grids_in_a_suite() -> None:
    """At its default it is no part of a run's identity: earlier results keep their names."""
    chosen = build_method("ECQ", {"bits": 4, "lam": 0.1, "step": "nnc"})
    usual = build_method("ECQ", {"bits": 4, "lam": 0.1})
    runs = [
        Run("task", "grid", "ECQ", method, FitSettings(epochs=1, lr=0.1), 0, {}, {})
        for method in (chosen, usual)
    ]
    assert runs[0].settings["step"] == runs[0].record["settings"]["step"] == "nnc"
    assert "step" not in runs[1].settings
    assert runs[0].run_id != runs[1].run_id
    assert "step" not in method_class("EC2T").takes()


def test_what_nncodec_writes_is_read(tmp_path: Path) -> None:
    """Dependent quantization, integers, a unit for the topology: as the package decodes it."""
    program = (
        "import sys, numpy as np; from nncodec import nn; r = np.random.default_rng(0);"
        "m = {'a.weight': r.normal(size=(9, 7)).astype('f4'), 'b': r.normal(size=5).astype('f4'),"
        "'n': np.array([3, -4], 'i4')};"
        "[open(f'{sys.argv[1]}/{d}.nnc', 'wb').write(nn.encode(m, {'results': sys.argv[1],"
        " 'use_dq': bool(d), 'approx_method': 'codebook' if d == 2 else 'uniform'}))"
        " for d in range(3)]"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    paths = [tmp_path / f"{number}.nnc" for number in range(3)]
    for path, decoded in zip(paths, by_nncodec(*paths), strict=True):
        ours = load_nnc(path)
        assert list(ours) == list(decoded)
        assert all(same_bits(found, ours[name]) for name, found in decoded.items())


def test_info_of_a_bitstream(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantizer = ecqx.ECQx(nn.Linear(40, 30), bits=4, step="nnc")
    exported(tmp_path / "model.nnc", quantizer)
    info = inspect_nnc(tmp_path / "model.nnc")
    assert info.size.total == (tmp_path / "model.nnc").stat().st_size
    weight, bias = info.tensors
    (integers,) = quantizer.integers().values()
    assert (weight.kind, weight.bits, weight.shape) == ("quantized", 4, (30, 40))
    assert weight.step == quantizer.grids["weight"].step
    assert weight.sparsity == pytest.approx(float((integers == 0).float().mean()))
    assert (bias.kind, bias.bits, bias.dtype) == ("float", None, "float32")
    codebook = Codebook.of("values", torch.tensor([-0.3, 0.7]))
    tensor = CodebookTensor(torch.tensor([[0, 1], [-1, 1]]), codebook)
    ecqx.export_nnc(tmp_path / "book.nnc", CodedState({"w": tensor.values()}, {"w": tensor}))
    (record,) = inspect_nnc(tmp_path / "book.nnc").tensors
    assert record.numbers == tuple(codebook.numbers.tolist())


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.nnc"
    with pytest.raises(ecqx.errors.InputError, match=r"^float_bits must be an integer from 16"):
        ecqx.export_nnc(path, {"w": torch.ones(2)}, float_bits=32)
    for name in ("layer_G", "x.weight_H", "zero\0byte"):
        with pytest.raises(ecqx.errors.InputError, match=r"for a factor$"):
            ecqx.export_nnc(path, {name: torch.ones(2)})
    bad = QuantizedTensor(torch.tensor([[99]]), 0.5, 4)
    with pytest.raises(ecqx.errors.InputError, match=r"^tensor w: holds integers from 99"):
        ecqx.export_nnc(path, CodedState({"w": torch.ones(1, 1)}, {"w": bad}))
    assert not path.exists()
    exported(path, {"w": torch.randn(4, 4), "n": torch.tensor([1])})
    good = path.read_bytes()
    assert is_nnc(path)
    for damaged in (good[:-1], good[:9], good + b"\0\5", b"ECQX", b"", good[:4] + good[9:]):
        path.write_bytes(damaged)
        with pytest.raises(ecqx.errors.InputError, match=r"^[^\n]*model.nnc[^\n]*$"):
            load_nnc(path)
    with pytest.raises(ecqx.errors.InputError, match="no such file"):
        load_nnc(tmp_path / "none.nnc")


def test_what_few_bytes_announce_is_refused_at_once(tmp_path: Path) -> None:
    """Elements without end, a shape, a codebook, a name or a number of any size."""
    path = tmp_path / "model.nnc"
    unit = nnc_units.Unit("w", (4, 4), b"\xff" * 16_000, 256)
    forged = [
        nnc_units.pack(nnc_tensors.PARAMETERS, [replace(unit, shape=shape)])
        for shape in [(1, 1 << 24), (1 << 31, 2), (0, 1 << 60), ()]
    ]
    valid = nnc_units.pack(nnc_tensors.PARAMETERS, [replace(unit, codebook=(-1, 0, 1), zero=1)])
    at = valid.index(b"w\0") + 2
    # Numbers without end where a shape and a codebook begin.
    forged += [
        valid[:at] + bits + bytes(15_000) + valid[at + 15_001 :] for bits in (b"\x18", b"\x40")
    ]
    forged.append(valid.replace(b"w\0", b"w" * 2))
    for data in forged:
        path.write_bytes(data)
        started = time.process_time()
        with pytest.raises(ecqx.errors.InputError, match=r"^[^\n]*model.nnc[^\n]*$"):
            load_nnc(path)
        assert time.process_time() - started < 1


def test_a_step_beyond_float32_is_refused() -> None:
    encoder = deepCABAC.Encoder()
    encoder.iae_v(6, 0)
    Coding(1).encode(encoder, np.ones((3, 1), np.int32))
    unit = nnc_units.Unit("x", (3,), bytes(encoder.finish()), 1)
    one = nnc_tensors.decode(unit, nnc_units.ParameterSet(0, 0)).values()
    assert one.tolist() == [1, 1, 1]
    for qp in (-4096, 4095):
        with pytest.raises(ValueError, match="impossible step"):
            nnc_tensors.decode(unit, nnc_units.ParameterSet(0, qp))


def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    """Every byte changed, one at a time: an error or other numbers, nothing else."""
    path = tmp_path / "model.nnc"
    torch.manual_seed(0)
    exported(path, ecqx.ECQx(nn.Linear(6, 5), bits=3))
    good = path.read_bytes()
    refused = 0
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        with suppress(ecqx.errors.InputError):
            load_nnc(path)
            continue
        refused += 1
    assert refused > len(good) // 4
