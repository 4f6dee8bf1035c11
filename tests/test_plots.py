"""The page of `dvc plots show`: a browser without a network shows the plots of a suite."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import chromium, requests

from stages import plots

REPOSITORY = Path(__file__).parents[1]
PIPELINE = """plots:
  - accuracy against sparsity:
      template: scatter
      x: sparsity
      y:
        FOLDERcurves.csv: accuracy
"""


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two suites with plots, and the settings of DVC that the project has."""
    folder = tmp_path_factory.mktemp("plots")
    dvc(folder, "init", "--no-scm", "--quiet")
    shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc" / "config")
    with (folder / ".dvc" / "config").open("a") as config:
        config.write("    no_scm = true\n")
    (folder / "params.yaml").write_text("suite: embedded\n")
    (folder / "dvc.yaml").write_text(PIPELINE.replace("FOLDER", ""))
    other = folder / "suites" / "mini"
    other.mkdir(parents=True)
    (other / "params.yaml").write_text("suite: mini\n")
    (other / "dvc.yaml").write_text(PIPELINE.replace("FOLDER", "../../"))
    (folder / "curves.csv").write_text("sparsity,accuracy\n0.5,0.97\n0.8,0.95\n")
    return folder


def page(folder: Path) -> Path:
    return folder / "dvc_plots" / "index.html"


def test_without_the_template_dvc_writes_its_own_page(repository: Path) -> None:
    dvc(repository, "plots", "show")
    assert '<script src="https://' in page(repository).read_text()


@pytest.mark.parametrize("suite", ["", "mini"])
def test_plots_are_drawn_without_a_network(
    repository: Path, suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    page(repository).unlink(missing_ok=True)
    assert plots.main([suite]) == 0
    with chromium(tmp_path) as browser:
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.get(page(repository).as_uri())
        drawn = browser.execute_async_script(
            "const done = arguments[0];"
            "const look = () => { const all = document.querySelectorAll('canvas, svg.marks');"
            " all.length ? done([...all].map(e => e.getBoundingClientRect().width))"
            " : setTimeout(look, 50); }; look();"
        )
        asked = [address for address in requests(browser) if address.startswith(("http", "file"))]
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert len(drawn) == 1
    assert drawn[0] > 100
    assert asked == [page(repository).as_uri()]
    assert errors == []


def test_from_then_on_dvc_alone_takes_the_template(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert plots.main(["--template-only"]) == 0
    dvc(repository, "plots", "show")
    content = page(repository).read_text()
    assert "<script src=" not in content
    # Of both suites.
    assert content.count("vegaEmbed('#") == 2
