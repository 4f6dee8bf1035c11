"""Bit widths of weights and steps, and the forms of codebooks with the widths of their indices.

Imports no torch, so that the header of a file can be read without it.
"""

from __future__ import annotations

from typing import Literal

MIN_BITS, MAX_BITS = 2, 8
# How exact the step of a grid is: as float32, or with the 8 significant bits that NNC can hold.
Step = Literal["float32", "nnc"]
STEPS: tuple[Step, ...] = ("float32", "nnc")

# `ecqx.assignment.codebooks` says what the forms mean.
Form = Literal["values", "sums"]
FORMS: tuple[Form, ...] = ("values", "sums")
# Numbers of a codebook of the form ``values``: a file has as many integers on one side of zero.
MOST_VALUES = 255


def check_bits(bits: int) -> None:
    """Raise ``ValueError`` for a bit width out of range."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be an integer from {MIN_BITS} to {MAX_BITS}, not {bits!r}")


def bits_of(form: Form, count: int) -> int:
    """Bits of an index into a codebook of ``count`` numbers.

    Raises
    ------
    ValueError
        If there is no such codebook.
    """
    if form not in FORMS:
        raise ValueError(f"a codebook's form must be one of {', '.join(FORMS)}, not {form!r}")
    most = MOST_VALUES if form == "values" else MAX_BITS
    if not 1 <= count <= most:
        raise ValueError(f"a codebook of {form} has 1 to {most} numbers, not {count}")
    return max(MIN_BITS, count.bit_length()) if form == "values" else count


def check_step(step: str) -> None:
    """Raise ``ValueError`` for an unknown kind of step."""
    if step not in STEPS:
        raise ValueError(f"step must be one of {', '.join(STEPS)}, not {step!r}")
