"""The documentation: builds, its links lead somewhere, its samples run, its errors are real."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import pytest
import torch
import torchvision
import yaml
from running import Run, in_this_process, write_tree
from torchvision.models.resnet import BasicBlock, ResNet

import ecqx
from ecqx import models
from ecqx.cli import main as cli
from ecqx.experiment.settings import RunSettings
from stages.settings.base import checked
from stages.settings.suite import Suite

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", *PAGES]
by_name = functools.partial(pytest.mark.parametrize, ids=lambda value: value.name)


# -- the site --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page of the site links to, what it fetches, and what can be linked to on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if "src" in values:
            self.fetched.append(values["src"])
        if "href" in values:
            (self.fetched if tag == "link" else self.links).append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, but elsewhere."""
    out = tmp_path_factory.mktemp("docs") / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    # Pages of results are copies, and not made of these texts.
    return {path: Page(path) for path in site.glob("*.html")}


def test_every_text_is_a_page(site: Path) -> None:
    assert {page.stem for page in PAGES} == {page.stem for page in site.glob("*.html")} - {"404"}


def test_links_and_anchors_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    local = 0
    for path, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            assert target.is_relative_to(site), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
            local += 1
    assert local > 500


def test_the_site_fetches_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not [link for link in page.fetched if urlsplit(link).netloc], path.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*['\"]?https?:", sheet.read_text()), sheet.name


def test_formulas_are_set_without_a_script(site: Path) -> None:
    formulas = 0
    for path in site.glob("*.html"):
        html = path.read_text()
        assert "arithmatex" not in html, path.name
        for formula in re.findall(r"<math .*?</math>", html, re.S):
            # A command that was not understood is shown as it is written.
            assert "\\" not in formula, formula
            formulas += 1
    assert formulas > 50


def test_the_options_of_each_command_are_listed(site: Path) -> None:
    html = (site / "command-line.html").read_text()
    for name, command in cli.cli.commands.items():
        assert f"ecqx {name}" in html
        for option in command.params:
            if isinstance(option, click.Option):
                assert f"<code>{option.opts[0]}</code>" in html


# -- links of texts as they are read on GitHub -----------------------------------------------------


def github_anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a text."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code(text), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


@by_name("path", TEXTS)
def test_texts_link_to_files_of_the_repository(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text())):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https"
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), f"{path.name}: {link}"
        assert target.is_relative_to(ROOT), f"{path.name}: {link}"
        if parts.fragment:
            assert parts.fragment in github_anchors(target.read_text()), f"{path.name}: {link}"


def test_intervals_are_those_of_committed_results() -> None:
    results = "\n".join(path.read_text() for path in (ROOT / "results").rglob("*.md"))
    quoted = {
        (path.name, interval)
        for path in TEXTS
        for interval in re.findall(r"−?\d+\.\d+ \[−?\d+\.\d+, −?\d+\.\d+\]", path.read_text())
    }
    assert len(quoted) > 50
    assert {pair for pair in quoted if pair[1] not in results} == set()


def test_the_readme_shows_the_way() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for target in ("docs/index.md", "docs/own-model.md", "docs/method.md", "docs/faq.md"):
        assert f"]({target})" in text


# -- Python samples --------------------------------------------------------------------------------


