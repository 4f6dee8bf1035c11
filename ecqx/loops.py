"""How loops over the elements of tensors are compiled for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int32]

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(function: Loop) -> Loop:
    """Compile, and keep the machine code beside the source file or in the user's cache.

    Each operation is rounded by itself: without fused multiply-adds and reordered sums, every
    processor computes the same numbers. Division by zero gives an infinity, as in numpy.

    The cache is renewed when the source file of the function changes. A compiled function may
    therefore use compiled functions and constants of its own file only.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        result = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder for the cache
        result = numba.njit(**options)(function)
    return cast(Loop, result)
