"""How the commands of this folder end: an exit code, and one line for bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ecqx.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130


def suite_of(arguments: Sequence[str]) -> str:
    """The one argument of a stage.

    Raises
    ------
    InputError
        If there is none, or more.
    """
    if len(arguments) != 1:
        raise InputError("a stage takes one argument: the name of a suite of params.yaml")
    return arguments[0]


def run_command_line(main: Callable[[Sequence[str]], int]) -> int:
    """Call ``main`` with the command line's arguments.

    Parameters
    ----------
    main : callable
        Takes the arguments without the program's name and returns the exit code.

    Returns
    -------
    int
        Its exit code; 2 after bad input or where a file cannot be read or written, 130 after an
        interrupt from the keyboard.
    """
    try:
        return main(sys.argv[1:])
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        # A full disk, a folder that cannot be written: nothing that a traceback would explain.
        if error.filename is None and error.strerror is None:
            raise
        print(f"{error.filename or 'files'}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
