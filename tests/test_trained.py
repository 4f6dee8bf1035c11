"""EC2T and FantastIC4 on a model: gradients against autograd, the update, files and resuming."""

from __future__ import annotations

import hashlib
import struct
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_quantizer import METHODS, assert_same, batch, matrices, network, train, train_step
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from ecqx.assignment.assign import assign
from ecqx.assignment.codebooks import Codebook
from ecqx.cli.main import cli
from ecqx.coding.bitstream import load, save
from ecqx.coding.coded_state import read_coded_state, write_coded_state
from ecqx.coding.inspection import inspect
from ecqx.coding.quantized import CodebookTensor, CodedState
from ecqx.data import Split
from ecqx.errors import InputError
from ecqx.methods.registry import build_method
from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.ecqx import ECQx
from ecqx.quantizers.trained_centroids import EC2T, FantastIC4, TrainedQuantizer
from ecqx.relevance import LRP
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

QUANTIZERS: dict[str, type[TrainedQuantizer]] = {"EC2T": EC2T, "FantastIC4": FantastIC4}
both = pytest.mark.parametrize("kind", QUANTIZERS)
every_relevance = pytest.mark.parametrize("method", METHODS)


def made(kind: str, method: str = "ECQ", lam: float = 0.1, **settings: Any) -> TrainedQuantizer:
    """A quantizer on the small network, after a few steps so that its numbers are crooked."""
    q = QUANTIZERS[kind](network(), lam=lam, relevance=METHODS[method], **settings)
    train(q, 3)
    return q


def assert_from_codebook(q: TrainedQuantizer) -> None:
    """Each weight is the centroid at its integer, of the codebook that its row of numbers makes."""
    for row, (name, k) in zip(q.numbers.detach(), q.integers().items(), strict=True):
        centroids = sums_by_hand(q, row.numpy())
        zero = int((centroids < 0).sum())
        expected = centroids[k.numpy().astype(np.int64) + zero]
        np.testing.assert_array_equal(q.weights[name].detach().numpy(), expected)


def sums_by_hand(q: TrainedQuantizer, numbers: np.ndarray) -> np.ndarray:
    """Ascending centroids, float32, by numpy."""
    if isinstance(q, EC2T):
        return np.sort(np.append(numbers, np.float32(0)))
    choices = np.array(list(product([0, 1], repeat=len(numbers))), np.float64)
    total = np.zeros(len(choices))
    for number, chosen in zip(numbers.astype(np.float64), choices.T, strict=True):
        total += number * chosen
    return np.sort(total.astype(np.float32))


# -- the start -------------------------------------------------------------------------------------


@every_relevance
@pytest.mark.parametrize("lam", [0.0, 0.1, 0.5])
def test_fantastic4_starts_as_ecq_of_four_bits(method: str, lam: float) -> None:
    ours = FantastIC4(network(), lam=lam, relevance=METHODS[method])
    ecq = ECQx(network(), bits=4, lam=lam, relevance=METHODS[method])
    assert_same(ours.integers(), ecq.integers())
    assert_same(dict(ours.model.state_dict()), dict(ecq.model.state_dict()))


def test_ec2t_starts_with_three_clusters_around_zero() -> None:
    q = EC2T(network(), lam=0.02)
    for (low, high), weight in zip(q.numbers.tolist(), q.weights.values(), strict=True):
        assert low < 0 < high
        assert weight.unique().tolist() == pytest.approx([low, 0.0, high])


# -- gradients -------------------------------------------------------------------------------------


def dense_weight(q: TrainedQuantizer, numbers: Tensor, weight: Tensor) -> Tensor:
    """The weight as a dense function of the numbers: a matrix of memberships times the numbers.

    Which numbers a weight is made of is found by trying all subsets.
    """
    subsets = list(product([0, 1], repeat=len(numbers)))
    if isinstance(q, EC2T):
        subsets.remove((1, 1))
    choices = torch.tensor(subsets, dtype=torch.float64)
    sums = choices @ numbers.detach()
    subset = (weight.detach().double().flatten()[:, None] - sums).abs().argmin(1)
    return (choices[subset] @ numbers).reshape(weight.shape)


