"""Relevance in networks of Hugging Face, made from their configuration with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ecqx
from ecqx.relevance import LRP, weight_relevance

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

COMMON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_labels": 3}
INPUTS = {"input_ids": torch.arange(24).reshape(4, 6) * 7 % 39 + 1}
LABELS = torch.arange(4) % 3


def bert(attention: str) -> nn.Module:
    sizes = {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    config = transformers.BertConfig(**COMMON, **sizes, attn_implementation=attention)
    return transformers.BertForSequenceClassification(config)


def llama(attention: str) -> nn.Module:
    """With RMSNorm, gates, rotated positions and heads in groups."""
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    config = transformers.LlamaConfig(
        **COMMON, **sizes, pad_token_id=0, attn_implementation=attention
    )
    return transformers.LlamaForSequenceClassification(config)


NETWORKS: dict[str, Callable[[str], nn.Module]] = {"bert": bert, "llama": llama}


def make(name: str, attention: str = "sdpa") -> nn.Module:
    """Without biases, and with weights ten times the usual ones, which are nearly zero."""
    torch.manual_seed(0)
    model = NETWORKS[name](attention)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            parameter.data *= 10
    return model.eval()


def relevance(model: nn.Module, **settings: Any) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ecqx.relevance.settings.RelevanceWarning)
        return weight_relevance(model, INPUTS, LABELS, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_conserved(name: str) -> None:
    """All of it arrives at the embeddings, where it is stopped at softmax; no remark is made."""
    found = relevance(make(name).double(), composite="attnlrp_values", output="ones")
    embeddings = [r.sum() for parameter, r in found.items() if "embed" in parameter]
    assert float(sum(embeddings)) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_has_relevance_whichever_way_attention_is_computed(name: str) -> None:
    eager, fused = (
        relevance(make(name, attention).double(), composite="attnlrp")
        for attention in ("eager", "sdpa")
    )
    weights = {name for name, _ in ecqx.modules.weights_of(make(name))}
    assert eager.keys() == fused.keys() == weights
    for parameter, values in fused.items():
        assert values.any()
        scale = float(values.abs().max())
        torch.testing.assert_close(eager[parameter], values, rtol=1e-2, atol=1e-3 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_ecqx_trains_it(name: str) -> None:
    model = make(name)
    q = ecqx.ECQx(model, bits=4, lam=0.02, relevance=LRP(composite="attnlrp"))
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.01)
    before = q.integers()
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(**INPUTS).logits, LABELS).backward()
        q.transfer_gradients()
        optimizer.step()
        q.update(INPUTS, LABELS)
    assert all(not torch.equal(k, before[parameter]) for parameter, k in q.integers().items())
