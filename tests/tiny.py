"""A pipeline of seconds for the tests that run real stages in this process."""

from __future__ import annotations

from typing import Any

from workplace import settings_of


def tiny(**task: object) -> dict[str, Any]:
    """Suite smoke with one network, on fewer samples, and one setting of a few methods."""
    suite = settings_of("smoke")
    suite["data"] = {"root": ["datasets"], "sets": suite["data"]["sets"]}
    suite["data"]["sets"]["digits"][0]["limit"] = 100
    for section in (
        suite["tasks"],
        suite["pretrain"],
        suite["quantize"]["tasks"],
        suite["report"]["titles"],
    ):
        del section["resnet20"]
    suite["tasks"]["mlp"] |= task
    suite["pretrain"]["mlp"]["epochs"] = 3
    suite["quantize"]["tasks"]["mlp"]["sweeps"] = [
        {"sweep": "grid", "method": ["ECQ", "ECQx"], "bits": 4, "lam": 0.3},
        {"sweep": "comparison", "method": "pruning", "bits": 4, "sparsity": 0.5},
        {"sweep": "comparison", "method": "fp16"},
    ]
    suite["report"]["comparison"]["tasks"]["mlp"]["trials"] = 1
    return suite