def fenced(path: Path, language: str) -> list[tuple[str, str]]:
    """The title, empty without one, and content of each fenced block of a language."""
    pattern = rf'^```{language}(?: title="(.*?)")?\n(.*?)^```'
    return re.findall(pattern, path.read_text(), re.M | re.S)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photographs and a checkpoint, and a small network for a large one."""
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "photos", train=5, test=1, side=32)
    torch.save(models.build("resnet20").state_dict(), "resnet20.pt")

    def resnet18(weights: str | None = None, **settings: Any) -> torch.nn.Module:
        # Pre-trained weights would be downloaded; and half of the blocks take half of the time.
        assert weights in (None, "DEFAULT")
        return ResNet(BasicBlock, [1, 1, 1, 1], **settings)

    monkeypatch.setattr(torchvision.models, "resnet18", resnet18)
    return tmp_path


def test_python_samples_of_a_model_of_ones_own(here: Path) -> None:
    names: dict[str, Any] = {}
    blocks = fenced(ROOT / "docs/own-model.md", "python")
    assert len(blocks) == 6
    for _, code in blocks:
        exec(code, names)
    assert Path("photos.ecqx").stat().st_size == names["size"].total
    # The file holds the network as it was trained, and the pieces are what the text calls them.
    trained = names["quantizer"].model.state_dict()
    restored = names["model"].state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in trained.items())
    assert names["relevance"]["conv1.weight"].shape == names["index"].shape


def test_python_samples_of_the_readme(here: Path) -> None:
    # What the text presumes: the file that the command above wrote, and batches of data.
    Path("results").mkdir()
    network = torchvision.models.resnet18(num_classes=3)
    ecqx.save("results/resnet18_folder_4bit_lam0.05.ecqx", network)
    batches = [(torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2]))]
    names = {"torch": torch, "torchvision": torchvision, "ecqx": ecqx, "batches": batches}
    blocks = fenced(ROOT / "README.md", "python")
    assert len(blocks) == 2
    exec(blocks[1][1], names)
    restored = names["model"].state_dict()
    assert all(torch.equal(restored[name], t) for name, t in network.state_dict().items())
    exec(blocks[0][1], names)
    whole = Path("results/resnet18_folder_4bit_lam0.05.ecqx").stat().st_size
    assert Path("model.ecqx").stat().st_size < whole / 7


# -- shell samples ---------------------------------------------------------------------------------


def joined(text: str) -> str:
    """A text whose commands do not go on in the next line."""
    return text.replace("\\\n", " ")


def commands(path: Path) -> Iterator[str]:
    """Lines that call a program, in blocks of code and in code within a sentence."""
    text = joined(path.read_text())
    blocks = re.findall(r"^(?:    |\t)(.+)$", text, re.M)
    inline = re.findall(r"`([^`\n]+)`", text)
    for line in blocks + inline:
        yield re.sub(r"\s+#.*", "", line).strip()


def own_commands() -> list[str]:
    """All calls of ecqx with arguments in README, docs and help."""
    found = []
    helps = [click.Context(c, info_name="ecqx").get_help() for c in cli.cli.commands.values()]
    lines = [line for path in TEXTS for line in commands(path)]
    shown = joined("\n".join([*helps, cli.cli.help or ""]))
    lines += [line.strip() for line in shown.splitlines()]
    for line in lines:
        match = re.search(r"(?:^|\$\(|--no_python )(ecqx (?:[a-z]+)\b[^|>)\"]*)", line)
        if match and "…" not in line and "COMMAND" not in line and len(match[1].split()) > 2:
            found.append(match[1].strip())
    return sorted(set(found))


@pytest.mark.parametrize("line", own_commands())
def test_commands_are_ones_that_ecqx_understands(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    if {"-h", "--help"} & set(arguments):
        assert name in cli.cli.commands
        return
    context = cli.cli.commands[name].make_context(name, arguments)
    if name == "run":
        RunSettings(**context.params)


def test_samples_were_found() -> None:
    called = {line.split()[1] for line in own_commands()}
    assert called >= set(cli.cli.commands)


@by_name("path", TEXTS)
def test_targets_of_make_and_stages_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in commands(path):
        if match := re.match(r"(?:\w+=\S+ )*make ([a-z][a-z-]*)", line):
            assert match[1] in targets, line
        for stage in re.findall(r"(?:python -m stages\.|stages/run )(\w+)", line):
            assert (ROOT / "stages" / f"{stage}.py").is_file(), line


def test_the_quick_commands_do_what_the_texts_say(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Run = in_this_process(monkeypatch, capsys)
    text = (ROOT / "docs/command-line.md").read_text()
    for line in re.findall(r"^    ecqx ((?:encode|info|decode) .+)$", text, re.M)[:3]:
        code, out, error = run(*line.split())
        assert (code, error) == (0, "")
        assert "bytes" in out
    code, out, _ = run("info", "resnet20.ecqx", "--json")
    assert json.loads(out)["bytes"] == Path("resnet20.ecqx").stat().st_size


def test_the_minute_of_the_first_page(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Run = in_this_process(monkeypatch, capsys)
    text = (ROOT / "docs/index.md").read_text()
    lines = re.findall(r"^    ecqx (.+)$", text, re.M)
    assert lines == re.findall(r"^ +ecqx ((?:run|info) .+)$", cli.cli.help or "", re.M)
    # The same commands, with one batch an epoch and fewer of them.
    shorter = ["--max_batches", "1", "--epochs", "1", "--pretrain_epochs", "1"]
    assert run(*lines[0].split(), *shorter)[0] == 0
    assert run(*lines[1].split())[0] == 0
    names: dict[str, Any] = {}
    for _, code in fenced(ROOT / "docs/index.md", "python"):
        exec(code, names)
    assert "model" in names


# -- how to extend the suites ----------------------------------------------------------------------


def apply(root: Path, title: str, change: str) -> None:
    """Carry out a change that a text shows: its lines with and without marks, at one place."""
    lines = change.splitlines()
    before = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    after = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    path = root / title
    content = path.read_text()
    assert content.count(before) == 1, f"{title}: {before}"
    path.write_text(content.replace(before, after))


USE_ALL = """
import torch
torch.set_num_threads(2)  # or loops for a single one would be compiled
from pathlib import Path
from ecqx import models, weight_relevance
from ecqx.methods.registry import build_method
from stages.settings.suite import load_suite

