from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_model import Contract, splits_from
from alexnet_model.architectures import AlexNet
from alexnet_model.classifier import Classifier
from alexnet_model.progress import silent
from alexnet_training import TrainingOptions
from alexnet_training.loop import Loop, accuracy_of
from alexnet_training.recipe import Augmentation, learning_rate_factor
from alexnet_training.splits import prepared_from_splits


@pytest.fixture
def loop(stripes: Path) -> Loop:
    contract, splits = Contract(), splits_from(str(stripes))
    network = AlexNet(2, width=0.02)
    return Loop(
        options=TrainingOptions(epochs=3, batch_size=10),
        classifier=Classifier(network, contract),
        optimiser=torch.optim.Adam(
            [
                {"params": network.classifier.parameters(), "peak_learning_rate": 0.004},
                {"params": network.features.parameters(), "peak_learning_rate": 0.0004},
            ],
            fused=True,
        ),
        augmentation=Augmentation(contract.size, mirrorable=True),
        split=prepared_from_splits(splits, contract, progress=silent).train,
    )


@pytest.mark.slow
def test_both_learning_rates_follow_one_schedule_over_all_epochs(loop: Loop) -> None:
    rates: list[float] = []
    pretrained: list[float] = []

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        rates.append(loop.optimiser.param_groups[0]["lr"])
        pretrained.append(loop.optimiser.param_groups[1]["lr"])

    for epoch in range(3):
        loop.train_epoch(epoch, note)
    # 32 images are 3 complete batches of 10.
    assert rates == pytest.approx([0.004 * learning_rate_factor(step, 9) for step in range(9)])
    assert pretrained == pytest.approx([rate / 10 for rate in rates])


def test_accuracy_covers_every_image_without_dropout_or_augmentation(loop: Loop) -> None:
    first = accuracy_of(loop.classifier, loop.split, "accuracy", silent)
    assert not loop.classifier.training
    assert accuracy_of(loop.classifier, loop.split, "accuracy", silent) == first
    assert first.images == 32

    with torch.inference_mode():
        images, labels = next(loop.split.batches(torch.arange(32).numpy(), 32))
        _, logits = loop.classifier(torch.from_numpy(images))
    assert first.correct == int((logits.argmax(dim=1).numpy() == labels).sum())
    assert first.share == first.correct / 32
