"""The loop that shares relevance out, compiled for the CPU."""

from __future__ import annotations

import numpy as np

from ecqx.loops import Floats, compiled

# As in `ecqx.relevance.rules`; the cache of what is compiled looks at this file alone.
EPSILON = np.float32(1e-6)


@compiled
def quotient(relevance: Floats, z: Floats, result: Floats) -> None:
    """Write R / (z + ε·sign z), where sign 0 = 1; ε as in `ecqx.relevance.rules`."""
    for i in range(z.size):
        sign = EPSILON if z[i] >= np.float32(0) else -EPSILON
        result[i] = relevance[i] / (z[i] + sign)
