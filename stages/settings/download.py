"""What the stage download reads."""

from __future__ import annotations

from stages.settings.base import Settings
from stages.settings.data import Data
from stages.settings.tasks import Tasks


class DownloadSettings(Settings):
    """The sections ``data`` and ``tasks``."""

    data: Data
    tasks: Tasks
