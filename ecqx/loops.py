"""How loops over the elements of tensors are compiled for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
# Of int32 or, within a block, uint8.
Indices = NDArray[Any]

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(function: Loop, *freedom: str) -> Loop:
    """Compile, and keep the result beside this file or in the user's cache.

    Division by zero gives an infinity, as in numpy; a product and a sum may be rounded once.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", *freedom},
    }
    try:
        result = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        result = numba.njit(**options)(function)
    return cast(Loop, result)


def reducing(function: Loop) -> Loop:
    """Compile; sums may be taken in any order."""
    return compiled(function, "reassoc", "nsz")
