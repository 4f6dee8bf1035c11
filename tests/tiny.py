"""A pipeline of seconds for the tests that run real stages in this process."""

from __future__ import annotations

from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def tiny(**task: object) -> str:
    """Suite smoke with one network, one bit width and one Λ of ECQ and ECQx, on fewer samples."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    suite = params["suites"]["smoke"]
    suite["data"]["digits"][0]["limit"] = 100
    del suite["tasks"]["resnet20"], suite["pretrain"]["resnet20"]
    del suite["quantize"]["tasks"]["resnet20"]
    fit = suite["quantize"]["tasks"]["mlp"]["fit"]
    suite["quantize"]["tasks"]["mlp"] = {"fit": fit, "bits": [4], "lam": [0.3]}
    suite["pretrain"]["mlp"]["epochs"] = 3
    compared = suite["comparison"]["tasks"]["mlp"]
    compared["methods"] = {
        name: compared["methods"][name] for name in ("ECQ", "ECQx", "pruning", "fp16")
    }
    suite["tasks"]["mlp"] |= task
    return yaml.safe_dump(
        {"suite": "smoke", "data": {"root": ["datasets"]}, "suites": {"smoke": suite}}
    )
