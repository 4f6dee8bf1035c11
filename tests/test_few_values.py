"""Weights that another method quantized: found out, and stored value by value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Run, in_this_process
from torch import Tensor

import ecqx
from ecqx.coding import bitstream
from ecqx.coding.checkpoint import read_state
from ecqx.coding.few_values import equidistant, few_valued
from ecqx.coding.inspection import inspect
from ecqx.coding.quantized import CodebookTensor, CodedState, QuantizedTensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def lsq(bits: int) -> Tensor:
    """Rounded to a trained step, which nothing makes a round number."""
    step, half = torch.tensor(0.0371), 2 ** (bits - 1)
    return (noise(64, 64) / step).round().clamp(-half, half - 1) * step


def ternary() -> Tensor:
    w = noise(64, 64)
    return torch.where(w > 0.07, 0.1312, torch.where(w < -0.07, -0.0927, 0.0))


def affine() -> Tensor:
    """Eight bits with a zero point, as post-training quantization does it."""
    w, scale, zero = noise(64, 64), torch.tensor(0.00311), 117
    return ((w / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def eight_bit_float() -> Tensor:
    return noise(64, 64).to(torch.float8_e4m3fn)


FEW: dict[str, tuple[Callable[[], Tensor], type]] = {
    "lsq of 2 bits": (lambda: lsq(2), QuantizedTensor),
    "lsq of 4 bits": (lambda: lsq(4), QuantizedTensor),
    "affine": (affine, QuantizedTensor),
    "ternary": (ternary, CodebookTensor),
    "float8": (lambda: eight_bit_float().float(), CodebookTensor),
    "float8 itself": (eight_bit_float, CodebookTensor),
    "half": (lambda: ternary().half(), CodebookTensor),
    "signs": (lambda: noise(64, 64).sign(), QuantizedTensor),
    "zeros": (lambda: torch.zeros(64, 64), QuantizedTensor),
}


@pytest.mark.parametrize("name", FEW)
def test_few_values_are_found_and_restored_exactly(name: str, tmp_path: Path) -> None:
    make, kind = FEW[name]
    weight = make()
    found = few_valued({"w": weight})
    assert type(found["w"]) is kind
    assert torch.equal(found["w"].values(), weight.float())
    # The coder takes what was found, and the file is smaller than the values.
    size = bitstream.save(tmp_path / "w.ecqx", CodedState({"w": weight}, found))
    assert torch.equal(bitstream.load(tmp_path / "w.ecqx")["w"], weight.float())
    assert size.total < weight.float().nbytes / (1.5 if "float8" in name else 3)


@pytest.mark.parametrize(
    "weight",
    [
        noise(64, 64),
        noise(64, 64).bfloat16(),
        noise(3, 3).half(),  # nine values, which a codebook of nine would not make smaller
        torch.arange(257.0).repeat(40),  # zero and one number too many
        torch.full((40, 40), float("nan")),
        torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64).repeat(99),  # not in float32
        torch.tensor([1, 2]).repeat(99),
        torch.zeros(0, 4),
    ],
)
def test_many_values_and_what_would_not_be_exact_are_left(weight: Tensor) -> None:
    assert few_valued({"w": weight}) == {}


def test_a_step_is_found_though_its_first_multiples_are_not_used() -> None:
    for step in (np.float32(0.1), np.float32(1e-3), np.float32(7.77), np.float32(1e-38)):
        for integers in ([-3, 2, 3, 4], [-1, 0, 1], [5, 6, 7, 8, 9, 10, 11], [0, 3, 4, 5]):
            k = torch.tensor(integers, dtype=torch.int32)
            values = k.float() * torch.tensor(step)
            found = equidistant(values)
            assert found is not None
            assert torch.equal(found[1].float() * torch.tensor(found[0]), values)
    assert equidistant(torch.tensor([-0.0927, 0.0, 0.1312])) is None


# -- ecqx encode -----------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_this_process(monkeypatch, capsys)


def test_encode_keeps_what_is_quantized_and_says_so(tmp_path: Path, run: Run) -> None:
    state = {
        "first.weight": noise(16, 9, seed=1),
        "second.weight": ternary(),
        "third.weight": lsq(4),
        "third.bias": noise(64),
        "position": noise(8, 4),
    }
    path, output = tmp_path / "model.pt", tmp_path / "model.ecqx"
    torch.save(state, path)
    code, out, error = run("encode", path, "-o", output)
    assert (code, error) == (0, "")
    assert "tensors with few values (16 at most), stored without loss: 2\n" in out
    assert "others are not quantized (--bitwidth): first.weight" in out
    assert "position" in out
    for name, tensor in bitstream.load(output).items():
        assert torch.equal(tensor, state[name]), name
    # Asked for, the others are quantized, too.
    assert run("encode", path, "-o", output, "--bitwidth", 3)[0] == 0
    kinds = {record.name: record.bits for record in inspect(output).tensors}
    assert (kinds["first.weight"], kinds["second.weight"]) == (3, 2)
    assert torch.equal(bitstream.load(output)["third.weight"], state["third.weight"])


def test_encode_takes_a_standard_bitstream(tmp_path: Path, run: Run) -> None:
    quantizer = ecqx.ECQx(torch.nn.Linear(40, 30, bias=False), bits=4)
    ecqx.export_nnc(tmp_path / "a.nnc", quantizer)
    assert run("encode", tmp_path / "a.nnc", "-o", tmp_path / "a.ecqx")[0] == 0
    decoded = bitstream.load(tmp_path / "a.ecqx")["weight"]
    assert torch.equal(decoded, quantizer.coded_state()[0]["weight"])


def test_encode_says_that_it_quantizes_anew_what_has_a_scale_for_each_channel(
    tmp_path: Path, run: Run
) -> None:
    scales = torch.linspace(0.01, 0.07, 40)[:, None]
    state = {
        "scaled.weight": (noise(40, 200) / scales).round().clamp(-8, 7) * scales,
        "plain.weight": noise(40, 200, seed=1),
    }
    torch.save(state, tmp_path / "model.pt")
    code, out, _ = run("encode", tmp_path / "model.pt", "-o", tmp_path / "model.ecqx")
    assert code == 0
    assert "few values in each row, but not in all, so quantized anew: scaled.weight\n" in out
    assert "stored without loss" not in out


@pytest.mark.parametrize("name", ["spars45", "spars64", "spars73"])
def test_published_ternary_networks_are_coded_without_loss(
    name: str, tmp_path: Path, run: Run, shared: Path
) -> None:
    path, output = shared / "models" / f"resnet20_ec2t_{name}.pt", tmp_path / "model.ecqx"
    assert run("encode", path, "-o", output)[0] == 0
    expected = read_state(path)
    decoded = bitstream.load(output)
    assert list(decoded) == list(expected)
    assert all(torch.equal(decoded[name], tensor) for name, tensor in expected.items())
    found = [record for record in inspect(output).tensors if record.kind == "quantized"]
    assert len(found) == 18
    assert {record.bits for record in found} == {2}
