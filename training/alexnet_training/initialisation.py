"""The initialisation of random weights, and the learning rate that goes with it."""

from __future__ import annotations

from typing import Literal

from alexnet_model.architectures import ARCHITECTURES
from alexnet_model.extras import needs

with needs("train"):
    from torch import nn

# The new layer of a fine-tuned network has few steps to learn in, so its learning rate is this many times the
# one for training from random weights. The layers that start from weights get a share of that.
NEW_LAYER_FACTOR = 4
PRETRAINED_SHARE = 0.1
STARTED_AT_ONE = (1, 3, 4)  # the paper's second, fourth and fifth convolution


def initialise(
    network: nn.Module, architecture: str, rule: Literal["kaiming", "paper-2012"] = "kaiming"
) -> None:
    """Initialise the convolutions and linear layers; other layers keep PyTorch's initialisation.

    Args:
        network: changed in place. Weights are drawn from PyTorch's global generator.
        architecture: its name. "lenet" has sigmoids and gets Xavier's initialisation by any rule.
        rule: "kaiming" scales by the number of inputs, with small weights in the last layer, and biases of 0.
            "paper-2012" draws all weights with a standard deviation of 0.01; the biases of convolutions 2, 4
            and 5 and of hidden linear layers are 1, the others 0.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    at_one: list[nn.Module] = [convolutions[index] for index in STARTED_AT_ONE if index < len(convolutions)]
    at_one += [layer for layer in layers[:-1] if isinstance(layer, nn.Linear)]
    for layer in layers:
        bias = 0.0
        if architecture == "lenet":
            nn.init.xavier_uniform_(layer.weight)
        elif rule == "paper-2012":
            nn.init.normal_(layer.weight, std=0.01)
            bias = 1.0 if any(layer is other for other in at_one) else 0.0
        elif layer is layers[-1]:
            initialise_last(layer)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)


def initialise_last(layer: nn.Module) -> None:
    """Initialise the layer that returns the logits; they are near 0 at first.

    Args:
        layer: a linear layer or a convolution, changed in place. Another module keeps its initialisation.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def default_learning_rate(architecture: str, width: float = 1.0) -> float:
    """Return Adam's highest learning rate for an architecture.

    Args:
        architecture: its name. A network that is not of this project gets Adam's usual rate.
        width: the factor of every hidden layer's size; narrower networks get a higher rate.
    """
    if architecture not in ARCHITECTURES:
        return 1e-3
    if architecture == "lenet":
        return 2e-2
    return min(2.5e-4 / width, 2e-3)
