"""The model that is exported and served: a network with the contract's input and outputs."""

from __future__ import annotations

from .contract import Contract
from .extras import needs

with needs("export"):
    import torch
    from torch import Tensor, nn


class Classifier(nn.Module):
    """Take uint8 images `(N, S, S, 3)`; return float probabilities and logits, each `(N, classes)`.

    The cast comes before the transpose, because TensorRT needs that order.

    Args:
        network: maps normalised images `(N, 3, S, S)` to logits.
        contract: its mean and standard deviation, in the channel order of its images.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        mean = torch.tensor(contract.mean).view(1, 3, 1, 1)
        std = torch.tensor(contract.std).view(1, 3, 1, 1)
        # (x / 255 - mean) / std as one subtraction and one multiplication.
        self.register_buffer("mean", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def normalised(self, image: Tensor) -> Tensor:
        """Return the network's input `(N, 3, S, S)` for uint8 or float pixels 0..255 `(N, S, S, 3)`."""
        x = image.to(self.mean.dtype).permute(0, 3, 1, 2)  # (N, 3, S, S)
        return (x - self.mean) * self.scale

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits `(N, classes)` for images as `normalised` takes them."""
        logits = self.network(self.normalised(image))  # (N, classes)
        return torch.softmax(logits, dim=1), logits
