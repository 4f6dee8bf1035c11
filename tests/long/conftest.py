"""What the long tests share: the suite, a clone of the work tree, an accepted baseline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from clones import Clone, copy_work_tree
from judging import accept
from workplace import REPOSITORY, prepare, settings_of

from stages import suites

Record = Callable[[str, object], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are long."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("long")


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config) -> str:
    """The suite that ``--suite`` names, or the small one."""
    name: str = pytestconfig.getoption("suite") or "smoke"
    with chdir(REPOSITORY):
        suites.check_known(name)
    return name


@pytest.fixture(autouse=True)
def _record_suite(request: pytest.FixtureRequest, record_property: Record) -> None:
    if "suite" in request.fixturenames:
        record_property("suite", request.getfixturevalue("suite"))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A repository whose only commit is the work tree, changes and results included."""
    root = tmp_path_factory.mktemp("tree") / "tree"
    copy_work_tree(root, with_results=True)
    return Clone(root)


@pytest.fixture(scope="session")
def accepted(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the suite ran and its results are the baseline."""
    return accept(prepare(tmp_path_factory.mktemp("gate") / "place", settings_of(suite)), suite)
