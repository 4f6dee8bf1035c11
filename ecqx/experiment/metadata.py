"""What a file says of its model: network, data set, classes and the normalization of inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecqx.data.tensors import Split, TensorData
from ecqx.errors import InputError
from ecqx.experiment.remarks import remark


def metadata_of(data: TensorData, names: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a network that was trained on a data set; ``names`` are other entries."""
    inputs, _ = next(data.test.batches(1))
    about: dict[str, Any] = {"shape": list(inputs.shape[1:])}
    preparation = data.test.preparation
    if preparation.mean:
        about |= {"mean": list(preparation.mean), "std": list(preparation.deviation)}
    elif any(data.standardized):
        about["features"] = [*map(list, data.standardized)]
    return {**names, "classes": list(data.classes), "input": about}


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """Metadata from texts, as safetensors files hold them; what is no JSON stays text."""
    found: dict[str, Any] = dict(texts)
    for name in ("classes", "input"):
        with suppress(KeyError, ValueError):
            found[name] = json.loads(texts[name])
    return found


@dataclass(frozen=True)
class Described:
    """The metadata of a file, as `metadata_of` writes them; what is missing is None or empty.

    ``side`` is that of square images; ``mean`` and ``deviation`` are those of their pixels in
    [0, 1], by channel; ``features`` is `TensorData.standardized`.
    """

    path: Path
    model: str | None
    dataset: str | None
    classes: tuple[str, ...]
    side: int | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    features: Any

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, Any]) -> Described:
        """Check metadata that anyone may have written; ``InputError`` names the file."""
        model, dataset = metadata.get("model"), metadata.get("dataset")
        classes, about = metadata.get("classes", []), metadata.get("input", {})
        found: dict[str, Any] = about if isinstance(about, dict) else {}
        shape, mean, std = (found.get(name, []) for name in ("shape", "mean", "std"))
        fits = (
            isinstance(about, dict)
            and all(name is None or isinstance(name, str) for name in (model, dataset))
            and _all_of(classes, str)
            and _all_of(shape, int)
            and _all_of(mean, int, float)
            and _all_of(std, int, float)
            and len(mean) == len(std)
            and all(math.isfinite(number) for number in (*mean, *std))
            and all(deviation > 0 for deviation in std)
        )
        if not fits:
            raise InputError(
                f"{path}: its metadata are not those of ecqx run: model and dataset are names, "
                'classes a list of names, input {"shape": […], "mean": […], "std": […]}'
            )
        side = shape[-1] if len(shape) == 3 and shape[-1] == shape[-2] else None
        numbers = (tuple(mean), tuple(std), found.get("features"))
        return cls(path, model, dataset, tuple(classes), side, *numbers)

    def prepared(self, data: TensorData) -> TensorData:
        """The data with the normalization of the file, if it has one.

        ``InputError`` if the data have other classes, or cannot be normalized so.
        """
        if self.classes and self.classes != data.classes:
            raise InputError(
                f"{self.path} has the classes {_listed(self.classes)}, and {data.label} has "
                f"{_listed(data.classes)}"
            )
        if self.features is not None and self.features != [*map(list, data.standardized)]:
            raise InputError(
                f"{self.path} was trained on features that were standardized by other numbers than "
                f"those of {data.label}"
            )
        preparation = data.test.preparation
        if not self.mean:
            if preparation.mean:
                remark(f"{self.path} has no input normalization; that of {data.label} is used")
            return data
        if len(preparation.mean) != len(self.mean):
            raise InputError(
                f"{self.path} normalizes {len(self.mean)} channels of pixels, which {data.label} "
                "has not"
            )

        def prepared(split: Split) -> Split:
            own = replace(split.preparation, mean=self.mean, deviation=self.deviation)
            return replace(split, preparation=own)

        return data.map(prepared)


def _all_of(values: Any, *types: type) -> bool:
    """Whether a value is a list of values of these types, of which bool is none."""
    return isinstance(values, list) and all(
        isinstance(value, types) and not isinstance(value, bool) for value in values
    )


def _listed(classes: tuple[str, ...], most: int = 5) -> str:
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return ", ".join(classes[:most]) + more
