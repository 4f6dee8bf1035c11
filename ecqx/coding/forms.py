"""The file forms in which a trained network can be stored, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from torch import Tensor


class Form(ABC):
    """A file form with its settings; a subclass is a frozen dataclass of them."""

    suffix: ClassVar[str]

    @abstractmethod
    def write(self, trained: Path, path: Path) -> None:
        """Code the result of a training (`ecqx.methods.interface.Method.save`) as one file."""

    @abstractmethod
    def read(self, path: Path) -> dict[str, Tensor]:
        """The whole state_dict of a file that `write` wrote, on the CPU."""


# Module and class of each form; imported when used.
FORMS: dict[str, str] = {
    "ecqx": "ecqx.coding.bitstream:EcqxFile",
    "nnc": "ecqx.coding.nnc_file:NncFile",
    "float16": "ecqx.coding.plain_files:Float16File",
    "integer8": "ecqx.coding.plain_files:Integer8File",
    "packed_integers": "ecqx.coding.plain_files:PackedIntegersFile",
}


def build_form(name: str, settings: Mapping[str, Any]) -> Form:
    """The form of this name with its settings."""
    form: Form = resolve_name(FORMS[name])(**settings)
    return form
