"""Five hundred models at random: the file of each is the model, or the model is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from random_models import Recipe, keep_the_promise, recipes

MODELS = 500


@pytest.mark.parametrize("quantizer", ["ECQx", "EC2T", "FantastIC4"])
def test_a_file_is_the_model_or_the_model_is_refused(
    quantizer: str,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> None:
    path = tmp_path_factory.mktemp("promise") / "model.ecqx"
    seen: Counter[str] = Counter()

    @settings(
        max_examples=MODELS // 2 if quantizer == "ECQx" else MODELS // 4,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=recipes(quantizer))
    def try_all(recipe: Recipe) -> None:
        seen["refused" if keep_the_promise(recipe, path) else "kept"] += 1

    try_all()
    record_property("models", seen.total())
    record_property("refused", seen["refused"])
    record_property("kept", seen["kept"])
