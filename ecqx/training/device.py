"""Which device networks run on."""

from __future__ import annotations

import torch

from ecqx.errors import InputError


def find_device(name: str) -> torch.device:
    """The device for a setting: "cpu", "cuda", or "auto" for a GPU where there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: {name!r}, but it must be auto, cpu or cuda")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise InputError("device: cuda, but torch finds no GPU here; auto or cpu would work")
    return torch.device("cuda" if name != "cpu" and has_gpu else "cpu")
