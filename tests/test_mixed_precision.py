"""Mixed precision: each weight has its own bit width, and is quantized as it would be alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import running
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import Refused, Run, in_this_process, record
from torch import nn

import ecqx
from ecqx.assignment.assign import assign, assign_layers
from ecqx.assignment.centroids import CentroidGrid, GridStack
from ecqx.assignment.mixed_precision import bits_of_weights, checked_bits
from ecqx.assignment.settings import AssignmentSettings
from ecqx.coding.checkpoint import read_state
from ecqx.coding.inspection import inspect
from ecqx.methods.registry import build_method

place, run, refused = running.place, running.run, running.refused
MIXED = {"conv1": 5, "layer3": 3, "linear": 8, "*": 2}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    st.lists(st.integers(2, 8), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.05, 0.7, 5.0]),
    st.booleans(),
    st.sampled_from(["published", "derived"]),
)
def test_a_layer_is_assigned_as_it_would_be_alone(
    widths: list[int], lam: float, is_relevant: bool, formula: Any
) -> None:
    """Whatever the longest grid of the stack is."""
    weights = [drawn(300, seed=seed) for seed in range(len(widths))]
    relevances = [drawn(300, seed=seed + 50) for seed in range(len(widths))]
    grids = [CentroidGrid.fit(w, bits) for w, bits in zip(weights, widths, strict=True)]
    indices = [torch.empty(300, dtype=torch.int32) for _ in widths]
    settings = AssignmentSettings(lam, lambda_max=formula)
    stack = GridStack.of(grids)
    own = relevances if is_relevant else None
    assign_layers([""] * len(widths), weights, stack, settings, own, 300, indices)
    for weight, relevance, grid, index in zip(weights, relevances, grids, indices, strict=True):
        alone = assign(weight, grid, lam, relevance if is_relevant else None, lambda_max=formula)
        assert torch.equal(index, alone)


def test_which_part_decides() -> None:
    names = ["conv1", "conv10", "layer1.0.conv1", "layer3.0.conv1", "layer3.0.conv2", "linear"]
    weights = {f"{name}.weight": [f"{name}.weight"] for name in names}

    def widths(bits: dict[str, int]) -> dict[str, int]:
        found = bits_of_weights(checked_bits(bits), weights)
        return {name.removesuffix(".weight"): width for name, width in found.items()}

    # A module of this name, not all weights with it in their name.
    assert widths({"conv1": 5}) == {**dict.fromkeys(names, 4), "conv1": 5}
    # No module begins like this: every name that has it.
    of_conv2 = widths({"conv2": 3, "*": 6})
    assert [name for name in names if of_conv2[name] == 3] == ["layer3.0.conv2"]
    # The part that fewer weights have, in any order.
    for bits in ({"layer3": 3, "layer3.0.conv2": 7}, {"layer3.0.conv2": 7, "layer3": 3}):
        assert widths(bits)["layer3.0.conv2"] == 7
        assert widths(bits)["layer3.0.conv1"] == 3
    tied = {"encoder.weight": ["encoder.weight", "decoder.weight"]}
    assert bits_of_weights({"decoder": 2, "*": 4}, tied) == {"encoder.weight": 2}


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({"conv9": 3}, "bits: no quantized weight has 'conv9' in its name"),
        ({"conv1": 3, "bn1": 3}, "bits: no quantized weight has 'bn1' in its name"),
        ({"layer3": 9}, "layer3: bits must be an integer from 2 to 8, not 9"),
        ({"": 3}, "bits are given by parts of names, and '' is none"),
        ({"layer3.0.co": 3, "yer3.0.con": 4}, "give layer3.0.conv1.weight different widths"),
        ("4", "bits must be an integer from 2 to 8, not '4'"),
    ],
)
def test_parts_that_do_not_fit(bits: Any, message: str) -> None:
    model = ecqx.models.build("resnet20", num_classes=10)
    with pytest.raises(ValueError, match=message) as caught:
        ecqx.ECQx(model, bits=bits)
    assert "\n" not in str(caught.value)


def test_grids_files_and_states_have_each_weights_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ecqx.models.build("resnet20", num_classes=10)
    quantizer = ecqx.ECQx(model, bits=MIXED, lam=0.1)
    widths = quantizer.bit_widths
    assert widths["conv1.weight"] == 5
    assert widths["layer1.0.conv1.weight"] == 2
    assert {widths[name] for name in widths if name.startswith("layer3")} == {3}
    for name, grid in quantizer.grids.items():
        assert len(grid.values) == 2 ** widths[name]
        assert quantizer.weights[name].unique().numel() <= 2 ** widths[name]
    assert "5 bit" in quantizer.summary()
    assert {r.name: r.bits for r in quantizer.parameter_records() if r.quantized} == widths
    path = tmp_path / "model.ecqx"
    ecqx.save(path, quantizer)
    stored = {t.name: t.bits for t in inspect(path).tensors if t.bits}
    assert stored == widths
    for name, tensor in ecqx.load(path).items():
        assert torch.equal(tensor, model.state_dict()[name])
    quantizer.save_checkpoint(tmp_path / "model.safetensors")
    again = read_state(tmp_path / "model.safetensors")
    assert torch.equal(again["conv1.weight"], model.state_dict()["conv1.weight"])

    torch.manual_seed(1)
    other = ecqx.ECQx(ecqx.models.build("resnet20", num_classes=10), bits=MIXED, lam=0.1)
    other.load_state_dict(quantizer.state_dict())
    x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
    for one in (quantizer, other):
        one.update(x, y)
    for name, k in quantizer.integers().items():
        assert torch.equal(k, other.integers()[name])


def test_equal_widths_by_name_are_one_width() -> None:
    def integers(bits: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        return ecqx.ECQx(model, bits=bits, lam=0.2).integers()

    for mixed, plain in zip(integers({"0": 3, "2": 3}).values(), integers(3).values(), strict=True):
        assert torch.equal(mixed, plain)


def test_a_method_has_no_one_width_then() -> None:
    method = build_method("ECQ", {"bits": {"conv1": 5}, "lam": 0.1})
    assert method.bit_width is None
    assert method.settings()["bits"] == {"*": 4, "conv1": 5}


def test_run_takes_bits_by_part(run: Run) -> None:
    network = ("--dataset", "digits", "--model", "mlp_gsc", "--model_rand_int")
    code, out, _ = run(*network, "--epochs", 1, "--bits_of", "1=6", "--bits_of", "9=3")
    assert code == 0
    assert "ECQ, 4 bit (1 6, 9 3), Lambda 0.05" in out
    (file,) = Path("results").glob("*.ecqx")
    assert "4bit_1=6_9=3" in file.name
    assert record(Path("results"))["settings"]["bitwidth"] == {"*": 4, "1": 6, "9": 3}
    stored = {t.name: t.bits for t in inspect(file).tensors if t.bits}
    assert stored["1.weight"] == 6
    assert stored["9.weight"] == 3
    assert stored["11.weight"] == stored["3.weight"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bits_of", "1"), "--bits_of: 1 has no bits, 1=BITS"),
        (("--bits_of", "1=9"), "--bits_of: '1=9' is not PART=BITS"),
        (("--bits_of", "../1=3"), "--bits_of: '../1=3' is not PART=BITS"),
        (("--bits_of", "1=3", "--bits_of", "1=4"), "--bits_of: 1 is given twice"),
        (("--bits_of", "1=3", "--quantizer", "EC2T"), "--bits_of is for ECQ"),
        (("--bits_of", "conv=3"), "bits: no quantized weight has 'conv' in its name"),
    ],
)
def test_what_run_refuses(refused: Refused, options: tuple[str, ...], message: str) -> None:
    assert message in refused("--dataset", "digits", "--model", "mlp_gsc", *options)


def test_encode_takes_bits_by_part(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = in_this_process(monkeypatch, capsys, "encode")
    torch.save(ecqx.models.build("resnet20").state_dict(), "resnet20.pt")
    code, _, _ = encode("resnet20.pt", "-o", "resnet20.ecqx", "--bits_of", "conv1=8")
    assert code == 0
    bits = {t.name: t.bits for t in inspect(Path("resnet20.ecqx")).tensors if t.bits}
    assert [name for name, width in bits.items() if width == 8] == ["conv1.weight"]
    code, _, error = encode("resnet20.pt", "-o", "resnet20.ecqx", "--bits_of", "fc=8")
    assert code == 2
    assert error == "ecqx: resnet20.pt: bits: no quantized weight has 'fc' in its name\n"


def test_the_sample_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "search.md").read_text()
    samples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names: dict[str, Any] = {"ecqx": ecqx}
    exec(samples[-1], names)
    widths = names["quantizer"].bit_widths
    assert widths["conv1.weight"] == 5
    assert widths["layer1.0.conv1.weight"] == 4
    assert widths["layer3.0.conv1.weight"] == 3
    assert "5 bit" in capsys.readouterr().out
