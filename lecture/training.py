"""Train this project's networks for the experiments, with its own training loop, on one thread.

All images are uint8 `(N, 64, 64, 3)`. LeNet shrinks them itself, so that an experiment
keeps small images in memory and augments small images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from alexnet_model.architectures import AlexNet, build
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.datasets import splits_from
from alexnet_model.labelled_images import ImageDataset
from alexnet_training.augmentation import Augmentation
from alexnet_training.devices import Compute
from alexnet_training.initialisation import default_learning_rate, initialise
from alexnet_training.loop import Loop, epoch_means
from alexnet_training.options import TrainingOptions
from alexnet_training.splits import SplitInMemory
from alexnet_training.state import Accuracy, EpochRecord, Position, TrainingState

SIDE = 64  # pixels of all images here
LENET_SIDE = 28
WIDTH = 0.125  # of the small AlexNet: an eighth of every layer's channels
BATCH = 32
LENET_RATE = 2e-3  # Adam's highest learning rates
ALEXNET_RATE = 2e-3
LENET_SIGMOID_RATE = default_learning_rate("lenet")


@dataclass(frozen=True)
class Data:
    """A training split and a test split."""

    train: SplitInMemory
    test: SplitInMemory


@lru_cache(maxsize=2)
def data_named(name: str) -> Data:
    """Return `digits` or `cluttered-digits:VIEWS` of this project, at 64x64 pixels."""
    splits = splits_from(name)
    return Data(_prepared(splits.train), _prepared(splits.test))


def _prepared(images: ImageDataset) -> SplitInMemory:
    pixels = np.stack([_enlarged(image.source) for image in images.images])  # type: ignore[arg-type]
    return split_of(pixels, np.array([image.label for image in images.images]))


def _enlarged(image: Image.Image) -> Uint8Array:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB"))


@lru_cache(maxsize=1)
def framed_digits() -> Data:
    """Return clean digits of 48 pixels in the middle of 64x64 black pixels, so that they can move."""
    whole = data_named("digits")

    def framed(split: SplitInMemory) -> SplitInMemory:
        images = np.zeros_like(split.images)
        for index, image in enumerate(split.images):
            small = Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)
            images[index, 8:56, 8:56] = np.asarray(small)
        return split_of(images, split.labels)

    return Data(framed(whole.train), framed(whole.test))


def split_of(images: Uint8Array, labels: npt.NDArray[np.integer[Any]]) -> SplitInMemory:
    """Return a split of uint8 images `(N, 64, 64, 3)` and labels `(N,)`."""
    return SplitInMemory(images, labels.astype(np.int64), (), (), ())


def part_of(split: SplitInMemory, indices: npt.NDArray[np.integer[Any]]) -> SplitInMemory:
    """Return some images of a split."""
    return split_of(split.images[indices], split.labels[indices])


def indices_of_views(images: int, drawn: int, views: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the indices of some of the views of each digit; neighbouring seeds take other views.

    Args:
        images: the number of images; the views of one digit are neighbours.
        drawn: views of each digit among the images.
        views: how many to take.
        seed: selects them.
    """
    chosen = [(seed * views + view) % drawn for view in range(views)]
    digits = np.arange(images // drawn) * drawn
    return (digits[:, None] + chosen).ravel()


class _Grey(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grey = x.mean(dim=1, keepdim=True)  # (N, 1, 64, 64)
        return nn.functional.adaptive_avg_pool2d(grey, LENET_SIDE)  # (N, 1, 28, 28)


def small_alexnet(seed: int, *, batch_norm: bool = True) -> nn.Module:
    """Return `alexnet-bn` or `alexnet` at a small width, for images of 64 pixels.

    The first convolution has 5x5 weights and a stride of 2, instead of 11x11 and 4. Dropout is off, because
    with it a network this narrow stays near chance for hundreds of steps.
    """
    torch.manual_seed(seed)
    name = "alexnet-bn" if batch_norm else "alexnet"
    network = build(name, 10, width=WIDTH)
    assert isinstance(network, AlexNet)
    first = network.features[0]
    assert isinstance(first, nn.Conv2d)
    network.features[0] = nn.Conv2d(
        3, first.out_channels, kernel_size=5, stride=2, padding=2, bias=not batch_norm
    )
    initialise(network, name)
    return replaced(network, nn.Dropout, lambda _: nn.Identity())


def lenet(seed: int) -> nn.Sequential:
    """Return this project's `lenet`, whose first layer averages 64x64 instead of 224x224 pixels."""
    torch.manual_seed(seed)
    layers = list(build("lenet", 10).children())
    network = nn.Sequential(_Grey(), *layers[1:])
    initialise(network, "lenet")
    return network


def lenet_relu(seed: int, *, hidden: int | None = None, dropout: float = 0.0) -> nn.Sequential:
    """Return `lenet` with ReLU and max pooling, and Kaiming initialisation.

    Args:
        seed: of the weights.
        hidden: units of both hidden layers. None: 120 and 84.
        dropout: the share of hidden units that are dropped in training.
    """
    network = lenet(seed)
    replaced(network, nn.AvgPool2d, lambda _: nn.MaxPool2d(2))
    replaced(network, nn.Sigmoid, lambda _: nn.ReLU())
    layers = list(network)
    if hidden is not None:
        layers[8], layers[10], layers[12] = (
            nn.Linear(400, hidden),
            nn.Linear(hidden, hidden),
            nn.Linear(hidden, 10),
        )
    if dropout:
        layers[10:10], layers[13:13] = [nn.Dropout(dropout)], [nn.Dropout(dropout)]
    torch.manual_seed(seed)
    network = nn.Sequential(*layers)
    initialise(network, "alexnet")  # Kaiming; the name "lenet" would give Xavier, which is for sigmoids
    return network


def replaced(network: nn.Module, old: type[nn.Module], new: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace all layers of one type, in place; return the network."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, old):
                setattr(module, name, new(child))
    return network


def augmented() -> nn.Module:
    """Return the augmentation of the recipe `digits`: crops and colours, no mirroring."""
    return Augmentation(SIDE, mirrorable=False)


def fitted(
    network: nn.Module,
    split: SplitInMemory,
    *,
    seed: int,
    epochs: int,
    learning_rate: float,
    optimiser: Literal["adam", "sgd"] = "adam",
    augmentation: nn.Module | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> Loop:
    """Train a network in place with the loop and the schedule of the recipe `digits`.

    Args:
        network: maps normalised images `(N, 3, 64, 64)` to logits.
        split: the training images.
        seed: of their order, the augmentation and dropout.
        epochs: passes over them.
        learning_rate: the highest of the schedule, a linear warm-up and decay.
        optimiser: Adam, or SGD with momentum 0.9.
        augmentation: of a batch. None: no augmentation.
        after_step: called after every step.
    """
    options = TrainingOptions(epochs=epochs, batch_size=min(BATCH, len(split.labels)), seed=seed)
    weights = list(network.parameters())
    rule = (
        torch.optim.Adam(weights, fused=True)
        if optimiser == "adam"
        else torch.optim.SGD(weights, lr=learning_rate, momentum=0.9, fused=True)
    )
    rule.param_groups[0]["peak_learning_rate"] = learning_rate
    compute = Compute(torch.device("cpu"), None)
    state = TrainingState(network, rule, compute.scaler())
    loop = Loop(
        options=options,
        state=state,
        classifier=Classifier(network, Contract()),
        compute=compute,
        augmentation=augmentation or nn.Identity(),
        split=split,
        log=lambda *_, **__: None,
    )
    for _ in range(epochs):
        loop.train_epoch(lambda *_: None, after_step)
        position = state.position
        seen = Accuracy(position.correct, position.images, position.correct)  # the schedule does not use it
        state.history.append(EpochRecord(*epoch_means(position), seen, position.seconds))
        state.position = Position()
    return loop


def logits_of(network: nn.Module, images: Uint8Array) -> Tensor:
    """Return logits `(N, 10)` for uint8 images `(N, 64, 64, 3)`."""
    classifier = Classifier(network, Contract()).eval()
    with torch.inference_mode():
        return torch.cat([classifier(torch.from_numpy(few))[1] for few in _chunks(images)])


def accuracy(network: nn.Module, split: SplitInMemory) -> float:
    """Return the share of a split's images that are classified correctly, 0..1."""
    found = logits_of(network, split.images).argmax(dim=1).numpy()
    return float((found == split.labels).mean())


def _chunks(images: Uint8Array) -> Iterator[Uint8Array]:
    for start in range(0, len(images), 64):
        yield images[start : start + 64]
