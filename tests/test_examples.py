"""The examples run as they stand, at a small setting, and end with what they promise."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import running
import torch

import ecqx
from ecqx import models

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
# What a script needs beyond what the tests need, by its name.
NEEDS = {"lightning_module": "lightning", "hf_trainer": "transformers"}
# An image folder.
tree = running.tree


@pytest.fixture
def example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run the main of a script in an empty folder; returns what it prints."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(name: str, *arguments: object) -> str:
        if name in NEEDS:
            pytest.importorskip(NEEDS[name])
        main = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)["main"]
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def percent(pattern: str, text: str) -> float:
    """The number before a per cent sign, behind a pattern."""
    found = re.search(pattern + r" *([\d.]+)%", text)
    assert found, text
    return float(found[1])


def test_a_network_of_torchvision_on_a_folder_of_pictures(example: Any, tree: Path) -> None:
    torch.manual_seed(0)
    torch.save(models.build("squeezenet1_1", num_classes=10).state_dict(), "mine.pt")
    small = ("--size", 24, "--epochs", 1, "--model", "squeezenet1_1")
    out = example("image_folder", tree, *small, "--weights", "mine.pt", "--output", "m.ecqx")
    assert "features.0.weight" in out
    state = ecqx.load("m.ecqx")
    assert state["classifier.1.weight"].shape == (3, 512, 1, 1)
    size, smaller = re.search(r"m\.ecqx: ([\d,]+) bytes, ([\d.]+) times smaller", out).groups()
    assert int(size.replace(",", "")) == Path("m.ecqx").stat().st_size
    assert float(smaller) > 4


def test_grouped_and_depthwise_convolutions(example: Any) -> None:
    out = example("depthwise", "--epochs", 2, "--lam", 0.02)
    assert percent("from the file:", out) == percent("quantized:", out) > 40
    assert Path("depthwise.ecqx").stat().st_size < 5000
    assert Path("depthwise.onnx").stat().st_size > 0
    assert re.search(r"features\.3\.weight +32×1×3×3 +288 +4 bit", out)


def test_a_transformer(example: Any) -> None:
    out = example("transformer", "--epochs", 1)
    assert percent("ECQ:", out) > 30
    assert percent("ECQx:", out) > 30
    assert re.search(r"encoder\.layers\.0\.self_attn\.in_proj_weight +96×32 +3,072 +4 bit", out)
    assert "excluded by 'positions'" in out
    assert ecqx.load("transformer.ecqx")["positions"].shape == (8, 32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "file"), [("lightning_module", "lightning"), ("hf_trainer", "transformers")]
)
def test_trainers_of_others(example: Any, name: str, file: str) -> None:
    out = example(name, "--epochs", 2)
    assert percent("full precision:", out) > 60
    assert percent("from the file:", out) > 60
    assert f"{file}.ecqx: {Path(f'{file}.ecqx').stat().st_size:,} bytes" in out


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert f"pip install 'ecqx[{NEEDS[name]}]'" in str(caught.value)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_explains_itself(
    script: Path, example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        example(script.stem, "--help")
    assert caught.value.code == 0
    docstring = ast.get_docstring(ast.parse(script.read_text()))
    assert docstring is not None
    assert docstring in capsys.readouterr().out
    assert f"python examples/{script.name}" in docstring


def test_each_example_has_its_line() -> None:
    text = (EXAMPLES / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w.]+)\)", text))
    assert linked == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}


# -- the notebook ----------------------------------------------------------------------------------


def read_notebook() -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(EXAMPLES / "demo.ipynb", as_version=4)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = read_notebook()
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = read_notebook()
    monkeypatch.setenv("ECQX_DEMO_EPOCHS", "2")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    # The digits, clusters, relevance, the training as it develops, relevance as it develops.
    assert len(pictures) == 5
    assert all(len(picture.data["image/png"]) > 5000 for picture in pictures)
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "The loaded networks predict, to the last bit, what the saved ones do." in text
    ecq, ecqx_ = (re.search(rf"^{method} .*x smaller$", text, re.M) for method in ("ECQ", "ECQx"))
    assert ecq is not None
    assert ecqx_ is not None
    for line in (ecq[0], ecqx_[0]):
        assert percent("", line) > 80
    assert "17,024 of 17,226 elements are quantized" in text