@both
@every_relevance
@pytest.mark.parametrize("gradient", ["magnitude", "identity"])
def test_the_gradient_of_the_numbers_is_autograd_of_a_dense_weight(
    kind: str, method: str, gradient: Any
) -> None:
    q = made(kind, method, gradient=gradient)
    x, y = batch(7)
    q.model.double().eval()
    q.model.zero_grad()
    F.cross_entropy(q.model(x.double()), y).backward()
    q.transfer_gradients()
    assert q.numbers.grad is not None

    dense = q.numbers.detach().double().requires_grad_()
    weights = {
        name: dense_weight(q, row, weight)
        for row, (name, weight) in zip(dense, q.weights.items(), strict=True)
    }
    F.cross_entropy(functional_call(q.model, weights, (x.double(),)), y).backward()
    assert dense.grad is not None
    torch.testing.assert_close(q.numbers.grad.double(), dense.grad, rtol=1e-4, atol=1e-6)
    assert (dense.grad.abs() > 1e-5).any(1).all()


@both
def test_gradients_do_not_accumulate(kind: str) -> None:
    q = made(kind)
    q.model.eval()
    seen = []
    for _ in range(2):
        q.model.zero_grad()
        F.cross_entropy(q.model(batch()[0]), batch()[1]).backward()
        q.transfer_gradients()
        assert q.numbers.grad is not None
        seen.append(q.numbers.grad.clone())
    assert seen[0].any()
    assert torch.equal(*seen)


@both
def test_a_frozen_layer_keeps_its_numbers(kind: str) -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    q = QUANTIZERS[kind](model, lam=0.1)
    start, frozen = q.numbers.detach().clone(), model[4].weight.detach().clone()
    train(q, 3)
    at = list(q.weights).index("4.weight")
    moved = [not torch.equal(a, b) for a, b in zip(start, q.numbers, strict=True)]
    assert moved == [row != at for row in range(len(start))]
    assert torch.equal(model[4].weight, frozen)


# -- the update ------------------------------------------------------------------------------------


@both
@every_relevance
def test_the_update_is_the_one_by_hand(kind: str, method: str) -> None:
    """A step on the numbers and the copies, new centroids, and the assignment to these."""
    q = made(kind, method)
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.05)
    numbers = q.numbers.detach().clone()
    copies = {name: copy.detach().clone() for name, copy in q.latent.items()}
    scale = {n: torch.where(w == 0, 1.0, w.detach().abs()) for n, w in q.weights.items()}
    x, y = batch(11)
    optimizer.zero_grad()
    F.cross_entropy(q.model(x), y).backward()
    raw = {name: weight.grad.clone() for name, weight in q.weights.items()}
    q.transfer_gradients()
    assert q.numbers.grad is not None
    stepped = numbers - 0.05 * q.numbers.grad
    if kind == "EC2T":  # neither crosses zero
        stepped = torch.stack([stepped[:, 0].clamp(max=0), stepped[:, 1].clamp(min=0)], dim=1)
    optimizer.step()
    q.update(x, y)
    torch.testing.assert_close(q.numbers.detach(), stepped)
    lambda_max: Any = "derived" if kind == "EC2T" else "published"
    for row, (name, copy) in zip(q.numbers.detach(), q.latent.items(), strict=True):
        wanted = copies[name] - 0.05 * raw[name] * scale[name]
        torch.testing.assert_close(copy.detach(), wanted)
        relevance = None if q.relevance is None else q.relevance.values[name]
        index = assign(
            copy,
            Codebook.of(q.form, row),
            0.1,
            relevance,
            largest_layer_size=q.largest_layer_size,
            lambda_max=lambda_max,
        )
        assert torch.equal(q.index[name], index)
    assert_from_codebook(q)


