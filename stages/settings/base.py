"""How settings are read and checked, and what an error says of a wrong one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ecqx.errors import input_errors
from stages import suites


class Settings(BaseModel):
    """Base of all settings: unknown names and wrong types are errors, nothing is converted.

    The library's own dataclasses are fields like any other, checked by the same rules.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


Section = TypeVar("Section", bound=Settings)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Lam = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=2, le=8)]


class LayerSettings(Settings):
    """The run whose layers are shown; a task without such a run shows none."""

    bits: Bits
    lam: Lam
    seed: int


class Evaluate(Settings):
    """The section ``evaluate``.

    The page shows ``samples`` test samples of each task; none where the data's licence does not
    allow that they are published.
    """

    layers: LayerSettings
    samples: Annotated[int, Field(ge=0)] = 4


def load(suite: str, section: type[Section], is_whole: bool = False) -> Section:
    """Read and check the sections of a suite's params.yaml that are fields of ``section``.

    ``InputError`` with one line that names the file, the setting and what would be right. With
    ``is_whole`` other sections are an error.
    """
    path = suites.params_path(suite)
    content = suites.read_params(path)
    wanted = {k: v for k, v in content.items() if is_whole or k in section.model_fields}
    with input_errors(f"{path}: "):
        return checked(section, wanted)


def checked(section: type[Section], content: dict[str, Any]) -> Section:
    """Settings from plain values; ``ValueError`` with one line about the first that is wrong."""
    try:
        # As JSON, where a list may be a tuple. A date of YAML becomes text, which no setting takes.
        return section.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ValueError(_first(error.errors(), section)) from error


# pydantic's types of an unknown name, in its own models and in the library's dataclasses.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _first(errors: Iterable[ErrorDetails], section: type[Settings]) -> str:
    """Where the first error is, and what it is; a misspelt name comes before a missing one."""
    first = min(errors, key=lambda error: error["type"] not in _UNKNOWN)
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] in _UNKNOWN:
        close = get_close_matches(str(first["loc"][-1]), _names(section), n=1)
        return f"{where}: no such setting" + (f", did you mean {close[0]!r}?" if close else "")
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
    elif first["type"] == "missing":
        message = "is missing"
    else:
        message = f"{first['msg']}, not {first['input']!r:.60}"
    return f"{where}: {message}" if where else message


def _names(section: type[BaseModel]) -> set[str]:
    """All names of settings in a section and in what it holds."""
    schema = section.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {name for part in parts for name in part.get("properties", {})}
