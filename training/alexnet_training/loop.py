"""One epoch of training, and the accuracy on a split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alexnet_model.classifier import Classifier
from alexnet_model.errors import TrainingError
from alexnet_model.extras import needs
from alexnet_model.progress import Progress

from .options import TrainingOptions
from .recipe import Augmentation, has_bf16_instructions, learning_rate_factor
from .splits import Split

with needs("train"):
    import torch
    from torch import nn

EVALUATION_BATCH = 64  # images


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy: `correct` of `images` were classified correctly."""

    correct: int
    images: int

    @property
    def share(self) -> float:
        """Accuracy as a share, 0..1."""
        return self.correct / self.images


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


@dataclass(frozen=True)
class Loop:
    """Train `classifier` with `optimiser` on the images of `split`.

    Args:
        options: batch size, epochs and seed.
        classifier: changed in place.
        optimiser: Adam; each of its groups has `peak_learning_rate`, the highest of the schedule.
        augmentation: applied to every batch.
        split: the training images.
        frozen: modules of the classifier that run in evaluation mode.
    """

    options: TrainingOptions
    classifier: Classifier
    optimiser: torch.optim.Adam
    augmentation: Augmentation
    split: Split
    frozen: tuple[nn.Module, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch. The images that are left over differ from epoch to epoch."""
        return max(1, len(self.split.labels) // self.options.batch_size)

    def train_epoch(self, epoch: int, progress: Progress) -> tuple[float, float]:
        """Train for one epoch. This seeds PyTorch's global generator.

        Args:
            epoch: counted from 0.
            progress: called after every step with the mean loss and accuracy so far.

        Returns:
            The mean loss and the mean accuracy (0..1) of the epoch.

        Raises:
            TrainingError: the loss is not finite.
            ImageError: an image has become unreadable since it was checked.
        """
        options, steps, epochs = self.options, self.steps_per_epoch, self.options.epochs_or_default
        torch.manual_seed(_seed_of_epoch(options.seed, epoch))
        order = torch.randperm(len(self.split.labels)).numpy()[: steps * options.batch_size]
        self.classifier.train()
        for module in self.frozen:
            module.eval()
        total_loss, correct, seen = 0.0, 0, 0
        for step, (images, labels) in enumerate(self.split.batches(order, options.batch_size)):
            factor = learning_rate_factor(epoch * steps + step, epochs * steps)
            for group in self.optimiser.param_groups:
                group["lr"] = group["peak_learning_rate"] * factor
            augmented = self.augmentation(torch.from_numpy(images))  # (B, S, S, 3)
            targets = torch.from_numpy(labels)  # (B,)
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16_instructions()):
                _, logits = self.classifier(augmented)  # (B, classes)
            loss = nn.functional.cross_entropy(logits.float(), targets)
            if not math.isfinite(loss.item()):
                rates = [group["peak_learning_rate"] for group in self.optimiser.param_groups]
                raise TrainingError(
                    f"training epoch {epoch + 1}, step {step + 1}",
                    got=f"a loss of {loss.item()}",
                    expected="a finite loss",
                    next_step=f"Lower the learning rate, which is {rates[0]:g}.",
                )
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total_loss += loss.item() * len(labels)
            correct += int((logits.argmax(dim=1) == targets).sum())
            seen += len(labels)
            progress(
                f"training epoch {epoch + 1}/{epochs}",
                step + 1,
                steps,
                f"loss {total_loss / seen:.3f}, accuracy {correct / seen:.1%}",
            )
        return total_loss / seen, correct / seen


def accuracy_of(classifier: Classifier, split: Split, stage: str, progress: Progress) -> Accuracy:
    """Measure top-1 accuracy in FP32, without augmentation.

    Args:
        classifier: left in evaluation mode.
        split: the images to classify.
        stage: the name that progress reports.
        progress: called after every batch.

    Raises:
        ImageError: an image has become unreadable since it was checked.
    """
    classifier.eval()
    correct = seen = 0
    with torch.inference_mode():
        for images, labels in split.batches(np.arange(len(split.labels)), EVALUATION_BATCH):
            probabilities, _ = classifier(torch.from_numpy(images))  # (B, classes)
            correct += int((probabilities.argmax(dim=1).numpy() == labels).sum())
            seen += len(labels)
            progress(stage, seen, len(split.labels), f"accuracy {correct / seen:.1%}")
    return Accuracy(correct, seen)


def _seed_of_epoch(seed: int, epoch: int) -> int:
    """Mix both numbers, so that neighbouring seeds and epochs share no draws."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0])
