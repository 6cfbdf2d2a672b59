"""One epoch of training, and accuracy on a part: where the seconds go."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alexnet_model.classifier import Classifier
from alexnet_model.errors import TrainingError
from alexnet_model.extras import needs
from alexnet_model.progress import Progress

from .augmentation import Augmentation
from .options import TrainingOptions
from .parts import Part
from .recipe import computes_bf16, fitting_learning_rate, share_of_learning_rate

with needs("train"):
    import torch
    from torch import nn

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    correct: int
    images: int

    @property
    def share(self) -> float:
        return self.correct / self.images


@dataclass(frozen=True)
class EpochRecord:
    """`loss` and `accuracy` are means over the epoch's augmented images, as the weights moved."""

    loss: float
    accuracy: float
    validation: Accuracy
    seconds: float


@dataclass(frozen=True)
class Loop:
    """What an epoch moves and reads. `train_epoch` draws from PyTorch's global generator."""

    options: TrainingOptions
    classifier: Classifier
    optimiser: torch.optim.Adam
    augmentation: Augmentation
    part: Part

    @property
    def learning_rate(self) -> float:
        options = self.options
        return options.learning_rate or fitting_learning_rate(options.architecture, options.width)

    @property
    def steps_an_epoch(self) -> int:
        """Whole batches only: what is left over is another handful of images each epoch."""
        return max(1, len(self.part.labels) // self.options.batch_size)

    def train_epoch(self, epoch: int, progress: Progress) -> tuple[float, float]:
        """Train one epoch, counted from 0; returns the mean loss and accuracy.

        Raises:
            TrainingError: the loss is no longer finite.
            ImageError: an image became unreadable since it was first read.
        """
        options, steps = self.options, self.steps_an_epoch
        torch.manual_seed(_seed_of_epoch(options.seed, epoch))
        order = torch.randperm(len(self.part.labels)).numpy()[: steps * options.batch_size]
        self.classifier.train()
        total_loss, correct, seen = 0.0, 0, 0
        for step, (images, labels) in enumerate(self.part.batches(order, options.batch_size)):
            share = share_of_learning_rate(epoch * steps + step, options.epochs * steps)
            self.optimiser.param_groups[0]["lr"] = self.learning_rate * share
            augmented = self.augmentation(torch.from_numpy(images))  # (B, S, S, 3)
            targets = torch.from_numpy(labels)  # (B,)
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
                _, logits = self.classifier(augmented)  # (B, classes)
            loss = nn.functional.cross_entropy(logits.float(), targets)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"training epoch {epoch + 1}, step {step + 1}",
                    got=f"a loss of {loss.item()}",
                    expected="a finite loss",
                    next_step=f"Lower the learning rate, which is {self.learning_rate:g}.",
                )
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total_loss += loss.item() * len(labels)
            correct += int((logits.argmax(dim=1) == targets).sum())
            seen += len(labels)
            progress(
                f"training epoch {epoch + 1}/{options.epochs}",
                step + 1,
                steps,
                f"loss {total_loss / seen:.3f}, accuracy {correct / seen:.1%}",
            )
        return total_loss / seen, correct / seen


def accuracy_of(classifier: Classifier, part: Part, stage: str, progress: Progress) -> Accuracy:
    """Top-1 in FP32, in evaluation mode."""
    classifier.eval()
    correct = seen = 0
    with torch.inference_mode():
        for images, labels in part.batches(np.arange(len(part.labels)), EVALUATION_BATCH):
            probabilities, _ = classifier(torch.from_numpy(images))  # (B, classes)
            correct += int((probabilities.argmax(dim=1).numpy() == labels).sum())
            seen += len(labels)
            progress(stage, seen, len(part.labels), f"accuracy {correct / seen:.1%}")
    return Accuracy(correct, seen)


def _seed_of_epoch(seed: int, epoch: int) -> int:
    """Far apart for neighbouring seeds and epochs; a resumed run finds the same draws."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0])