@both
@every_relevance
def test_training_moves_copies_numbers_and_assignments(kind: str, method: str) -> None:
    q = QUANTIZERS[kind](network(), lam=0.02, relevance=METHODS[method])
    numbers, copies, start = q.numbers.detach().clone(), matrices(q.model), q.integers()
    train(q, 6)
    assert (q.numbers != numbers).all()
    for name in q.weights:
        assert not torch.equal(q.latent[name], copies[name])
        assert not torch.equal(q.integers()[name], start[name])
    assert_from_codebook(q)


def test_relevance_matters() -> None:
    for kind in QUANTIZERS:
        plain, relevant = made(kind), made(kind, "ECQx stepped", p=0.3)
        assert any(not torch.equal(plain.index[n], relevant.index[n]) for n in plain.index)


def test_a_centroid_of_ec2t_that_crosses_zero_is_merged_with_it() -> None:
    q = made("EC2T")
    with torch.no_grad():
        q.numbers[1] = torch.tensor([-0.1, -0.3])
    q.update(*batch())
    name = list(q.weights)[1]
    assert q.numbers[1].tolist() == pytest.approx([-0.1, 0.0])
    assert set(q.integers()[name].unique().tolist()) <= {-1, 0}
    assert_from_codebook(q)
    train(q, 3)
    assert (q.numbers[:, 0] <= 0).all()
    assert (q.numbers[:, 1] >= 0).all()


@both
def test_layers_of_almost_zeros_and_of_one_element(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU())
    model.append(nn.Linear(1, 5))
    model[5].weight.data[1:].zero_()
    q = QUANTIZERS[kind](model)
    assert not q.integers()["5.weight"][1:].any()
    train(q, 2)
    assert_from_codebook(q)
    save(tmp_path / "q.ecqx", q)
    assert_same(load(tmp_path / "q.ecqx"), dict(model.state_dict()))


@both
def test_numbers_that_training_blew_up_are_named(kind: str) -> None:
    q = made(kind)
    with torch.no_grad():
        q.numbers[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"^4\.weight: codebook holds NaN or infinite values$"):
        q.update(*batch())


# -- state -----------------------------------------------------------------------------------------


@both
@every_relevance
def test_state_comes_back_into_another_model(kind: str, method: str) -> None:
    q = made(kind, method)
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    other = QUANTIZERS[kind](network(seed=9), lam=0.1, relevance=METHODS[method])
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)
    assert_from_codebook(other)
    train(other, 2)
    train(q, 2)
    assert_same(other.state_dict(), q.state_dict())


def test_a_state_of_something_else_is_refused() -> None:
    ternary, sums = made("EC2T"), made("FantastIC4")
    state = ternary.state_dict()
    lacking = {name: t for name, t in state.items() if name != "codebook.4.weight"}
    for wrong in (lacking, sums.state_dict(), ECQx(network()).state_dict()):
        with pytest.raises(ValueError, match="the state is not one of this quantizer"):
            ternary.load_state_dict(wrong)


@both
def test_an_interrupted_training_ends_like_an_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    inputs = torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    split = Split(inputs, inputs.flatten(1)[:, :5].argmax(1))

    def trainer(epochs: int) -> Trainer:
        q = QUANTIZERS[kind](network(), lam=0.05, relevance=LRP())
        fit = FitSettings(epochs=epochs, lr=0.01, batch_size=32, schedule="constant")
        return Trainer(q.model, split, split, fit, quantizer=q)

    whole = trainer(3)
    whole.fit()
    trainer(1).fit(resume=tmp_path / "epoch.pt")
    resumed = trainer(3)
    resumed.fit(resume=tmp_path / "epoch.pt")
    assert resumed.history == whole.history
    assert resumed.quantizer is not None
    assert whole.quantizer is not None
    assert_same(resumed.quantizer.state_dict(), whole.quantizer.state_dict())


# -- files -----------------------------------------------------------------------------------------


