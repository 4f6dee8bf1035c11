"""The error of bad input: one line that names what is wrong and what would be right."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input of a user: its message is one line, shown without a traceback, exit code 2."""
