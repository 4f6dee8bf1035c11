"""Settings of records: what identifies them, and how they are called."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ALWAYS_NAMED = ("task", "method", "bits", "lam")


def setting_of(record: Mapping[str, Any], keys: Iterable[str]) -> str:
    """What identifies the setting of a record: the values of these keys."""
    return json.dumps([record.get(key) for key in keys], sort_keys=True)


class Names:
    """Settings in words: task, method, bits and Λ, and as few other keys as tell them apart.

    Parameters
    ----------
    records : sequence of mapping
        All records that are to be told apart.
    keys : sequence of str
        What the records of a setting share.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for record in records:
            groups[setting_of(record, ALWAYS_NAMED)].append(record)
        self._apart = {base: _telling_keys(group, keys) for base, group in groups.items()}

    def setting(self, record: Mapping[str, Any]) -> str:
        """The setting of a record."""
        task, method, bits, lam = (record.get(key) for key in ALWAYS_NAMED)
        words = [f"{task} {method}"]
        # Not every method has a bit width, or a Λ.
        words += [f"{bits} bit"] if bits is not None else []
        words += [f"Λ {lam}"] if lam is not None else []
        apart = self._apart[setting_of(record, ALWAYS_NAMED)]
        words += [f"{key} {record[key]}" for key in apart if record.get(key) is not None]
        return " ".join(words)

    def run(self, record: Mapping[str, Any]) -> str:
        """One run of a setting."""
        return f"{self.setting(record)} seed {record.get('seed')}"


def _telling_keys(records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Keys that tell the settings of the records apart, each only if those before it do not."""
    chosen: list[str] = []
    known = 1
    for key in keys:
        count = len({setting_of(record, [*chosen, key]) for record in records})
        if count > known:
            chosen.append(key)
            known = count
    return chosen
