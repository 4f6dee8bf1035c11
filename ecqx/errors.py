"""The error for bad input, and the warning for input of which a part has no effect."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


class InputWarning(UserWarning):
    """Input of which a part has no effect: files that are skipped, names that match nothing.

    Commands print it as one line, without a place in the code.
    """


@contextmanager
def warnings_to(say: Callable[[str], object]) -> Iterator[None]:
    """Within the block ``say`` gets each `InputWarning` as one line; others are shown as before."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            say(" ".join(str(message).split()))
        else:
            before(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
