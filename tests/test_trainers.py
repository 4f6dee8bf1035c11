"""Attached to the optimizers of Lightning and of Hugging Face's Trainer: as by explicit calls."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

import ecqx
from ecqx.relevance import LRP

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, 0, 0, :3].argmax(1)


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def assert_equal(one: Any, other: Any) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def lightning_fit(module: Any, folder: Path, epochs: int, **settings: Any) -> Any:
    L = pytest.importorskip("lightning")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=8), **settings)
    return trainer


# What Lightning says of itself and of torch.
@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    """With accumulated batches, clipping, and a training that is resumed."""
    pytest.importorskip("lightning")
    Classifier = example("lightning_module")["Classifier"]
    torch.manual_seed(0)
    first = Classifier(tmp_path / "one.ecqx")
    start = copy.deepcopy(first.net)
    lightning_fit(first, tmp_path, 1).save_checkpoint(tmp_path / "one.ckpt")
    second = Classifier(tmp_path / "two.ecqx")
    lightning_fit(second, tmp_path, 2, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    for name, tensor in ecqx.load(tmp_path / "two.ecqx").items():
        assert torch.equal(tensor, second.net.state_dict()[name]), name

    q = ecqx.ECQx(start, lam=0.05, relevance=LRP())
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=3e-3)
    start.train()
    for _ in range(2):
        q.start_epoch()
        for pair in torch.arange(32).view(2, 2, 8):
            optimizer.zero_grad()
            for part in pair:
                (F.cross_entropy(start(X[part]), Y[part]) / 2).backward()
            clip_grad_norm_(start.parameters(), 0.5)
            q.transfer_gradients()
            optimizer.step()
            q.update(X[part], Y[part])
    assert_equal(second.quantizer, q)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face(tmp_path: Path) -> None:
    """With accumulated batches, clipping, bfloat16, a schedule, and resumed from a checkpoint."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    here = example("hf_trainer")
    samples = [{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    settings = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        use_cpu=True,
        bf16=True,
        report_to="none",
        save_strategy="epoch",
        logging_strategy="no",
        disable_tqdm=True,
    )

    class Explicit(here["QuantizedTrainer"]):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: dict[str, Tensor], *args: Any, **more: Any
        ) -> Any:
            calls.batch = dict(inputs)
            return transformers.Trainer.compute_loss(self, model, inputs, *args, **more)

    class Calls(here["Epochs"]):  # type: ignore[misc]
        def on_pre_optimizer_step(self, *args: Any, **more: Any) -> None:
            self.quantizer.transfer_gradients()

        def on_optimizer_step(self, *args: Any, **more: Any) -> None:
            self.quantizer.update(self.batch, self.batch["labels"])

    found = []
    for attached, resumed in ((True, None), (True, str(tmp_path / "checkpoint-2")), (False, None)):
        torch.manual_seed(0)
        model = here["network"]()
        q = ecqx.ECQx(model, lam=0.05, relevance=LRP())
        parameters = model.parameters() if attached else q.parameter_groups()
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
        if attached:
            q.attach(optimizer)
        calls = here["Epochs"](q) if attached else Calls(q)
        kind = here["QuantizedTrainer"] if attached else Explicit
        kind(
            model,
            settings,
            train_dataset=samples,
            optimizers=(optimizer, None),
            callbacks=[calls],
            quantizer=q,
        ).train(resume_from_checkpoint=resumed)
        found.append(q)
    for q in found[:2]:
        assert_equal(q, found[2])
        assert q.relevance.steps == 2


def test_relevance_within_accelerates_autocast() -> None:
    """Relevance is measured in float32, though the model's own calls are in bfloat16."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    expected = ecqx.weight_relevance(model, X, Y)
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    before = prepared(X)
    for name, relevance in ecqx.weight_relevance(prepared, X, Y).items():
        assert torch.equal(relevance, expected[name]), name
    assert torch.equal(prepared(X), before)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
