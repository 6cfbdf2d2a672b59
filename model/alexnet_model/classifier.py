"""The model that is exported and served: the contract's input and outputs around a network."""

from __future__ import annotations

from .contract import Contract
from .extras import needs

with needs("export"):
    import torch
    from torch import Tensor, nn


class Classifier(nn.Module):
    """uint8 `(N, 224, 224, 3)` in; probabilities and logits `(N, classes)` float out.

    TensorRT wants the cast before the transpose, so that is the order here.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        mean = torch.tensor(contract.mean).view(1, 3, 1, 1)
        std = torch.tensor(contract.std).view(1, 3, 1, 1)
        # (x / 255 - mean) / std as one subtraction and one product.
        self.register_buffer("mean", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def normalised(self, image: Tensor) -> Tensor:
        """uint8 or float pixels 0..255 `(N, 224, 224, 3)` to the network's input `(N, 3, 224, 224)`."""
        x = image.to(self.mean.dtype).permute(0, 3, 1, 2)  # (N, 3, 224, 224)
        return (x - self.mean) * self.scale

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(self.normalised(image))  # (N, classes)
        return torch.softmax(logits, dim=1), logits
