"""Progress shown on a terminal; nothing is shown if stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_T = TypeVar("_T")


@contextmanager
def announced(doing: str) -> Iterator[None]:
    """Show ``doing`` while the block runs, for work whose progress is unknown."""
    with tqdm(desc=f"{doing} …", bar_format="{desc}", leave=False, disable=None):
        yield


def counted(items: Collection[_T], doing: str, unit: str, shown: bool = True) -> Iterator[_T]:
    """Iterate over items with a progress bar if ``shown``, which is removed at the end."""
    yield from tqdm(items, desc=doing, unit=unit, leave=False, disable=None if shown else True)
