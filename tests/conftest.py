"""What all tests share: one thread, reproducible examples, and the path of the shared material."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ecqx", deadline=None, derandomize=True, database=None)
settings.load_profile("ecqx")
# A suite's data folder, datasets/, would be imported for the package that transformers looks for.
package = find_spec("datasets")
if package is not None and package.origin is None:
    sys.modules["datasets"] = None  # type: ignore[assignment]
LONGEST = ("pipeline", "faults", "gate", "docs", "closure", "fingerprints", "export", "training")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", help="the suite of the long tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a process that took one up last would be waited for."""
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared material; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("ECQX_SHARED", default))
    if not folder.is_dir():
        pytest.skip("no shared/ folder beside the repository (set ECQX_SHARED to its path)")
    return folder
