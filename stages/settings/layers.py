"""Settings of the runs that are shown layer by layer."""

from __future__ import annotations

from stages.settings.base import Bits, Lam, Settings


class LayerSettings(Settings):
    """The run whose layers are shown; a task without such a run shows none."""

    bits: Bits
    lam: Lam
    seed: int


class Evaluate(Settings):
    """The section ``evaluate``."""

    layers: LayerSettings
