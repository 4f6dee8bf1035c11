"""overview"""

from __future__ import annotations

from pathlib import Path

from stages.verify.document import Section


def overview(_root: Path, _suite: str) -> Section:
    """x"""
    return Section("overview", "Overview", "", None)
