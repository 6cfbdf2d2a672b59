"""Networks for tests: with random weights, or trained for seconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from alexnet_model import prepared_from_set, splits_from
from alexnet_model.architectures import build
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.class_names import DIGITS
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract

# Images that take a twelfth of the time. Most of an export is its gate, which classifies hundreds of images.
SMALL = Contract(size=64, resize=64)


def random_checkpoint(
    architecture: str = "alexnet", width: float = 0.1, contract: Contract | None = None
) -> Checkpoint:
    """A checkpoint with fixed random weights, large enough that different images get different logits."""
    torch.manual_seed(0)
    network = build(architecture, len(DIGITS), width=width)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
    return Checkpoint(
        architecture=architecture,
        options={"width": width},
        class_names=DIGITS,
        contract=contract or Contract(),
        training={},
        weights=network.state_dict(),
    )


def small_trained_checkpoint() -> Checkpoint:
    """A narrow AlexNet for images of 64 pixels, trained until INT8 changes hardly any prediction."""

    def factory(classes: int) -> nn.Module:
        network = build("alexnet", classes, width=0.1)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.2  # so narrow a network learns slowly with half of its neurons
        return network

    network = trained_on_digits(factory, SMALL, steps=400, learning_rate=0.002, last_rate=0.02)
    return Checkpoint(
        architecture="alexnet",
        options={"width": 0.1},
        class_names=DIGITS,
        contract=SMALL,
        training={"data": "digits"},
        weights=network.state_dict(),
    )


def trained_on_digits(
    factory: Callable[[int], nn.Module],
    contract: Contract,
    *,
    steps: int,
    learning_rate: float,
    last_rate: float,
) -> nn.Module:
    """A network that tells most digits apart, so that its predictions do not hang on rounding.

    The learning rate falls in equal steps to the share `last_rate` of it.
    """
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small layers take longer on more threads
    network = factory(len(DIGITS))
    classifier = Classifier(network, contract).train()
    images = prepared_from_set(splits_from("digits").train, contract)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, last_rate, steps)
    for _ in range(steps):
        batch = torch.randint(len(images.labels), (64,)).numpy()
        _, logits = classifier(torch.from_numpy(images.images[batch]))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(images.labels[batch]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    torch.set_num_threads(threads)
    return network.eval()
