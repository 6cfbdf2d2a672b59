"""The options of a training run; this module does not need PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError

from .recipes import Recipe, recipe_named

MAX_WORKERS = 256


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Hold the options of `train`.

    A run on a CPU is reproducible: equal options on one machine give equal weights.

    Args:
        data: "digits" (the images in scikit-learn), "cluttered-digits:VIEWS", an image folder, or tar shards,
            as `alexnet_model.splits_from` reads them.
        recipe: a name in `recipes.RECIPES`.
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
        epochs: passes over the training images, 1 to 100,000. None: the recipe's, which are fewer or more to
            fine-tune weights.
        batch_size: images a step, 1 to 65,536, of all processes together. None: the recipe's.
        learning_rate: the highest of the schedule, above 0 and at most 1; that of the new layer, if weights
            are fine-tuned. None: the recipe's, or one for the network
            (`initialisation.default_learning_rate`).
        body_learning_rate: that of the layers that start from the weights. None: a tenth of
            `learning_rate`.
        seed: the seed of initialisation, order and augmentation, 0 to 2**63 - 1. It does not change the
            splits.
        device: "auto" (the first GPU, or the CPU), "cpu", "cuda" (the first GPU) or "cuda:N".
        compile: compile the network with `torch.compile`, which takes a minute and saves time per step.
        processes: how many processes train together, 1 to 4096; the batch size is a multiple of it. `train`
            does not start them: `launch.run_ranks` or `torchrun` does. None: as many as were started.
        workers: how many worker processes of each of these decode the images of large splits, 1 to 256.
            None: one for each core, shared by the processes of a machine.
        ten_crop: measure the accuracy on the test split over ten crops of each image too, as in 2012.

    Raises:
        UsageError: an option is out of its range, or has no effect without another. `train` checks the data,
            the architecture, the weights and what is frozen.
    """

    data: str = "digits"
    recipe: str = "digits"
    architecture: str | None = None
    architecture_options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    width: float | None = None
    weights: str | Path | None = None
    key: str | None = None
    contract: Contract | None = None
    freeze: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    body_learning_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    compile: bool = False
    processes: int | None = None
    workers: int | None = None
    ten_crop: bool = False

    def __post_init__(self) -> None:
        recipe_named(self.recipe)
        if self.epochs is not None and not 1 <= self.epochs <= 100_000:
            raise UsageError("epochs", got=str(self.epochs), expected="1 to 100,000")
        if self.batch_size is not None and not 1 <= self.batch_size <= 65_536:
            raise UsageError("batch size", got=str(self.batch_size), expected="1 to 65,536")
        if self.processes is not None:
            if not 1 <= self.processes <= 4096:
                raise UsageError("processes", got=str(self.processes), expected="1 to 4096")
            self.check_divisible(self.processes)
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise UsageError(
                "workers",
                got=str(self.workers),
                expected=f"1 to {MAX_WORKERS}",
                next_step="Leave this option out for one worker for each core.",
            )
        for name in ("learning_rate", "body_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate <= 1:
                raise UsageError(name.replace("_", " "), got=str(rate), expected="above 0, at most 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError("seed", got=str(self.seed), expected="0 to 2**63 - 1")
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", self.device, re.ASCII):
            raise UsageError("device", got=repr(self.device), expected="auto, cpu, cuda or cuda:N")
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

    def check_divisible(self, processes: int) -> None:
        """Check that a batch can be divided among processes.

        Raises:
            UsageError: the batch size is not a multiple of their number.
        """
        size = self.batch_size_or_default
        if size % processes:
            above = -(-size // processes) * processes
            raise UsageError(
                "batch size",
                got=f"{size} for {processes} processes",
                expected=f"a multiple of {processes}, which all processes share",
                next_step=f"For example: --batch-size {above}.",
            )

    @property
    def factory_options(self) -> dict[str, bool | int | float | str]:
        """The arguments of the architecture's factory, with the width."""
        width = {} if self.width is None else {"width": self.width}
        return {**self.architecture_options, **width}

    @property
    def recipe_values(self) -> Recipe:
        """The recipe."""
        return recipe_named(self.recipe)

    @property
    def epochs_or_default(self) -> int:
        """The number of epochs. A folder to fine-tune on has fewer images, so an epoch has fewer steps."""
        recipe = self.recipe_values
        return self.epochs or (recipe.epochs if self.weights is None else recipe.fine_tuning_epochs)

    @property
    def batch_size_or_default(self) -> int:
        """The images per step."""
        return self.batch_size or self.recipe_values.batch_size