suite = load_suite("flowers")
network = models.build("small_cnn", num_classes=3)
found = weight_relevance(
    network, torch.rand(2, 3, 32, 32), torch.tensor([0, 2]), composite="epsilon_plus_bn_pass"
)
assert set(found) == {"first.0.weight", "second.0.weight", "head.weight"}, set(found)
data = suite.data.sets["table"][0].build(Path(), 1)
assert [len(split) for split in (data.train, data.validation, data.test)] == [341, 114, 114]
assert torch.isfinite(models.build(**suite.tasks["mlp"].model)(data.test.inputs)).all()
assert build_method("rounded", {}).form_settings() == {"qp": -24, "dependent": False}
"""


def test_the_steps_to_extend_the_suites(tmp_path: Path) -> None:
    text = ROOT / "docs/extend.md"
    for folder in ("ecqx", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for title, code in fenced(text, "python"):
        assert title
        (tmp_path / title).write_text(code)
    for title, change in fenced(text, "diff"):
        apply(tmp_path, title, change)
    (title, suite), (_, variants) = fenced(text, "yaml")
    flowers = yaml.safe_load(suite)
    checked(Suite, flowers)
    # The changes that the sentences between the blocks describe.
    flowers["data"]["sets"]["table"] = [{"name": "breast_cancer", "seed": 0}]
    flowers["tasks"]["resnet20"]["model"] = {"name": "small_cnn", "num_classes": 3}
    mlp = {"name": "mlp_gsc", "in_features": 30, "num_classes": 2}
    flowers["tasks"]["mlp"] = {"data": "table", "model": mlp}
    flowers["pretrain"]["mlp"] = flowers["pretrain"]["resnet20"]
    task = flowers["quantize"]["tasks"]["resnet20"]
    compared = {"sweep": "comparison", "method": "rounded"}
    sweeps = [*task["sweeps"], *yaml.safe_load(variants), compared]
    flowers["quantize"]["tasks"]["mlp"] = {**task, "sweeps": sweeps}
    flowers["report"]["titles"]["mlp"] = "MLP"
    rules = {"trials": 1, "ratios": [4.0, 8.0]}
    flowers["report"]["comparison"] = {"loss": 0.01, "tasks": {"mlp": rules}}
    (tmp_path / title).parent.mkdir(parents=True)
    (tmp_path / title).write_text(yaml.safe_dump(flowers, sort_keys=False))
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", USE_ALL], cwd=tmp_path, env=environment, check=True, timeout=120
    )


# -- errors ----------------------------------------------------------------------------------------


ANYTHING = "…"


def told(node: ast.AST) -> str | None:
    """A string of the code, with a mark for each value that is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(told(part) or ANYTHING for part in node.values)
    return None


def as_pattern(text: str) -> re.Pattern[str]:
    """Where the mark may stand for anything."""
    return re.compile(".+".join(map(re.escape, text.split(ANYTHING))), re.S)


@pytest.fixture(scope="module")
def messages() -> dict[str, re.Pattern[str]]:
    """All strings of the code that are long enough to be a message, with their patterns."""
    trees = [
        ast.parse(path.read_text())
        for folder in ("ecqx", "stages")
        for path in (ROOT / folder).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    found = {told(node) or "" for node in nodes}
    # The reason follows what `input_errors` puts before it.
    found |= {
        f"{told(node.args[0])}{ANYTHING}"
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "input_errors"
    }
    # The installation speaks through a shell script.
    found |= set(re.findall(r'fail "([^"]+)"', (ROOT / "stages/setup").read_text()))
    return {text: as_pattern(text) for text in found if len(text.replace(ANYTHING, "")) >= 12}


def is_told(error: str, messages: dict[str, re.Pattern[str]]) -> bool:
    """Whether the code can say this."""
    pattern = as_pattern(error)
    return any(pattern.fullmatch(text) or said.fullmatch(error) for text, said in messages.items())


def quoted_errors() -> list[str]:
    text = (ROOT / "docs/faq.md").read_text()
    return re.findall(r"\*\*`([^`]+)`\*\*", text)


def test_errors_are_those_of_the_code(messages: dict[str, re.Pattern[str]]) -> None:
    assert not [error for error in quoted_errors() if not is_told(error, messages)]


def test_an_invented_error_is_noticed(messages: dict[str, re.Pattern[str]]) -> None:
    assert len(quoted_errors()) > 25
    assert not is_told("…: the moon is not there", messages)
