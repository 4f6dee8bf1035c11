"""The promise of a file: a fresh copy of the model that loads it predicts what the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ecqx


def train(q: Any, forward: nn.Module, x: Tensor, y: Tensor) -> None:
    """Two steps as a person writes them, with an epsilon of Adam that float16 can hold."""
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.02, eps=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(forward(x).float(), y).backward()
        q.transfer_gradients()
        optimizer.step()
        q.update(x, y)


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs in eval mode; afterwards the model trains."""
    with torch.no_grad():
        logits: Tensor = model.eval()(x)
    model.train()
    return logits


def assert_file_is_model(q: Any, fresh: nn.Module, x: Tensor, path: Path) -> None:
    """A fresh copy of the model that loads the file of a quantizer predicts bit for bit alike."""
    ecqx.save(path, q)
    state = ecqx.load(path)
    fresh.load_state_dict(state)
    ours, others = predictions(q.model, x), predictions(fresh, x)
    # Half precision may overflow, in both alike.
    assert ((ours == others) | (ours.isnan() & others.isnan())).all()
    assert set(state) == set(fresh.state_dict())
