"""The training recipe: augmentation, initialisation and learning rate.

The recipe trains this project's networks from random weights in minutes: Kaiming initialisation with a small
last layer, Adam, a linear warm-up and a linear decay. SGD with the initialisation of the 2012 paper or of
PyTorch stays near chance for the few hundred steps of a small dataset.
"""

from __future__ import annotations

from alexnet_model.architectures import ARCHITECTURES
from alexnet_model.extras import needs

with needs("train"):
    import torch
    from kornia.augmentation import ColorJitter, RandomHorizontalFlip, RandomResizedCrop
    from torch import Tensor, nn

WARM_UP = 0.1  # share of all steps
# The new layer of a fine-tuned network has few steps to learn in, so its learning rate is this many times the
# one for training from random weights. The layers that start from weights get a share of that.
NEW_LAYER_FACTOR = 4
PRETRAINED_SHARE = 0.1


class Augmentation(nn.Module):
    """Change a batch of images at random: crop, brightness, contrast, saturation, and mirroring.

    It draws from PyTorch's global generator.

    Args:
        size: both sides of an image, in pixels.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
    """

    def __init__(self, size: int, *, mirrorable: bool) -> None:
        super().__init__()
        # The usual ImageNet crops start at 8% of the area, which leaves too little of a digit.
        self.crop = RandomResizedCrop((size, size), scale=(0.7, 1.0), ratio=(3 / 4, 4 / 3))
        self.flip = RandomHorizontalFlip(p=0.5) if mirrorable else nn.Identity()
        # One module with three effects takes half the time of three modules.
        self.colour = ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Augment uint8 images `(N, S, S, 3)`; return float pixels 0..255 of the same shape."""
        # Channels first in memory too, because kornia's crop is much faster that way.
        x = images.permute(0, 3, 1, 2).to(
            torch.float32, memory_format=torch.contiguous_format
        )  # (N, 3, S, S)
        x = self.flip(self.crop(x.div_(255)))
        # Four images at a time stay in the CPU cache during the jitter's many small operations.
        x = torch.cat([self.colour(few) for few in x.split(4)])
        pixels: Tensor = x.mul_(255).permute(0, 2, 3, 1)  # (N, S, S, 3)
        return pixels


def initialise(network: nn.Module, architecture: str) -> None:
    """Initialise the convolutions and linear layers; other layers keep PyTorch's initialisation.

    Args:
        network: changed in place. Weights are drawn from PyTorch's global generator; biases become 0.
        architecture: its name. "lenet" has sigmoids and gets Xavier's initialisation.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if architecture == "lenet":
            nn.init.xavier_uniform_(layer.weight)
        elif layer is layers[-1]:
            initialise_last(layer)
            continue
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


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


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share, above 0 and at most 1, of the highest learning rate at one step of the schedule.

    Args:
        step: counted from 0.
        steps: the number of steps of all epochs together.
    """
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return (steps - step) / (steps - warm_up + 1)


def has_bf16_instructions() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; without it autocast is slower than FP32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
