"""The state of a run between two steps: what a resumed run needs to continue with the same numbers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from alexnet_model.extras import needs

with needs("train"):
    import torch
    from torch import nn


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy.

    Args:
        correct: images whose most probable class is theirs.
        images: all images.
        correct_in_top_5: images whose class is among the five most probable ones.
    """

    correct: int
    images: int
    correct_in_top_5: int

    @property
    def share(self) -> float:
        """Top-1 accuracy as a share, 0..1."""
        return self.correct / self.images

    @property
    def top_5_share(self) -> float:
        """Top-5 accuracy as a share, 0..1."""
        return self.correct_in_top_5 / self.images


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch.

    `loss` and `accuracy` (0..1) are means over the epoch's augmented training images, each computed before
    the step that used it. `validation` is the accuracy after the epoch.
    """

    loss: float
    accuracy: float
    validation: Accuracy
    seconds: float


@dataclass
class Position:
    """Where a run is in an unfinished epoch.

    Args:
        step: finished steps of the epoch.
        images: images of these steps.
        loss: the sum of their losses.
        correct: how many were classified correctly.
        seconds: the time of these steps.
    """

    step: int = 0
    images: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


class MovingAverage:
    """An exponential moving average of a network's weights and buffers.

    Args:
        network: copied; it can be on any device.
        decay: the share of the average that a step keeps. In the first steps it is smaller, because the
            average starts from random weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Include the weights after one step.

        Args:
            network: the network that is trained.
            step: counted from 0, over all epochs.
        """
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, values = self.network.state_dict(), network.state_dict()
        floating = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating], [values[name] for name in floating], share
        )
        for name in values.keys() - set(floating):
            averages[name].copy_(values[name])


@dataclass
class TrainingState:
    """What changes during a run.

    Args:
        network: the network that is trained.
        optimiser: on those of its weights that are trained. Each group has `peak_learning_rate`, the highest
            of the schedule.
        scaler: of gradients in float16.
        average: the moving average of the weights. None: the recipe has none.
        history: the finished epochs.
        position: in the epoch after these.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None = None
    history: list[EpochRecord] = field(default_factory=list)
    position: Position = field(default_factory=Position)

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and to write: the average, if there is one."""
        return self.average.network if self.average else self.network

    @property
    def described(self) -> str:
        """Where the run is, such as `epoch 3, step 40`: finished steps of an epoch counted from 1."""
        if self.history and not self.position.step:
            return f"the end of epoch {len(self.history)}"
        return f"epoch {len(self.history) + 1}, step {self.position.step}"
