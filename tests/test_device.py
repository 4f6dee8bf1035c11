"""Which device is found."""

from __future__ import annotations

import pytest
import torch

from ecqx.errors import InputError
from ecqx.training.device import find_device


@pytest.mark.parametrize(
    ("name", "has_gpu", "found"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device_that_a_setting_asks_for(
    monkeypatch: pytest.MonkeyPatch, name: str, has_gpu: bool, found: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert find_device(name) == torch.device(found)


@pytest.mark.parametrize(("name", "message"), [("cuda", "no GPU"), ("tpu", "auto, cpu or cuda")])
def test_a_device_that_is_absent(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        find_device(name)
