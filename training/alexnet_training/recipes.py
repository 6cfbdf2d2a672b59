"""The recipes: how networks are trained, as functions that return a `Recipe`.

    digits       minutes on a CPU, from a few hundred images on; the default
    paper-2012   as in Krizhevsky, Sutskever and Hinton (2012), for datasets of ImageNet's size
    modern       AdamW, cosine, label smoothing, mixup, and an average of the weights

This module does not need PyTorch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from alexnet_model.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. `TrainingOptions` can replace the first four values.

    Args:
        name: the key in `RECIPES`.
        epochs: passes over the training images, from random weights.
        fine_tuning_epochs: passes over the training images, from pretrained weights.
        batch_size: images per step.
        learning_rate: the highest of the schedule. None: chosen by architecture and width
            (`initialisation.default_learning_rate`).
        optimiser: the rule that changes the weights. SGD has a momentum of 0.9.
        weight_decay: the factor of the decay: of all weights with SGD, as in 2012; with AdamW only of those
            with more than one dimension, so not of biases and norms.
        schedule: "linear" is a linear warm-up and decay, "cosine" a linear warm-up and the half of a cosine,
            and "plateau" divides the rate by 10 when the validation accuracy has not risen for `patience`
            epochs, at most three times.
        warm_up: the share of all steps with a rising rate; not used by "plateau".
        patience: epochs, for "plateau".
        initialisation: of random weights, see `initialisation.initialise`.
        augmentation: "resized-crops" changes crop, size, brightness, contrast and saturation;
            "paper-2012" moves a crop of the same size and adds noise along the principal colours of the
            training images. Both mirror images, if their classes allow it.
        smallest_crop: for "resized-crops", the smallest share of the area.
        keeps_margin: read training images with the margin that the contract's centre crop removes, so that
            random crops can reach it.
        label_smoothing: the share of the target that is spread over all classes, 0..1.
        mixup: the parameter of the beta distribution that mixes two images and their labels; 0 mixes none.
        average: the decay per step of an exponential moving average of the weights, which is evaluated and
            written in the place of the last weights; 0 averages nothing.
    """

    name: str
    epochs: int
    fine_tuning_epochs: int
    batch_size: int
    learning_rate: float | None = None
    optimiser: Literal["adam", "adamw", "sgd"]
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine", "plateau"]
    warm_up: float = 0.1
    patience: int = 5
    initialisation: Literal["kaiming", "paper-2012"] = "kaiming"
    augmentation: Literal["resized-crops", "paper-2012"] = "resized-crops"
    smallest_crop: float = 0.7
    keeps_margin: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    average: float = 0.0

    def learning_rate_factor(self, step: int, steps: int, validation: Sequence[float] = ()) -> float:
        """Return the share, above 0 and at most 1, of the highest learning rate at one step.

        Args:
            step: counted from 0.
            steps: the number of steps of all epochs together.
            validation: the validation accuracy (0..1) after each finished epoch; only "plateau" uses it.
        """
        if self.schedule == "plateau":
            return float(0.1 ** plateau_drops(validation, self.patience))
        warm_up = max(1, round(self.warm_up * steps))
        if step < warm_up:
            return (step + 1) / warm_up
        left = (steps - step) / (steps - warm_up + 1)
        return left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def digits() -> Recipe:
    """Return the default recipe, which learns scikit-learn's digits from random weights in minutes.

    Kaiming initialisation with a small last layer, Adam, a linear warm-up and decay. SGD with the
    initialisation of the 2012 paper or of PyTorch stays near chance for the few hundred steps of a small
    dataset. Crops keep at least 70% of the area, because less leaves too little of a digit.
    """
    return Recipe(
        name="digits",
        epochs=4,
        fine_tuning_epochs=10,
        batch_size=32,
        optimiser="adam",
        schedule="linear",
    )


def paper_2012() -> Recipe:
    """Return the recipe of the 2012 paper (sections 4.1 and 5), for datasets of ImageNet's size.

    SGD with momentum 0.9 and weight decay 0.0005, batches of 128, a learning rate of 0.01 that is divided by
    10 when the validation accuracy stops rising, about 90 epochs; random crops and mirroring, and noise along
    the principal colours. With its initialisation (normal, standard deviation 0.01, some biases 1) a network
    stays near chance for its first thousands of steps, so it is of no use for small datasets.
    """
    return Recipe(
        name="paper-2012",
        epochs=90,
        fine_tuning_epochs=20,
        batch_size=128,
        learning_rate=0.01,
        optimiser="sgd",
        weight_decay=5e-4,
        schedule="plateau",
        initialisation="paper-2012",
        augmentation="paper-2012",
        keeps_margin=True,
    )


def modern() -> Recipe:
    """Return a recipe of what was found since 2012, for datasets that are trained on for many epochs.

    AdamW with a warm-up and a cosine, label smoothing 0.1, mixup, smaller crops, and an exponential moving
    average of the weights. On a few hundred images and few epochs, "digits" is better.
    """
    return Recipe(
        name="modern",
        epochs=60,
        fine_tuning_epochs=20,
        batch_size=128,
        optimiser="adamw",
        weight_decay=0.05,
        schedule="cosine",
        warm_up=0.05,
        smallest_crop=0.35,
        keeps_margin=True,
        label_smoothing=0.1,
        mixup=0.2,
        average=0.999,
    )


#: The recipes by name: `digits`, `paper-2012` and `modern`. Each value is a function that returns a `Recipe`.
RECIPES: dict[str, Callable[[], Recipe]] = {"digits": digits, "paper-2012": paper_2012, "modern": modern}


def recipe_named(name: str) -> Recipe:
    """Return a recipe of `RECIPES`.

    Raises:
        UsageError: there is no such recipe.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        raise UsageError(
            "recipe",
            got=repr(name),
            expected=f"one of {', '.join(RECIPES)}",
            next_step=f"Did you mean {close[0]}?" if close else "",
        )
    return RECIPES[name]()


def plateau_drops(accuracies: Sequence[float], patience: int) -> int:
    """Return how often the learning rate has been divided by 10, at most 3 times as in 2012.

    Args:
        accuracies: the validation accuracy after each finished epoch.
        patience: so many epochs in a row without a new best accuracy divide the rate once.
    """
    best, since_best, drops = -math.inf, 0, 0
    for accuracy in accuracies:
        if accuracy > best:
            best, since_best = accuracy, 0
            continue
        since_best += 1
        if since_best == patience:
            drops, since_best = drops + 1, 0
    return min(drops, 3)
