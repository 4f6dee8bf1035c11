"""The command line: what it writes and shows, and how it refuses bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Run, in_this_process
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecqx import models
from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid
from ecqx.coding import bitstream
from ecqx.coding.inspection import inspect


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, stdout, stderr."""
    return in_this_process(monkeypatch, capsys)


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must be refused with one line, which is returned."""

    def run_refused(*arguments: object) -> str:
        code, out, error = run(*arguments)
        assert code == 2
        assert out == ""
        assert error.startswith("ecqx: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        return error

    return run_refused


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator),
        "bn.num_batches_tracked": torch.tensor(12),
        "head.weight": torch.randn(10, 8, generator=generator),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(state(), path)
    return path


@pytest.fixture
def encoded(tmp_path: Path, checkpoint: Path, run: Run) -> Path:
    path = tmp_path / "model.ecqx"
    assert run("encode", checkpoint, "-o", path)[0] == 0
    return path


# -- encode ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 5])
@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_a_state_dict_is_quantized_by_ecq(
    tmp_path: Path, checkpoint: Path, run: Run, bits: int, lam: float
) -> None:
    path = tmp_path / "model.ecqx"
    code, out, error = run("encode", checkpoint, "-o", path, "--bitwidth", bits, "--Lambda", lam)
    assert (code, error) == (0, "")
    assert f"{path.stat().st_size:,} bytes" in out
    back = bitstream.load(path)
    for name, tensor in state().items():
        expected = tensor
        if tensor.dim() > 1:
            grid = CentroidGrid.fit(tensor, bits)
            expected = grid.values[assign(tensor, grid, lam, largest_layer_size=216)]
        assert torch.equal(back[name], expected), name


def test_excluded_tensors_stay_as_they_are(tmp_path: Path, checkpoint: Path, run: Run) -> None:
    path = tmp_path / "model.ecqx"
    assert run("encode", checkpoint, "-o", path, "--exclude", "head", "--exclude", "bias")[0] == 0
    kinds = {record.name: record.kind for record in inspect(path).tensors}
    assert (kinds["conv.weight"], kinds["head.weight"]) == ("quantized", "float")
    assert torch.equal(bitstream.load(path)["head.weight"], state()["head.weight"])


def test_published_floats(tmp_path: Path, checkpoint: Path, run: Run) -> None:
    path = tmp_path / "model.ecqx"
    assert run("encode", checkpoint, "-o", path, "--floats", "published")[0] == 0
    bias = bitstream.load(path)["conv.bias"]
    torch.testing.assert_close(bias, state()["conv.bias"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_torch_checkpoints(
    tmp_path: Path, run: Run, key: str | None, prefix: str, suffix: str
) -> None:
    path, output = tmp_path / f"model.{suffix}", tmp_path / "model.ecqx"
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in state().items()}
    torch.save(content if key is None else {key: content, "epoch": 3}, path)
    assert run("encode", path, "-o", output)[0] == 0
    assert set(bitstream.load(output)) == set(state())


def test_layers_of_zeros_of_one_element_and_of_none(tmp_path: Path, run: Run) -> None:
    path, output = tmp_path / "model.safetensors", tmp_path / "model.ecqx"
    odd = {
        "zero.weight": torch.zeros(4, 5),
        "one.weight": torch.tensor([[0.7]]),
        "none.weight": torch.zeros(0, 3),
        "half.weight": torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).half(),
    }
    save_file(odd, path)
    assert run("encode", path, "-o", output)[0] == 0
    back = bitstream.load(output)
    assert torch.equal(back["zero.weight"], odd["zero.weight"])
    assert torch.equal(back["none.weight"], odd["none.weight"])
    assert float(back["one.weight"]) == pytest.approx(0.7)
    assert run("info", output)[0] == 0


def test_a_quantizer_checkpoint_is_encoded_as_it_is(
    tmp_path: Path, run: Run, refused: Callable[..., str]
) -> None:
    quantizer = pytest.importorskip("ecqx.quantizers.ecqx")
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    path, output = tmp_path / "q.safetensors", tmp_path / "q.ecqx"
    quantizer.ECQx(model, bits=3, lam=0.1).save_checkpoint(path)
    assert run("encode", path, "-o", output)[0] == 0
    back = bitstream.load(output)
    assert list(back) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor), name
    assert inspect(output).tensors[0].bits == 3
    assert "is quantized already; leave out --bitwidth" in refused(
        "encode", path, "-o", output, "--bitwidth", 4
    )


# -- decode and info -------------------------------------------------------------------------------


def test_decoding_gives_the_state_dict_of_the_file(tmp_path: Path, encoded: Path, run: Run) -> None:
    output = tmp_path / "decoded.safetensors"
    code, _, error = run("decode", encoded, "-o", output)
    assert (code, error) == (0, "")
    decoded, expected = load_file(output), bitstream.load(encoded)
    assert decoded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert decoded[name].dtype == tensor.dtype
        assert torch.equal(decoded[name], tensor)


def test_a_file_in_formats_that_others_read(
    tmp_path: Path, encoded: Path, run: Run, refused: Callable[..., str]
) -> None:
    """NNC and back, and safetensors with the metadata that loaders of model hubs look for."""
    for suffix in ("nnc", "safetensors"):
        output = tmp_path / f"exported.{suffix}"
        code, out, error = run("export", encoded, "-o", output)
        assert code == 0
        assert f"{output.stat().st_size:,} bytes" in out
        assert ("left out (counters)" in error) == (suffix == "nnc")
    with safe_open(tmp_path / "exported.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    code, out, _ = run("info", tmp_path / "exported.nnc")
    assert code == 0
    assert "8×3×3×3" in out
    back = tmp_path / "back.safetensors"
    assert run("decode", tmp_path / "exported.nnc", "-o", back)[0] == 0
    decoded, expected = load_file(back), bitstream.load(encoded)
    assert torch.equal(decoded["conv.weight"], expected["conv.weight"])
    # What was quantized is found again.
    assert run("encode", back, "-o", tmp_path / "again.ecqx")[0] == 0
    again = bitstream.load(tmp_path / "again.ecqx")
    assert torch.equal(again["conv.weight"], expected["conv.weight"])
    for arguments, reason in {
        ("-o", tmp_path / "x.zip"): "--format must be one of nnc, onnx, safetensors",
        ("-o", tmp_path / "x.onnx"): "needs --model and --input, such as",
        ("-o", tmp_path / "x.nnc", "--input", "3x4"): "are options of --format onnx",
        ("-o", tmp_path / "x.onnx", "--model", "resnet20", "--input", "3xa"): "is no shape such as",
        (
            "-o",
            tmp_path / "x.onnx",
            "--model",
            "none",
            "--input",
            "3x8x8",
        ): "--model: 'none', but",
        ("-o", tmp_path / "x.onnx", "--model", "resnet20", "--input", "3x8x8"): "does not fit",
    }.items():
        assert reason in refused("export", encoded, *arguments)


def test_export_of_a_network_as_onnx(tmp_path: Path, run: Run) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = models.build("mlp_gsc", in_features=12, num_classes=3)
    path, output = tmp_path / "model.ecqx", tmp_path / "model.onnx"
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert run("encode", tmp_path / "model.pt", "-o", path)[0] == 0
    options = ("--model", "mlp_gsc", "--num_classes", 3, "--input", "12")
    assert run("export", path, "-o", output, *options)[0] == 0
    elements = sum(tensor.numel() for tensor in model.state_dict().values())
    assert output.stat().st_size < elements
    # What a file says of itself need not be said again, and is said in the others, too.
    about = {"model": "mlp_gsc", "classes": ["a", "b", "c"], "input": {"shape": [12]}}
    bitstream.save(path, bitstream.load_coded(path), metadata=about)
    for suffix in ("onnx", "safetensors"):
        assert run("export", path, "-o", tmp_path / f"again.{suffix}")[0] == 0
    properties = onnx.load(tmp_path / "again.onnx").metadata_props
    found = {item.key: item.value for item in properties}
    assert json.loads(found["classes"]) == ["a", "b", "c"]
    with safe_open(tmp_path / "again.safetensors", "pt") as file:
        assert file.metadata() == found | {"format": "pt"}


def test_info_is_a_table_of_all_tensors(encoded: Path, run: Run) -> None:
    code, out, _ = run("info", encoded)
    assert code == 0
    lines = out.splitlines()
    for column in ("tensor", "shape", "bits", "step", "sparsity", "entropy", "bytes", "ratio"):
        assert column in lines[0]
    for name in state():
        assert any(line.startswith(name) for line in lines)
    assert "8×3×3×3" in out
    assert f"{encoded.stat().st_size:,} bytes" in lines[-1]
    assert "compression ratio" in lines[-1]


def test_info_as_json(encoded: Path, run: Run) -> None:
    code, out, _ = run("info", encoded, "--json")
    assert code == 0
    content = json.loads(out)
    size = encoded.stat().st_size
    assert content["bytes"] == size == content["integer_bytes"] + content["other_bytes"]
    assert content["float_elements"] == 216 + 8 + 80
    assert content["compression_ratio"] == 4 * (216 + 8 + 80) / size
    by_name = {tensor["name"]: tensor for tensor in content["tensors"]}
    weight = by_name["conv.weight"]
    assert (weight["kind"], weight["bits"], weight["shape"]) == ("quantized", 4, [8, 3, 3, 3])
    assert content["quantized"]["elements"] == 216 + 80
    zeros = sum(int((t == 0).sum()) for t in bitstream.load(encoded).values() if t.dim() > 1)
    assert content["quantized"]["sparsity"] == pytest.approx(zeros / (216 + 80))


def test_info_of_a_file_without_quantized_tensors(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "plain.ecqx"
    bitstream.save(path, {"x": torch.tensor(1)})
    assert run("info", path)[0] == 0
    assert json.loads(run("info", path, "--json")[1])["quantized"]["sparsity"] is None


# -- refusals --------------------------------------------------------------------------------------


def test_weights_that_are_not_numbers(tmp_path: Path, refused: Callable[..., str]) -> None:
    path, output = tmp_path / "model.safetensors", tmp_path / "model.ecqx"
    save_file({"a.weight": torch.full((2, 2), float("nan"))}, path)
    assert "tensor a.weight: weight holds NaN" in refused("encode", path, "-o", output)
    assert not output.exists()


def test_checkpoints_that_are_none(tmp_path: Path, refused: Callable[..., str]) -> None:
    output = tmp_path / "model.ecqx"

    def message(name: str, content: object) -> str:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        error = refused("encode", path, "-o", output)
        assert str(path) in error
        return error

    assert "not a readable safetensors file" in message("a.safetensors", b"garbage")
    assert "is no checkpoint that can be loaded safely" in message("a.pt", b"garbage")
    assert "state_dict" in message("b.pt", nn.Linear(2, 2))
    assert "holds no state_dict" in message("c.pt", torch.zeros(3))
    assert "holds no state_dict" in message("d.pt", {})
    assert "holds no state_dict" in message("e.pt", {1: torch.zeros(2, 2)})
    assert "no tensor to quantize" in message("f.pt", {"bias": torch.zeros(3)})
    assert "tensor epoch: is not a dense tensor" in message(
        "g.pt", {"w": torch.ones(2, 2), "epoch": 3}
    )
    assert not output.exists()


def test_settings_that_are_wrong(
    tmp_path: Path, checkpoint: Path, run: Run, refused: Callable[..., str]
) -> None:
    output = tmp_path / "model.ecqx"
    for wrong in (["--bitwidth", 1], ["--bitwidth", 9], ["--Lambda", -1], ["--floats", "exact"]):
        code, _, error = run("encode", checkpoint, "-o", output, *wrong)
        assert code == 2
        assert "Traceback" not in error
        assert str(wrong[0]) in error
    assert run("encode", checkpoint)[0] == 2
    assert "Lambda" in refused("encode", checkpoint, "-o", output, "--Lambda", "nan")
    assert "'xyz'" in refused("encode", checkpoint, "-o", output, "--exclude", "xyz")
    assert "no regular file" in refused("encode", checkpoint, "-o", tmp_path)
    assert not output.exists()


def test_files_that_are_missing_or_damaged(
    tmp_path: Path, encoded: Path, refused: Callable[..., str]
) -> None:
    output = tmp_path / "out.safetensors"
    damaged = tmp_path / "damaged.ecqx"
    damaged.write_bytes(encoded.read_bytes()[:-1])
    for command in (["info"], ["decode", "-o", output]):
        assert "absent.ecqx: No such file" in refused(*command, tmp_path / "absent.ecqx")
        assert f"{damaged} is cut off" in refused(*command, damaged)
    assert "must end in .safetensors" in refused("decode", encoded, "-o", tmp_path / "out.pt")
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert "no regular file" in refused("decode", encoded, "-o", folder)
    assert "absent.pt: No such file" in refused("encode", tmp_path / "absent.pt", "-o", output)
    assert "absent.safetensors: No such file" in refused(
        "encode", tmp_path / "absent.safetensors", "-o", output
    )
    assert not output.exists()


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["encode", "decode", "info", "evaluate"])
def test_help_shows_an_example(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example:\n    ecqx {command} " in out


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from ecqx.cli import main as cli\n"
        "try: cli.main()\n"
        "finally: assert not {'torch', 'numpy', 'nncodec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, check=True)


def test_info_does_not_wait_for_torch(encoded: Path) -> None:
    script = (
        "import sys; from ecqx.cli import main as cli\n"
        "try: cli.main()\n"
        "finally: assert not {'torch', 'scipy', 'numba'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "info", encoded], capture_output=True, check=True, text=True
    )
    assert "compression ratio" in done.stdout


def test_info_shows_metadata(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m.ecqx"
    about = {"model": "resnet20", "classes": [f"class {i}" for i in range(99)], "input": {"k": [1]}}
    bitstream.save(path, state(), metadata=about)
    lines = run("info", path)[1].splitlines()
    assert "model    resnet20" in lines
    assert "input    k 1" in lines
    (classes,) = (line for line in lines if line.startswith("classes  class 0, class 1, "))
    assert classes.endswith("[...]")
    assert json.loads(run("info", path, "--json")[1])["metadata"] == about


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
def test_info_of_a_file_whose_name_is_latin_1(run: Run, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode("modèle.ecqx".encode("latin-1"))
    bitstream.save(path, nn.Linear(3, 2))
    code, out, _ = run("info", path)
    assert code == 0
    assert "mod\\udce8le.ecqx: " in out
    assert json.loads(run("info", path, "--json")[1])["file"] == str(path)
