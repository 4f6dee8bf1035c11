"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, shipped with the package."""

from __future__ import annotations

import numpy as np
import torch

from ecqx.data.tensors import Split, TensorData

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.25


def digits(seed: int = 0, limit: int | None = None) -> TensorData:
    """Load the digits in a stratified random split of 60 / 15 / 25 %, or only ``limit`` of each.

    Inputs (N, 1, 8, 8), float32, are standardized by mean and standard deviation of the training
    split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, random_state=seed, stratify=labels
    )
    train, validation = train_test_split(
        rest,
        test_size=VALIDATION_SHARE / (1 - TEST_SHARE),
        random_state=seed,
        stratify=labels[rest],
    )
    mean, deviation = images[train].mean(), images[train].std()
    standardized = torch.from_numpy((images - mean) / deviation).to(torch.float32)
    inputs, targets = standardized.reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    data = TensorData(
        train=Split(inputs[train], targets[train]),
        validation=Split(inputs[validation], targets[validation]),
        test=Split(inputs[test], targets[test]),
        classes=tuple(map(str, range(10))),
        label="digits" if limit is None else "digits (slice)",
        standardized=((float(mean),), (float(deviation),)),
    )
    return data.map(lambda split: split.take(limit or len(split)))
