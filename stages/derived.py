"""What the pipeline derives from the runs of a suite: files of numbers and words, and verdicts.

Figures and the page are left out: they show the same numbers, and their bytes depend on the
libraries that draw them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ecqx.report.regression import Difference

CLAIMS = "claims.md"
_ENDINGS = (".csv", ".json", ".md", ".tex")
# The runs themselves, what they are judged by, and what made them.
_NOT_DERIVED = ("metrics.json", "baseline.json", "provenance.json")
_NOW = {True: "changed", False: "missing"}


def checksums(results: Path) -> dict[str, str]:
    """Checksum of each derived file, by its path in the folder of the suite's results."""
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.suffix in _ENDINGS and path.name not in _NOT_DERIVED
    }


def verdicts(results: Path) -> dict[str, str]:
    """The verdicts that the results come to; empty where there is no ``claims.md`` yet."""
    path = results / CLAIMS
    return read_verdicts(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_verdicts(claims: str) -> dict[str, str]:
    """Claim → verdict, from the first table of ``claims.md``, whose last column has them."""
    rows: list[list[str]] = []
    for line in claims.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip().strip("*") for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    if not rows or rows[0][-1] != "verdict":
        return {}
    # The second row only separates the head from the body.
    return {", ".join(claim): verdict for *claim, verdict in rows[2:]}


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """One difference for each file, or folder of files, whose checksums are not the same."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in sorted({*old, *new}):
        folders[name.split("/")[0]].append(name)
    found = []
    for folder, names in folders.items():
        changed = [name for name in names if old.get(name) != new.get(name)]
        if changed and names == [folder]:
            states = ("present" if folder in old else "missing", _NOW[folder in new])
            found.append(Difference(folder, "file", *states))
        elif changed:
            found.append(Difference(folder, "files", len(names), f"{len(changed)} changed"))
    return found


def changed_verdicts(
    old: Mapping[str, str], new: Mapping[str, str], counts: bool
) -> list[Difference]:
    """One difference for each claim whose verdict is not the same."""
    return [
        Difference(
            claim, "verdict", old.get(claim, "missing"), new.get(claim, "missing"), counts=counts
        )
        for claim in {**old, **new}
        if old.get(claim) != new.get(claim)
    ]
