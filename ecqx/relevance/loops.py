"""The quotient that distributes relevance, compiled for the CPU: one pass over memory."""

from __future__ import annotations

import numpy as np

from ecqx.loops import Floats, compiled


@compiled
def quotient(relevance: Floats, z: Floats, epsilon: np.float32, result: Floats) -> None:
    """Write R / (z + ε·sign z), where sign 0 = 1."""
    for i in range(z.size):
        sign = epsilon if z[i] >= np.float32(0) else -epsilon
        result[i] = relevance[i] / (z[i] + sign)
