"""What the site needs beside mkdocs: formulas without a script, and the files that pages link to.

Formulas are written as on GitHub, ``$…$`` and ``$$…$$``, and become MathML, which browsers show by
themselves. Links that leave docs/ (results, code, settings) find a copy of their file in the site.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Folder of the site for files of the repository outside docs/.
COPIES = "repository"
# A link or a picture: what stands before a target outside docs/, and its path without an anchor.
OUTSIDE = re.compile(r"(\]\()\.\./([^)#\s]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages link to, each once."""
    pages = [file for file in files if file.is_documentation_page()]
    linked = {path for page in pages for _, path in OUTSIDE.findall(page.content_string)}
    for path in sorted(linked):
        source = ROOT / path
        # A link to nothing stays as it is, and mkdocs warns of it.
        if source.is_file():
            content = source.read_bytes()
            files.append(File.generated(config, f"{COPIES}/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Send links out of docs/ to the copies."""
    if page.file.src_uri.startswith(f"{COPIES}/"):
        return markdown
    return OUTSIDE.sub(rf"\1{COPIES}/\2", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Set the formulas."""
    return FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[2] == "[" else "inline"
    return convert(unescape(found[3]).strip(), display=display)
