"""Metrics against definitions written out by hand, and losses against torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor

from ecqx.training.objectives import CLASSIFICATION, MULTILABEL, SEGMENTATION, Batches, objective_of

Array = NDArray[Any]


def in_batches(logits: Tensor, targets: Tensor, size: int) -> Batches:
    return zip(logits.split(size), targets.split(size), strict=True)


# -- several labels: mean average precision --------------------------------------------------------


def average_precision(scores: Array, present: Array) -> float:
    """Mean over the positives, each with the precision among all that score at least as much."""
    precisions = [present[scores >= score].mean() for score in scores[present]]
    return float(np.mean(precisions))


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[Array, Array]:
    """Scores in quarters, so that many tie and none comes closer than float32 can tell."""
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 5)))
    scores = draw(arrays.arrays(np.int64, shape, elements=st.integers(-20, 20))) / 4
    present = draw(arrays.arrays(np.bool_, shape))
    assume(present.any())
    return scores, present


def mean_average_precision(scores: Array, present: Array, size: int = 100) -> float:
    logits, targets = torch.from_numpy(scores).float(), torch.from_numpy(present).float()
    return MULTILABEL.score(in_batches(logits, targets, size))["mean average precision"]


@given(case=labelled_scores(), size=st.integers(1, 12))
def test_mean_average_precision_is_that_of_the_classes_that_occur(
    case: tuple[Array, Array], size: int
) -> None:
    scores, present = case
    occurring = [c for c in range(present.shape[1]) if present[:, c].any()]
    expected = np.mean([average_precision(scores[:, c], present[:, c]) for c in occurring])
    assert mean_average_precision(scores, present, size) == pytest.approx(expected, abs=1e-6)


@given(case=labelled_scores())
def test_right_order_is_one_and_absent_classes_do_not_count(case: tuple[Array, Array]) -> None:
    _, present = case
    assert mean_average_precision(present * 2.0 - 1, present) == pytest.approx(1)
    absent = np.zeros((len(present), 2), dtype=bool)
    noise = np.random.default_rng(0).normal(size=absent.shape)
    scores = np.hstack([present * 2.0 - 1, noise])
    assert mean_average_precision(scores, np.hstack([present, absent])) == pytest.approx(1)


def test_wrong_order_by_hand() -> None:
    """The two positives of the first class come second and fourth, the second's one first."""
    scores = np.array([[4, 0], [3, 5], [2, 1], [1, 2]]) / 1.0
    present = np.array([[0, 0], [1, 1], [0, 0], [1, 0]], dtype=bool)
    expected = ((1 / 2 + 2 / 4) / 2 + 1) / 2
    assert mean_average_precision(scores, present) == pytest.approx(expected)


def test_no_label_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a sample with a label"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2), dtype=bool))


# -- a label per pixel: mean intersection over union -----------------------------------------------


def mean_iou(predicted: Array, truth: Array, classes: int) -> tuple[float, float]:
    """By sets of pixels, over the classes that either has; void pixels are in no set."""
    valid = truth != 255
    ratios = []
    for c in range(classes):
        mine, true = (predicted == c) & valid, (truth == c) & valid
        if (mine | true).any():
            ratios.append((mine & true).sum() / (mine | true).sum())
    return float(np.mean(ratios)), float((predicted == truth)[valid].mean())


@st.composite
def segmented(draw: st.DrawFn) -> tuple[Array, Array, int]:
    classes = draw(st.integers(2, 5))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    labels = st.sampled_from([*range(classes), 255])
    truth = draw(arrays.arrays(np.uint8, shape, elements=labels))
    predicted = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    assume((truth != 255).any())
    return predicted, truth, classes


def segmentation_scores(
    predicted: Array, truth: Array, classes: int, size: int = 100
) -> tuple[float, float]:
    """Through logits whose largest is that of the predicted class."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(0, 1, (len(predicted), classes, *predicted.shape[1:]))
    np.put_along_axis(logits, predicted[:, None].astype(np.int64), 2, axis=1)
    batches = in_batches(torch.from_numpy(logits), torch.from_numpy(truth).long(), size)
    scores = SEGMENTATION.score(batches)
    return scores["mean IoU"], scores["pixel accuracy"]


@given(case=segmented(), size=st.integers(1, 4))
def test_mean_iou_is_that_of_the_classes_in_truth_or_prediction(
    case: tuple[Array, Array, int], size: int
) -> None:
    assert segmentation_scores(*case, size) == pytest.approx(mean_iou(*case))


@given(case=segmented(), extra=st.integers(0, 3))
def test_all_right_is_one_whatever_void_pixels_get(
    case: tuple[Array, Array, int], extra: int
) -> None:
    predicted, truth, classes = case
    right = np.where(truth == 255, predicted, truth)
    assert segmentation_scores(right, truth, classes + extra) == pytest.approx((1, 1))


def test_a_class_that_is_only_predicted_counts_as_missed() -> None:
    truth = np.array([[[0, 0, 0, 255]]], dtype=np.uint8)
    predicted = np.array([[[0, 0, 2, 2]]], dtype=np.uint8)
    # Class 0: 2 of 3; class 1 occurs nowhere; class 2: 0 of 1; the last pixel is void.
    assert segmentation_scores(predicted, truth, 3) == pytest.approx(((2 / 3 + 0) / 2, 2 / 3))


def test_nothing_but_void_is_an_error() -> None:
    void = np.full((1, 2, 2), 255, dtype=np.uint8)
    with pytest.raises(ValueError, match="needs a pixel with a label"):
        segmentation_scores(np.zeros_like(void), void, 3)


# -- losses, and which objective it is -------------------------------------------------------------


def test_void_pixels_have_no_loss_and_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, requires_grad=True)
    targets = torch.randint(3, (2, 4, 4), generator=generator)
    targets[:, 0] = 255
    loss = SEGMENTATION.loss(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    probability = logits.detach().softmax(1).gather(1, targets.clamp(max=2)[:, None])
    torch.testing.assert_close(loss.detach(), -probability[:, 0, 1:].log().mean())
    assert not gradient[:, :, 0].any()
    assert gradient[:, :, 1:].abs().sum() > 0


def test_a_batch_of_nothing_but_void_has_no_loss() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = SEGMENTATION.loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@given(
    classes=arrays.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 3)),
    size=st.integers(1, 20),
)
def test_top1_accuracy_does_not_depend_on_the_batches(classes: Array, size: int) -> None:
    logits = np.random.default_rng(0).normal(size=(len(classes), 4))
    expected = np.mean([row.tolist().index(row.max()) for row in logits] == classes)
    batches = in_batches(torch.from_numpy(logits), torch.from_numpy(classes), size)
    assert CLASSIFICATION.score(batches) == {"top-1 accuracy": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("targets", "objective"),
    [
        (torch.zeros(3, dtype=torch.int64), CLASSIFICATION),
        (torch.zeros(3, 20), MULTILABEL),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), SEGMENTATION),
        (torch.zeros(3), None),
        (torch.zeros(3, 20, dtype=torch.int64), None),
        (torch.zeros(3, 4, 4), None),
    ],
)
def test_targets_tell_the_objective(targets: Tensor, objective: object) -> None:
    if objective is None:
        with pytest.raises(ValueError, match="no objective for targets"):
            objective_of(targets)
    else:
        assert objective_of(targets) is objective
