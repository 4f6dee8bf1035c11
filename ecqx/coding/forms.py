"""All forms of files by ending, with the place of each."""

from __future__ import annotations

FORMS: dict[str, str] = {"ecqx": "ecqx.coding.bitstream:load"}
