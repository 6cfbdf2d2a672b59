"""The options of a training run; this module does not need PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_model.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Hold the options of `train`. A run is reproducible: equal options on one machine give equal weights.

    Args:
        data: "digits" (the images in scikit-learn), or an image folder as `alexnet_model.splits_from` reads
            it.
        architecture: a name in `alexnet_model.architectures.ARCHITECTURES`.
        width: the factor of every hidden layer's size, 0.01 to 4.
        epochs: passes over the training images, 1 to 100,000.
        batch_size: images a step, 1 to 4096.
        learning_rate: Adam's learning rate at its highest, above 0 and at most 1; None selects one for the
            architecture and width (`recipe.default_learning_rate`).
        seed: the seed of initialisation, order and augmentation, 0 to 2**63 - 1. It does not change the
            splits.

    Raises:
        UsageError: an option is out of its range. `train` checks the data, architecture and width.
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
