"""Paths on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecqx.files import expanded


class _Path(click.Path):
    """A path whose ``~`` is the home folder, in ``--results=~/x`` too, which shells leave alone."""

    def convert(self, value: Any, *place: Any) -> Path:
        path = super().convert(value, *place)
        assert isinstance(path, Path)
        return expanded(path)


PATH = _Path(path_type=Path)
