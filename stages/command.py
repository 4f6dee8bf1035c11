"""How the commands of this folder begin and end: arguments, help, exit code, errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from ecqx.errors import InputError, warnings_to
from stages import suites

BAD_INPUT = 2
INTERRUPTED = 130
EXIT_CODES = """
Exit codes: 0 done; 1 what was checked is worse, or an error in the program, with a traceback;
2 bad input or a file that cannot be read or written, with one line; 130 interrupted."""


class Command(click.Command):
    """A command that other code can call with its arguments; it returns its exit code.

    Wrong arguments raise InputError. Its help is the docstring of the module that defines it.
    """

    def __call__(self, arguments: list[str], **_: Any) -> int:
        """Run with the arguments after the program's name."""
        try:
            return self.main(arguments, standalone_mode=False) or 0
        except click.UsageError as error:
            raise InputError(error.format_message()) from error
        except click.Abort as error:
            raise KeyboardInterrupt from error


def command(function: Callable[..., int | None]) -> Command:
    """Decorate a function, below click's decorators for its arguments, to be a command."""
    return click.command(
        cls=Command,
        help=sys.modules[function.__module__].__doc__,
        epilog=EXIT_CODES,
        context_settings={"help_option_names": ("-h", "--help")},
    )(function)


def suite_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument SUITE: the name of a suite, the default one if left out."""
    return click.argument("suite", required=False, callback=_known)(function)


def _known(_: click.Context, __: click.Parameter, name: str | None) -> str:
    # `make` passes an empty name where it was given none.
    chosen = name or suites.default()
    suites.check_known(chosen)
    return chosen


def run_command_line(main: Callable[[list[str]], int]) -> int:
    """Call a `Command` with the arguments of the command line; returns the exit code."""
    try:
        with warnings_to(lambda line: print(line, file=sys.stderr)):
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
