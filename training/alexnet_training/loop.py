"""One epoch of training, and the accuracy on a split."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from alexnet_model.classifier import Classifier
from alexnet_model.errors import LossNotFinite
from alexnet_model.extras import needs
from alexnet_model.progress import Progress

from .augmentation import mixup
from .devices import Compute
from .logs import Log
from .options import TrainingOptions
from .ranks import ALONE, Ranks, StopRequested
from .splits import Split
from .state import Accuracy, Position, TrainingState

with needs("train"):
    import torch
    from torch import Tensor, nn

EVALUATION_BATCH = 64  # images
TOP = 5  # classes
STEPS_PER_LOG_LINE = 10


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Train a network on the images of a split.

    Args:
        options: recipe, batch size (of all ranks together), epochs and seed.
        state: the network and all else that changes.
        classifier: takes uint8 or float images on the device; it holds the state's network.
        compute: the device.
        augmentation: applied to every batch.
        split: the training images.
        frozen: modules of the classifier that run in evaluation mode.
        log: called with some of the steps.
        forward: the classifier, compiled or distributed. None: the classifier.
        ranks: the processes that train together. All of them have the same state after each step.
        should_stop: called as often as losses are read. If it returns True in one process, all stop.
    """

    options: TrainingOptions
    state: TrainingState
    classifier: Classifier
    compute: Compute
    augmentation: nn.Module
    split: Split
    log: Log
    frozen: tuple[nn.Module, ...] = ()
    forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    ranks: Ranks = ALONE
    should_stop: Callable[[], bool] = lambda: False
    _unread: list[tuple[Tensor, Tensor, int]] = field(default_factory=list, init=False)  # of the last steps

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch. The images that are left over differ from epoch to epoch."""
        return max(1, len(self.split.labels) // self.options.batch_size_or_default)

    @property
    def steps(self) -> int:
        """The steps of all epochs together."""
        return self.options.epochs_or_default * self.steps_per_epoch

    def train_epoch(self, progress: Progress, after_step: Callable[[], None] = lambda: None) -> None:
        """Train from the state's position to the end of its epoch. This seeds PyTorch's global generator.

        Args:
            progress: called after every step with the rate, the means so far, and the time left.
            after_step: called after every step, before `progress`.

        Raises:
            LossNotFinite: the loss is not finite.
            DatasetError: too many images cannot be read, or a shard was changed.
            StopRequested: `should_stop` returned True.
        """
        state, position, size = self.state, self.state.position, self.options.batch_size_or_default
        epoch, steps = len(state.history), self.steps_per_epoch
        torch.manual_seed(_seed_of(self.options.seed, epoch))
        order = torch.randperm(len(self.split.labels)).numpy()[: steps * size]
        self.classifier.train()
        for module in self.frozen:
            module.eval()
        self._unread.clear()
        first, started, seconds_before = position.step, time.perf_counter(), position.seconds
        own = self.ranks.own_images(order[first * size :], size)
        batches = self.split.batches(own, size // self.ranks.count)
        for images, labels in self.compute.batches(batches):
            torch.manual_seed(_seed_of(self.options.seed, epoch, position.step + 1))
            rate = self._step(images, labels, epoch * steps + position.step)
            position.step += 1
            checked = position.step % self.compute.steps_per_check == 0
            if checked or position.step in (first + 1, steps):
                self.read_losses()
            elapsed_s = time.perf_counter() - started
            position.seconds = seconds_before + elapsed_s
            images_per_s = (position.step - first) * len(labels) * self.ranks.count / elapsed_s
            after_step()
            self._report(progress, rate, images_per_s)
            if checked and self.ranks.any(self.should_stop()):
                raise StopRequested

    def read_losses(self) -> None:
        """Add the losses of the last steps, which may still be on the device, to the state's position.

        Raises:
            LossNotFinite: a loss is not finite.
        """
        position = self.state.position
        losses = torch.stack([loss for loss, _, _ in self._unread]).tolist() if self._unread else []
        first = position.step - len(losses)
        for index, (loss, (_, correct, images)) in enumerate(zip(losses, self._unread, strict=True)):
            if not math.isfinite(loss):
                rates = [group["peak_learning_rate"] for group in self.state.optimiser.param_groups]
                raise LossNotFinite(
                    f"training epoch {len(self.state.history) + 1}, step {first + index + 1}",
                    got=f"a loss of {loss}",
                    expected="a finite loss",
                    next_step=f"Lower the learning rate, which is {rates[0]:g}.",
                )
            position.loss += loss * images
            position.correct += int(correct)
            position.images += images
        self._unread.clear()

    def _step(self, images: Tensor, labels: Tensor, step: int) -> float:
        """Change the weights by one batch; return the learning rate.

        Args:
            images: uint8 `(B, R, R, 3)` on the device, those of this rank.
            labels: `(B,)` on the device.
            step: counted from 0, over all epochs.
        """
        state, recipe = self.state, self.options.recipe_values
        validation = [record.validation.share for record in state.history]
        factor = recipe.learning_rate_factor(step, self.steps, validation)
        for group in state.optimiser.param_groups:
            group["lr"] = group["peak_learning_rate"] * factor
        augmented = self.augmentation(images)  # (B, S, S, 3)
        mixed = mixup(augmented, recipe.mixup) if recipe.mixup else None
        forward = self.classifier if self.forward is None else self.forward
        autocast = self.compute.autocast
        with torch.autocast(
            self.compute.device.type, autocast or torch.bfloat16, enabled=autocast is not None
        ):
            _, logits = forward(mixed.images if mixed else augmented)  # (B, classes)
        logits = logits.float()
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if mixed:
            partners = labels[mixed.partners]
            other = nn.functional.cross_entropy(logits, partners, label_smoothing=recipe.label_smoothing)
            loss = mixed.share * loss + (1 - mixed.share) * other
        correct = (logits.argmax(dim=1) == labels).sum()
        loss_of_all, correct_of_all = self.ranks.sum(torch.stack([loss.detach(), correct.float()]))
        loss_of_all = loss_of_all / self.ranks.count
        self._unread.append((loss_of_all, correct_of_all, len(labels) * self.ranks.count))
        if not self.compute.is_gpu and not math.isfinite(loss_of_all.item()):
            return 0.0  # `read_losses` raises the error; the weights must not change any more
        state.optimiser.zero_grad()
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        state.scaler.step(state.optimiser)
        state.scaler.update()
        if state.average:
            state.average.update(state.network, step)
        return float(state.optimiser.param_groups[0]["lr"])

    def _report(self, progress: Progress, rate: float, images_per_s: float) -> None:
        position, epochs = self.state.position, self.options.epochs_or_default
        epoch, steps = len(self.state.history), self.steps_per_epoch
        images = max(1, position.images)
        loss, accuracy = position.loss / images, position.correct / images
        left = self.steps - epoch * steps - position.step
        left_s = left * self.options.batch_size_or_default / images_per_s
        progress(
            f"training epoch {epoch + 1}/{epochs}",
            position.step,
            steps,
            f"loss {loss:.3f}, accuracy {accuracy:.1%}, {images_per_s:,.0f} images/s, lr {rate:.2g}, "
            f"{_clock(left_s)} left",
        )
        if position.step % STEPS_PER_LOG_LINE == 0 or position.step == steps:
            self.log(
                "step",
                epoch=epoch + 1,
                step=position.step,
                loss=loss,
                accuracy=accuracy,
                learning_rate=rate,
                images_per_s=round(images_per_s, 1),
                left_s=round(left_s, 1),
            )


def accuracy_of(
    classifier: Classifier,
    compute: Compute,
    split: Split,
    stage: str,
    progress: Progress,
    ranks: Ranks = ALONE,
    *,
    crop: int | None = None,
) -> Accuracy:
    """Measure top-1 and top-5 accuracy without autocast or augmentation.

    Args:
        classifier: on the device; left in evaluation mode.
        compute: the device.
        split: the images to classify.
        stage: the name that progress reports.
        progress: called after every batch.
        ranks: the processes that share the images; each gets the accuracy on all of them.
        crop: classify ten crops of this size of each image, and average their probabilities. None: classify
            the images as they are.

    Raises:
        DatasetError: too many images cannot be read, or a shard was changed.
    """
    images_of_all = len(split.labels)
    classifier.eval()
    correct = in_top = seen = 0
    with torch.inference_mode():
        own = np.array_split(np.arange(images_of_all), ranks.count)[ranks.rank]
        batches = split.batches(own, EVALUATION_BATCH)
        for images, labels in compute.batches(batches):
            views = [images] if crop is None else ten_crops(images, crop)
            probabilities = torch.stack([classifier(view)[0] for view in views]).mean(dim=0)  # (B, classes)
            first = probabilities.argmax(dim=1) == labels  # (B,)
            best = probabilities.topk(min(TOP, probabilities.shape[1])).indices  # (B, 5)
            # Equal probabilities: `topk` may leave out the class that `argmax` takes.
            top = first | (best == labels[:, None]).any(dim=1)
            correct += int(first.sum())
            in_top += int(top.sum())
            seen += len(labels)
            done = min(seen * ranks.count, images_of_all)
            progress(stage, done, images_of_all, f"accuracy {correct / seen:.1%}")
    # Not `images_of_all`: a streamed split leaves out images that cannot be read.
    correct, in_top, seen = ranks.sum(torch.tensor([correct, in_top, seen])).tolist()
    return Accuracy(correct, seen, in_top)


def ten_crops(images: Tensor, size: int) -> list[Tensor]:
    """Return the four corners and the centre of each image, and their mirror images.

    Args:
        images: `(N, R, R, 3)`.
        size: S, both sides of a crop in pixels, at most R.

    Returns:
        ten tensors `(N, S, S, 3)`.
    """
    last = images.shape[1] - size
    corners = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)]  # row, column
    crops = [images[:, row : row + size, column : column + size] for row, column in corners]
    return crops + [crop.flip(2) for crop in crops]


def epoch_means(position: Position) -> tuple[float, float]:
    """Return the mean loss and the mean accuracy (0..1) of the steps so far."""
    return position.loss / position.images, position.correct / position.images


def _clock(seconds: float) -> str:
    """Return `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _seed_of(*numbers: int) -> int:
    """Mix the numbers, so that neighbouring seeds, epochs and steps share no draws."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
