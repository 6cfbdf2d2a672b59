"""The options of a training run; this module does not need PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Hold the options of `train`. A run is reproducible: equal options on one machine give equal weights.

    Args:
        data: "digits" (the images in scikit-learn), or an image folder as `alexnet_model.splits_from` reads
            it.
        architecture: a name in `alexnet_model.architectures.ARCHITECTURES`, or `package.module:factory`.
            None: that of the weights, if they are a checkpoint; otherwise "alexnet".
        architecture_options: the factory's other arguments, such as `{"width": 0.25}`. Empty: those of the
            weights, if they are a checkpoint; otherwise the factory's defaults.
        width: the factor of every hidden layer's size, 0.01 to 4: short for the architecture option `width`.
        weights: weights to fine-tune, as `alexnet_model.checkpoint_from` takes them: a file, or "imagenet".
            None: train from random weights.
        key: the key of the state dict in the file of weights. None: the first that fits.
        contract: how images are prepared. None: the contract of the weights, if they are a checkpoint;
            otherwise the default.
        freeze: names of modules, such as "features", whose weights stay fixed. They run in evaluation mode
            during training: BatchNorm keeps its statistics, and dropout does nothing.
        epochs: passes over the training images, 1 to 100,000. None: 4, or 10 to fine-tune weights.
        batch_size: images a step, 1 to 4096.
        learning_rate: Adam's learning rate at its highest, above 0 and at most 1; that of the new layer, if
            weights are fine-tuned. None selects one (`recipe.default_learning_rate`).
        body_learning_rate: that of the layers that start from the weights. None: a tenth of
            `learning_rate`.
        seed: the seed of initialisation, order and augmentation, 0 to 2**63 - 1. It does not change the
            splits.

    Raises:
        UsageError: an option is out of its range, or has no effect without another. `train` checks the data,
            the architecture, the weights and what is frozen.
    """

    data: str = "digits"
    architecture: str | None = None
    architecture_options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    width: float | None = None
    weights: str | Path | None = None
    key: str | None = None
    contract: Contract | None = None
    freeze: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    body_learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is not None and not 1 <= self.epochs <= 100_000:
            raise UsageError("epochs", got=str(self.epochs), expected="1 to 100,000")
        if not 1 <= self.batch_size <= 4096:
            raise UsageError("batch size", got=str(self.batch_size), expected="1 to 4096")
        for name in ("learning_rate", "body_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate <= 1:
                raise UsageError(name.replace("_", " "), got=str(rate), expected="above 0, at most 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError("seed", got=str(self.seed), expected="0 to 2**63 - 1")
        if self.width is not None and "width" in self.architecture_options:
            raise UsageError("width", got="an architecture option width too", expected="one of them")
        for name in ("key", "body_learning_rate"):
            if self.weights is None and getattr(self, name) is not None:
                raise UsageError(
                    name.replace("_", " "),
                    got=f"{getattr(self, name)} without weights",
                    expected="weights to fine-tune",
                    next_step="Add --weights FILE, or leave this option out.",
                )

    @property
    def factory_options(self) -> dict[str, bool | int | float | str]:
        """The arguments of the architecture's factory, with the width."""
        width = {} if self.width is None else {"width": self.width}
        return {**self.architecture_options, **width}

    @property
    def epochs_or_default(self) -> int:
        """The number of epochs. A folder to fine-tune on has fewer images, so an epoch has fewer steps."""
        return self.epochs or (4 if self.weights is None else 10)
