"""What the evaluate stage shows of single networks."""

from __future__ import annotations

import torch
from torch import nn

from ecqx.data import Split
from stages.exhibits import _few, _pictures, input_relevance


def bias_free_mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(12, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)),
    )


def some_split(count: int = 6) -> Split:
    noise = torch.Generator().manual_seed(1)
    return Split(torch.randn(count, 1, 3, 4, generator=noise), torch.arange(count) % 4)


def test_relevance_of_inputs_is_gradient_times_input_without_biases() -> None:
    model, split = bias_free_mlp(), some_split()
    relevance, labels = input_relevance(model, split, "vgg")
    inputs = split.inputs.clone().requires_grad_()
    logits = model(inputs)
    truth = logits.gather(1, split.targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(truth, inputs)
    # In a network without biases the epsilon rule is just that; the sum is the logit.
    torch.testing.assert_close(relevance, (inputs * gradient)[:, 0].detach(), rtol=1e-3, atol=1e-4)
    assert (labels == logits.argmax(1)).all()


def test_relevance_of_a_sample_does_not_depend_on_the_others() -> None:
    model, split = bias_free_mlp(), some_split()
    every, _ = input_relevance(model, split, "vgg")
    first, _ = input_relevance(model, split.take(2), "vgg")
    assert torch.equal(every[:2], first)
    assert all(p.grad is None for p in model.parameters())


def test_few_samples_are_the_first_of_different_classes() -> None:
    targets = torch.tensor([5, 5, 2, 5, 2, 0, 7, 9])
    few = _few(Split(torch.arange(8.0)[:, None], targets), 4)
    assert few.targets.tolist() == [5, 2, 0, 7]
    assert few.inputs[:, 0].tolist() == [0, 2, 5, 6]
    labels = torch.zeros(6, 3)
    assert len(_few(Split(torch.zeros(6, 2), labels), 4)) == 4


def test_pictures_are_images_or_what_the_network_gets() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    targets = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(_pictures(Split(images, targets)), images)
    assert _pictures(some_split(2)).shape == (2, 3, 4)
    assert _pictures(Split(torch.zeros(2, 7), targets)).shape == (2, 1, 7)
