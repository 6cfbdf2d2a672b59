from __future__ import annotations

from typing import Any

import pytest

from alexnet_model.errors import UsageError
from alexnet_training import TrainingOptions


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("epochs", [0, -1, 100_001]),
        ("batch_size", [0, -3, 65_537]),
        ("body_learning_rate", [0.0, 2.0]),
        ("learning_rate", [0.0, -0.1, 1.5, float("nan"), float("inf")]),
        ("seed", [-1, 2**63]),
        ("workers", [0, -2, 257]),
    ],
)
def test_values_out_of_range_are_refused_by_name(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=f"^{option.replace('_', ' ')}: got {value}"):
            TrainingOptions(**{option: value})


def test_the_limits_of_every_range_are_allowed() -> None:
    TrainingOptions(epochs=1, batch_size=1, learning_rate=1.0, seed=0, workers=1)
    TrainingOptions(epochs=100_000, batch_size=65_536, learning_rate=1e-9, seed=2**63 - 1, workers=256)
