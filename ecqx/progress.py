"""What a person at a terminal sees while something takes seconds; silent everywhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

_T = TypeVar("_T")


@contextmanager
def sign(doing: str) -> Iterator[None]:
    """Show one line while the block runs, for work that cannot say how far it is.

    Parameters
    ----------
    doing : str
        What is being done; the line goes away when it is.
    """
    with tqdm(desc=f"{doing} …", bar_format="{desc}", leave=False, disable=None):
        yield


def counted(items: Collection[_T], doing: str, unit: str, shown: bool = True) -> Iterator[_T]:
    """Go through items under a progress bar.

    Parameters
    ----------
    items : collection
    doing : str
        Shown before the bar, which goes away at the end.
    unit : str
        What one item is.
    shown : bool
        Whether to show a bar at all: a library is quiet unless it is asked.

    Yields
    ------
    object
        The items.
    """
    yield from tqdm(items, desc=doing, unit=unit, leave=False, disable=None if shown else True)
