"""What a training run can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_model.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """`data`: `digits` or a folder. `learning_rate` None: what fits the architecture and width (`recipe.py`).

    Raises:
        UsageError: an option is out of range. Architecture and width are checked where they are built.
    """

    data: str = "digits"
    architecture: str = "alexnet"
    width: float = 1.0
    epochs: int = 4
    batch_size: int = 32
    learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= 100_000:
            raise UsageError("epochs", got=str(self.epochs), expected="1 to 100,000")
        if not 1 <= self.batch_size <= 4096:
            raise UsageError("batch size", got=str(self.batch_size), expected="1 to 4096")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise UsageError("learning rate", got=str(self.learning_rate), expected="above 0, at most 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError("seed", got=str(self.seed), expected="0 to 2**63 - 1")
