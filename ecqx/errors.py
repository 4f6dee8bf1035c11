"""The error for bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: one line that names what is wrong and what would be right.

    Commands print it without a traceback and exit with code 2.
    """


@contextmanager
def input_errors(start: str) -> Iterator[None]:
    """Turn a ``ValueError`` of the block into an `InputError`.

    ``start`` begins the message: the file or option in question.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(f"{start}{error}") from error
