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


def random_checkpoint(architecture: str = "alexnet", width: float = 0.1) -> Checkpoint:
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
        contract=Contract(),
        training={},
        weights=network.state_dict(),
    )


def trained_on_digits(factory: Callable[[int], nn.Module], contract: Contract, steps: int = 80) -> nn.Module:
    """A network that tells most digits apart, so that its predictions do not hang on rounding."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small layers take longer on more threads
    network = factory(len(DIGITS))
    classifier = Classifier(network, contract).train()
    images = prepared_from_set(splits_from("digits").train, contract)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        batch = torch.randint(len(images.labels), (64,)).numpy()
        _, logits = classifier(torch.from_numpy(images.images[batch]))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(images.labels[batch]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    torch.set_num_threads(threads)
    return network.eval()
