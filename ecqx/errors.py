"""The error of bad input: one line that names what is wrong and what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input of a user: its message is one line, shown without a traceback, exit code 2."""


@contextmanager
def input_errors(start: str) -> Iterator[None]:
    """Make a ``ValueError`` of the block, which is about a user's input, an `InputError`.

    Parameters
    ----------
    start : str
        Put in front of the message: the file or the option that it is about.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(f"{start}{error}") from error
