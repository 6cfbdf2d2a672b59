"""A network with random weights, for tests that need no trained one."""

from __future__ import annotations

import torch

from alexnet_model.architectures import build
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.class_names import DIGITS
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
