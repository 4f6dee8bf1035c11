"""The folders of an experiment: checked before training, and removed again if it is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecqx.coding.bitstream import check_replaceable
from ecqx.errors import InputError


def check_writable(*files: Path) -> None:
    """Make the folders of some files; ``InputError`` if one of the files cannot be written."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=file.parent).close()
        except OSError as error:
            raise InputError(
                f"--results: {file.parent} cannot be written to ({error.strerror}); name another "
                "folder"
            ) from error
        check_replaceable(file)


@contextmanager
def new_folders_removed(folder: Path) -> Iterator[None]:
    """If the block fails, remove ``folder`` and its parents that are new and still empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise
