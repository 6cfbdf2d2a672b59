"""The lecture's augmentation: random crops, colours, and mirroring where a class survives it."""

from __future__ import annotations

from alexnet_model.extras import needs

with needs("train"):
    import torch
    from kornia.augmentation import ColorJitter, RandomHorizontalFlip, RandomResizedCrop
    from torch import Tensor, nn


class Augmentation(nn.Module):
    """uint8 `(N, S, S, 3)` in, float pixels 0..255 of the same shape out: what `Classifier` takes.

    Draws from PyTorch's global generator. One colour jitter for brightness, contrast and saturation costs
    half of what three modules cost.
    """

    def __init__(self, size: int, *, mirrorable: bool) -> None:
        super().__init__()
        # ImageNet's usual crops start at 8% of the area, of which a digit does not survive.
        self.crop = RandomResizedCrop((size, size), scale=(0.7, 1.0), ratio=(3 / 4, 4 / 3))
        self.flip = RandomHorizontalFlip(p=0.5) if mirrorable else nn.Identity()
        self.colour = ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        # Channels first in memory too: kornia's crop is much faster on it.
        x = images.permute(0, 3, 1, 2).to(
            torch.float32, memory_format=torch.contiguous_format
        )  # (N, 3, S, S)
        x = self.flip(self.crop(x.div_(255)))
        # A few images at a time stay in the cache, which the jitter's many small steps need.
        x = torch.cat([self.colour(few) for few in x.split(4)])
        pixels: Tensor = x.mul_(255).permute(0, 2, 3, 1)  # (N, S, S, 3)
        return pixels
