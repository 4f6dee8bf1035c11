"""How the commands of this folder begin and end: help, an exit code, one line for bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ecqx.errors import InputError

BAD_INPUT = 2
HELP = ("-h", "--help")
EXIT_CODES = """
Exit codes: 0 done; 1 what was checked is worse, or an error in the program, with a traceback;
2 bad input or a file that cannot be read or written, with one line; 130 interrupted."""
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
    """Call ``main`` with the command line's arguments; for ``--help`` print its module's docstring.

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
    arguments = sys.argv[1:]
    if arguments[:1] and arguments[0] in HELP:
        print(sys.modules[main.__module__].__doc__, EXIT_CODES, sep="")
        return 0
    try:
        return main(arguments)
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
