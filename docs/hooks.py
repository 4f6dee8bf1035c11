"""What the site adds to mkdocs: formulas without a script, linked files, options of commands.

Formulas are written as on GitHub, ``$…$`` and ``$$…$$``, and become MathML, which browsers show by
themselves. Links that leave docs/ (results, code, settings) find a copy of their file in the site.
The options of a command stand in for ``<!-- options of COMMAND -->``.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import click
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from ecqx.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
# Folder of the site for files of the repository outside docs/.
COPIES = "repository"
# A link or a picture: what stands before a target outside docs/, and its path without an anchor.
OUTSIDE = re.compile(r"(\]\()\.\./([^)#\s]+)")
LINK = re.compile(r"\]\(([^)#:\s]+)")
OPTIONS = re.compile(r"<!-- options of (\w+) -->")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages link to, and those that these link to, each once."""
    pages = [file for file in files if file.is_documentation_page()]
    linked = {ROOT / path for page in pages for _, path in OUTSIDE.findall(page.content_string)}
    waiting = sorted(linked)
    for path in waiting:
        # A link to nothing stays as it is, and mkdocs warns of it.
        if not path.is_file():
            continue
        content = path.read_bytes()
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, f"{COPIES}/{name}", content=content))
        if path.suffix == ".md":
            further = {(path.parent / link).resolve() for link in LINK.findall(content.decode())}
            waiting += sorted(further - set(waiting))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Send links out of docs/ to the copies, and list the options of commands."""
    if page.file.src_uri.startswith(f"{COPIES}/"):
        return markdown
    markdown = OPTIONS.sub(lambda found: _options(found[1]), markdown)
    return OUTSIDE.sub(rf"\1{COPIES}/\2", markdown)


def _options(command: str) -> str:
    """A table of a command's arguments and options, in their order."""
    context = click.Context(cli.commands[command])
    rows = [_row(parameter, context) for parameter in context.command.params]
    return "\n".join(("| option | default | meaning |", "|---|---|---|", *rows))


def _row(parameter: click.Parameter, context: click.Context) -> str:
    info: dict[str, Any] = parameter.to_info_dict()
    if isinstance(parameter, click.Argument):
        return f"| `{parameter.make_metavar(context)}` | | {', '.join(_choices(info))} |"
    names = " ".join(f"`{name}`" for name in info["opts"])
    default = info["default"] if getattr(parameter, "show_default", False) else None
    choices = ", ".join(_choices(info))
    text = f"{info['help']} ({choices})" if choices else info["help"]
    required = "required" if info["required"] else ""
    return f"| {names} | {required or (f'`{default}`' if default is not None else '')} | {text} |"


def _choices(info: dict[str, Any]) -> list[str]:
    return [f"`{choice}`" for choice in info["type"].get("choices", ())]


def on_page_content(html: str, **_: Any) -> str:
    """Set the formulas."""
    return FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[2] == "[" else "inline"
    return convert(unescape(found[3]).strip(), display=display)
