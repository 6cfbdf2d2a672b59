"""What trains these networks from nothing in minutes: initialisation, optimiser and schedule.

Kaiming's fan-in with a small last layer and Adam, warm-up and linear decay. SGD with the paper's or
PyTorch's own initialisation stays near chance for the few hundred steps that a small set has.
"""

from __future__ import annotations

from alexnet_model.extras import needs

with needs("train"):
    import torch
    from torch import nn

WARM_UP = 0.1  # of all steps


def initialise(network: nn.Module, architecture: str) -> None:
    """Fill weights from PyTorch's global generator; biases are zero."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if architecture == "lenet":  # sigmoids
            nn.init.xavier_uniform_(layer.weight)
        elif layer is layers[-1]:
            nn.init.normal_(layer.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def fitting_learning_rate(architecture: str, width: float) -> float:
    """Adam's learning rate at the top of the schedule: narrower networks take larger steps."""
    if architecture == "lenet":
        return 2e-2
    return min(2.5e-4 / width, 2e-3)


def share_of_learning_rate(step: int, steps: int) -> float:
    """0..1 for a step counted from 0: a linear warm-up, then a linear decay that ends just above 0."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return (steps - step) / (steps - warm_up + 1)


def computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; elsewhere autocast is slower than FP32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
