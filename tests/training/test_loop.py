from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_model import Contract, splits_from
from alexnet_model.architectures import AlexNet
from alexnet_model.classifier import Classifier
from alexnet_model.progress import silent
from alexnet_training import TrainingOptions
from alexnet_training.augmentation import Augmentation
from alexnet_training.devices import compute_on
from alexnet_training.loop import Loop, accuracy_of
from alexnet_training.splits import prepared_from_splits
from alexnet_training.state import EpochRecord, Position, TrainingState


@pytest.fixture
def loop(stripes: Path) -> Loop:
    contract, splits, compute = Contract(), splits_from(str(stripes)), compute_on("cpu")
    network = AlexNet(2, width=0.02)
    optimiser = torch.optim.Adam(
        [
            {"params": network.classifier.parameters(), "peak_learning_rate": 0.004},
            {"params": network.features.parameters(), "peak_learning_rate": 0.0004},
        ],
        fused=True,
    )
    return Loop(
        options=TrainingOptions(epochs=3, batch_size=10),
        state=TrainingState(network, optimiser, compute.scaler()),
        classifier=Classifier(network, contract),
        compute=compute,
        augmentation=Augmentation(contract.size, mirrorable=True),
        split=prepared_from_splits(splits, contract, progress=silent).train,
        log=lambda event, **values: None,
    )


@pytest.mark.slow
def test_both_learning_rates_follow_one_schedule_over_all_epochs(loop: Loop) -> None:
    rates: list[float] = []
    pretrained: list[float] = []

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        rates.append(loop.state.optimiser.param_groups[0]["lr"])
        pretrained.append(loop.state.optimiser.param_groups[1]["lr"])

    for _ in range(3):
        loop.train_epoch(note)
        accuracy = accuracy_of(loop.classifier, loop.compute, loop.split, "accuracy", silent)
        loop.state.history.append(EpochRecord(0.0, 0.0, accuracy, 0.0))
        loop.state.position = Position()
    # 32 images are 3 complete batches of 10.
    recipe = loop.options.recipe_values
    assert rates == pytest.approx([0.004 * recipe.learning_rate_factor(step, 9) for step in range(9)])
    assert pretrained == pytest.approx([rate / 10 for rate in rates])


def test_accuracy_covers_every_image_without_dropout_or_augmentation(loop: Loop) -> None:
    first = accuracy_of(loop.classifier, loop.compute, loop.split, "accuracy", silent)
    assert not loop.classifier.training
    assert accuracy_of(loop.classifier, loop.compute, loop.split, "accuracy", silent) == first
    assert first.images == 32

    with torch.inference_mode():
        images, labels = next(loop.split.batches(torch.arange(32).numpy(), 32))
        _, logits = loop.classifier(torch.from_numpy(images))
    assert first.correct == int((logits.argmax(dim=1).numpy() == labels).sum())
    assert first.share == first.correct / 32
    assert first.correct_in_top_5 == 32  # of two classes


class Ranked(torch.nn.Module):
    """Return logits that rank the class of the image's first pixel, and then the classes from 0 on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = -torch.arange(8.0).repeat(len(x), 1)  # (N, 8)
        logits[torch.arange(len(x)), x[:, 0, 0, 0].long()] = 1
        return logits


def test_top_1_and_top_5_count_the_rank_of_the_class_of_each_image() -> None:
    from alexnet_training.splits import SplitInMemory

    contract = Contract(size=4, resize=4, mean=(0, 0, 0), std=(1 / 255,) * 3)  # the network gets 0..255
    images = torch.full((8, 4, 4, 3), 7, dtype=torch.uint8).numpy()
    images[:2] = 0
    labels = torch.tensor([0, 1, 7, 0, 3, 4, 5, 6]).numpy()
    # Ranks: of class 0 right; 1 is second; 7 right; 0, 3 are in the best five, 4, 5 and 6 are not.
    names = tuple("abcdefgh")
    split = SplitInMemory(images, labels, names, names, ())
    accuracy = accuracy_of(Classifier(Ranked(), contract), compute_on("cpu"), split, "accuracy", silent)
    assert (accuracy.correct, accuracy.correct_in_top_5, accuracy.images) == (2, 5, 8)
    assert (accuracy.share, accuracy.top_5_share) == (2 / 8, 5 / 8)
