"""Results of an earlier run of the same name: replaced by the same settings, by no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecqx.errors import InputError
from ecqx.experiment.settings import RunSettings

# Names of settings in messages, where they differ from those in a record.
_OPTIONS = {"lam": "Lambda"}
_ADVICE = "--results names another folder"


def check_replaceable_results(settings: RunSettings, known: Mapping[str, Any]) -> None:
    """Refuse to replace the results of other settings.

    ``known`` are entries of the record to be written, as far as they are known yet. ``InputError``
    names the file and the first setting that differs.
    """
    if not settings.record_file.exists():
        if settings.model_file.exists():
            raise InputError(
                f"{settings.model_file} exists without the {settings.record_file.name} that says "
                f"how it was made, so it is not replaced; {_ADVICE}"
            )
        return
    try:
        before = json.loads(settings.record_file.read_text(encoding="utf-8"))
        recorded = {name: before[name] for name in known}
        was, now = _flat(recorded), _flat(json.loads(json.dumps(known)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(
            f"{settings.record_file} is no record of ecqx run, so it is not replaced; {_ADVICE}"
        ) from None
    for name in now | was:
        then, wanted = _shown(was.get(name)), _shown(now.get(name))
        if then != wanted:
            raise InputError(
                f"{settings.model_file} was made with {name} {then}, not {wanted}, so it is not "
                f"replaced; {_ADVICE}"
            )


def _flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a record by the names for messages: settings as options, all else as it is."""
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        if name == "settings":
            found |= {f"--{_OPTIONS.get(key, key)}": value for key, value in entry.items()}
        else:
            found[name] = entry
    return found


def _shown(value: Any) -> str:
    """A value of a record as the command takes it."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)