@both
@every_relevance
def test_the_file_holds_the_model(kind: str, method: str, tmp_path: Path) -> None:
    q = made(kind, method)
    path = tmp_path / "q.ecqx"
    size = save(path, q)
    assert_same(load(path), dict(q.model.state_dict()))
    assert path.read_bytes()[4] == 2  # version
    info = inspect(path)
    assert info.size == size
    coded = [record for record in info.tensors if record.kind == "quantized"]
    for row, record in zip(q.numbers, coded, strict=True):
        assert record.numbers == tuple(row.tolist())
        assert (record.form, record.bits, record.step) == (q.form, q.settings.bits, None)
    assert info.sparsity == pytest.approx(q.sparsity())


@both
def test_codebooks_count_to_the_floats(kind: str, tmp_path: Path) -> None:
    """Beside the integers a file with codebooks has four bytes a number, where a step has four."""
    q, ecq = made(kind), ECQx(network())
    ours, theirs = save(tmp_path / "a.ecqx", q), save(tmp_path / "b.ecqx", ecq)
    assert ours.other - theirs.other == 4 * (q.numbers.shape[1] - 1) * len(q.weights)


@both
def test_the_checkpoint_is_what_encode_takes(kind: str, tmp_path: Path) -> None:
    q = made(kind)
    q.save_checkpoint(tmp_path / "q.safetensors")
    coded = read_coded_state(tmp_path / "q.safetensors")
    assert_same(coded.state, dict(q.model.state_dict()))
    save(tmp_path / "a.ecqx", q)
    save(tmp_path / "b.ecqx", coded)
    assert (tmp_path / "a.ecqx").read_bytes() == (tmp_path / "b.ecqx").read_bytes()


def test_info_shows_the_codebook(tmp_path: Path) -> None:
    numbers = {"ternary": torch.tensor([-0.5, 0.25]), "sums": torch.tensor([1.0, 2.0, 4.0, -8.0])}
    k = torch.tensor([[0, 1, -1]])
    quantized = {
        "ternary": CodebookTensor(k, Codebook.of("values", numbers["ternary"])),
        "sums": CodebookTensor(k, Codebook.of("sums", numbers["sums"])),
    }
    state = {name: torch.zeros(1, 3) for name in quantized}
    write_coded_state(tmp_path / "q.safetensors", state, quantized)
    save(tmp_path / "q.ecqx", read_coded_state(tmp_path / "q.safetensors"))
    assert load(tmp_path / "q.ecqx")["ternary"].tolist() == [[0.0, 0.25, -0.5]]
    assert load(tmp_path / "q.ecqx")["sums"].tolist() == [[0.0, 1.0, -1.0]]
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "q.ecqx")]).output
    assert "-0.5, 0.25" in shown
    assert "1 + 2 + 4 + -8" in shown
    as_json = CliRunner().invoke(cli, ["info", "--json", str(tmp_path / "q.ecqx")]).output
    assert '"form": "sums"' in as_json


def test_integers_beyond_the_codebook_are_refused(tmp_path: Path) -> None:
    book = Codebook.of("values", torch.tensor([0.25, 0.5]))
    state = {"w": torch.zeros(2)}
    for wrong in ([-1, 0], [0, 3]):
        coded = {"w": CodebookTensor(torch.tensor(wrong), book)}
        with pytest.raises(InputError, match=r"tensor w: holds integers .* codebook allows 0 to 2"):
            save(tmp_path / "q.ecqx", CodedState(state, coded))


def sealed(version: int, body: bytes) -> bytes:
    digest = hashlib.blake2b(body, digest_size=16).digest()
    return b"ECQX" + bytes([version, len(body)]) + digest + body


HEADER = b"\1\1w\1\x10\0\x1c\5"  # a token, "w"; a tensor of that name, type 12, five elements
TWO = b"\2" + struct.pack("<2f", -0.5, 0.25)
PAYLOAD = b"\1\1\x8e\xe3\xfc"  # 1 0 -1 0 0


