"""What the options of several commands have in common: paths, and the defaults of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ecqx.files import expanded

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class _Path(click.Path):
    """A path whose ``~`` is the home folder, in ``--results=~/x`` too, which shells leave alone."""

    def convert(self, value: Any, *place: Any) -> Path:
        path = super().convert(value, *place)
        assert isinstance(path, Path)
        return expanded(path)


PATH = _Path(path_type=Path)


def options_of(settings: type) -> Callable[..., Decorator]:
    """`click.option` with the default of its setting, which is the last of its names."""

    def option(*names: str, **attributes: Any) -> Decorator:
        default = getattr(settings, names[-1].removeprefix("--"))
        if default is False:
            return click.option(*names, is_flag=True, **attributes)
        shown = default not in ("", ())
        return click.option(*names, default=default, show_default=shown, **attributes)

    return option
