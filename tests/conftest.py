"""What all tests share: one thread, reproducible examples, and the path of the shared material."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ecqx", deadline=None, derandomize=True, database=None)
settings.load_profile("ecqx")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", help="the suite of the long tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: a process that took it up last would be waited for."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared material; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("ECQX_SHARED", default))
    if not folder.is_dir():
        pytest.skip("no shared/ folder beside the repository (set ECQX_SHARED to its path)")
    return folder
