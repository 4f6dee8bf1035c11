"""Types of the tensors in a file, and the ranges of names, steps and integers.

Imports neither torch nor NumPy nor the entropy coder.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from ecqx.assignment.bits import Form, check_bits
from ecqx.errors import InputError

Kind = Literal["quantized", "lossy", "float", "integer"]

# Type codes of integers on an equidistant grid, and of float32 stored with loss.
QUANTIZED, LOSSY = 0, 1
# Type codes of integers with a codebook, and its form (`ecqx.assignment.codebooks`).
CODEBOOKS: dict[int, Form] = {12: "values", 13: "sums"}
# Type codes of weights that are stored as integers.
WEIGHTS = (QUANTIZED, *CODEBOOKS)
# Type codes and dtypes of tensors that are stored without loss, and the bytes of floats.
FLOATS = {2: "float32", 3: "float16", 4: "bfloat16", 5: "float64"}
FLOAT_BYTES = {2: 4, 3: 2, 4: 2, 5: 8}
INTEGERS = {6: "int64", 7: "int32", 8: "int16", 9: "int8", 10: "uint8", 11: "bool"}
# Kind and dtype of what is decoded, by type code.
TYPES: dict[int, tuple[Kind, str]] = {
    **dict.fromkeys(WEIGHTS, ("quantized", "float32")),
    LOSSY: ("lossy", "float32"),
    **{code: ("float", dtype) for code, dtype in FLOATS.items()},
    **{code: ("integer", dtype) for code, dtype in INTEGERS.items()},
}
# A name is counted in characters.
MAX_NAME = 1024


def check_name(name: object) -> str:
    """The name of a tensor, or ``InputError`` if it cannot be stored."""
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise InputError(f"{name!r:.60} is no name of at most {MAX_NAME} characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {name!r} is not valid Unicode") from None
    return name


def check_grid(bits: int, step: float) -> None:
    """Raise ``ValueError`` for a bit width or a step that is out of range."""
    check_bits(bits)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be finite and greater than 0 in float32, not {step}")


def check_range(integers: Any, least: int, most: int, limit: str) -> tuple[int, int]:
    """Lowest and highest integer of an array or tensor; ``ValueError`` if one is out of range."""
    if 0 in integers.shape:
        return 0, 0
    lowest, highest = int(integers.min()), int(integers.max())
    if lowest < least or highest > most:
        raise ValueError(f"holds integers from {lowest} to {highest}; {limit} {least} to {most}")
    return lowest, highest