def test_the_worked_example_of_the_format(tmp_path: Path) -> None:
    """The bytes of docs/bitstream.md, written and read."""
    path = tmp_path / "w.ecqx"
    coded = CodebookTensor(
        torch.tensor([1, 0, -1, 0, 0]), Codebook.of("values", torch.tensor([-0.5, 0.25]))
    )
    size = save(path, CodedState({"w": torch.zeros(5)}, {"w": coded}))
    assert path.read_bytes() == sealed(2, HEADER + TWO + b"\5" + PAYLOAD)
    assert load(path)["w"].tolist() == [0.25, 0.0, -0.5, 0.0, 0.0]
    page = (Path(__file__).parents[1] / "docs" / "bitstream.md").read_text(encoding="utf-8")
    section = page.split("## Codebooks")[1].split("\n## ")[0]
    lines = [line[4:].split("  ")[0] for line in section.splitlines() if line.startswith("    ")]
    start, _, *body = lines  # the digest is not told
    assert path.read_bytes()[:6] == bytes.fromhex(start)
    assert path.read_bytes()[22:] == bytes.fromhex("".join(body))
    assert f"A file of {size.total} bytes" in section
    assert size.other == size.total - 5 - 2  # the payload, its length, and that of the body


@pytest.mark.parametrize(
    ("version", "body", "message"),
    [
        (1, HEADER + TWO + b"\0", "types of tensors are not those of version 1"),
        (2, b"\1\1w\1\x10\0\x02" + b"1234", "types of tensors are not those of version 2"),
        (2, HEADER + b"\0\0", "has 1 to 255 numbers, not 0"),
        (2, b"\1\1w\1\x10\0\x1d\2\x09" + b"0000" * 9 + b"\0", "has 1 to 8 numbers, not 9"),
        (2, HEADER + b"\2" + struct.pack("<2f", 1, np.nan) + b"\0", "NaN or infinite"),
        (2, HEADER + b"\3" + struct.pack("<2f", 1, 2), "ends too early"),
        (2, HEADER + TWO + b"\0", "0 bytes cannot hold 5"),
        (2, HEADER + b"\2" + struct.pack("<2f", 1, 2) + b"\5" + PAYLOAD, "codebook allows 0 to 2"),
    ],
)
def test_inconsistent_files_are_refused(
    version: int, body: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "forged.ecqx"
    path.write_bytes(sealed(version, body))
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


# -- by name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ECQ", "EC2T", "FantastIC4"])
def test_methods_are_built_by_name(name: str) -> None:
    bits = {"bits": 3} if name == "ECQ" else {}
    plain = build_method(name, {"lam": 0.2, **bits}).constrain(network(), 1)
    relevant = build_method(f"{name}x", {"lam": 0.2, "alpha": 0.3, **bits}).constrain(network(), 1)
    assert isinstance(plain, Quantizer)
    assert isinstance(relevant, Quantizer)
    assert type(plain) is type(relevant)
    assert plain.relevance is None
    assert relevant.relevance is not None
    assert relevant.relevance.lrp == LRP(alpha=0.3)
    assert plain.settings.bits == relevant.settings.bits
    with pytest.raises(ValueError, match=f"{name} has no setting 'alpha'"):
        build_method(name, {"lam": 0.2, "alpha": 0.3, **bits})
    with pytest.raises(ValueError, match="method must be one of ECQ, ECQx, EC2T"):
        build_method("ECQT", {"lam": 0.2})


def test_a_step_of_training_as_documented() -> None:
    for kind in QUANTIZERS.values():
        q = kind(network())
        optimizer = torch.optim.Adam(q.parameter_groups(weight_decay=0.1), lr=0.01)
        train_step(q, optimizer, *batch())
        *_, numbers = q.parameter_groups(weight_decay=0.1)
        assert numbers["params"] == [q.numbers]
        assert numbers["weight_decay"] == 0
