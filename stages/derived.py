"""Files and verdicts that the pipeline derives from the runs of a suite.

Figures and the page are left out: they show the same numbers, and their bytes depend on the
libraries that draw them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ecqx.report.regression import Difference
from ecqx.report.statistics import grouped

CLAIMS = "claims.md"
_ENDINGS = (".csv", ".json", ".md", ".tex")
# The runs themselves, what they are judged by, and what made them.
_NOT_DERIVED = ("metrics.json", "baseline.json", "provenance.json")


def checksums(results: Path) -> dict[str, str]:
    """Checksum of each derived file, by its path in the folder of the suite's results."""
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.suffix in _ENDINGS and path.name not in _NOT_DERIVED
    }


def verdicts(results: Path) -> dict[str, str]:
    """Claim → verdict; empty before there is a ``claims.md``."""
    path = results / CLAIMS
    return read_verdicts(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_verdicts(claims: str) -> dict[str, str]:
    """Claim → verdict, from the first table of ``claims.md``, whose last column has them."""
    _, _, table = claims.partition("\n|")
    lines = table.partition("\n\n")[0].splitlines()
    rows = [[cell.strip().strip("*") for cell in line.strip("| ").split("|")] for line in lines]
    if not rows or rows[0][-1] != "verdict":
        return {}
    # The second row only separates the head from the body.
    return {", ".join(claim): verdict for *claim, verdict in rows[2:]}


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """One difference for each file, or folder of files, with other checksums."""
    found = []
    for folder, names in grouped(sorted({*old, *new}), lambda name: name.split("/")[0]).items():
        changed = [name for name in names if old.get(name) != new.get(name)]
        if changed and names == [folder]:
            now = "changed" if folder in new else "missing"
            found.append(Difference(folder, "file", "present" if folder in old else "missing", now))
        elif changed:
            found.append(Difference(folder, "files", len(names), f"{len(changed)} changed"))
    return found


def changed_verdicts(
    old: Mapping[str, str], new: Mapping[str, str], counts: bool
) -> list[Difference]:
    """One difference for each claim with another verdict."""
    missing = dict.fromkeys({**old, **new}, "missing")
    was, now = missing | dict(old), missing | dict(new)
    return [
        Difference(claim, "verdict", was[claim], now[claim], counts=counts)
        for claim in missing
        if was[claim] != now[claim]
    ]
