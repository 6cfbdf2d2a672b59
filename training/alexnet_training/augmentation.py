"""Augmentation: training images are changed at random, on the device that trains.

All classes draw from PyTorch's global generator of the CPU, whatever the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alexnet_model.extras import needs

from .recipes import Recipe
from .splits import Split

with needs("train"):
    import torch
    from kornia.augmentation import ColorJitter, RandomHorizontalFlip, RandomResizedCrop
    from torch import Tensor, nn

PALETTE_IMAGES = 256  # images that the principal colours are computed from
PALETTE_STRIDE = 4  # every fourth pixel of every fourth row
NOISE = 0.1  # standard deviation of the paper's random factors


def augmentation_of(recipe: Recipe, size: int, split: Split, *, mirrorable: bool) -> nn.Module:
    """Return a recipe's augmentation: a module from uint8 `(N, R, R, 3)` to float pixels `(N, S, S, 3)`.

    Args:
        recipe: selects it.
        size: S, in pixels.
        split: the training images.
        mirrorable: whether a mirrored image keeps its class; a digit does not.

    Raises:
        DatasetError: too many images cannot be read, or a shard was changed.
    """
    if recipe.augmentation == "paper-2012":
        return PaperAugmentation(size, principal_colours(split), mirrorable=mirrorable)
    return Augmentation(size, mirrorable=mirrorable, smallest_crop=recipe.smallest_crop)


class Augmentation(nn.Module):
    """Change a batch of images at random: crop, brightness, contrast, saturation, and mirroring.

    Args:
        size: both sides of an augmented image, in pixels.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
        smallest_crop: the smallest share of the area that a crop keeps.
    """

    def __init__(self, size: int, *, mirrorable: bool, smallest_crop: float = 0.7) -> None:
        super().__init__()
        crop = {"size": (size, size), "scale": (smallest_crop, 1.0), "ratio": (3 / 4, 4 / 3)}
        self.crop = RandomResizedCrop(**crop)
        # On a GPU one kernel for the whole batch is faster than one crop after the other.
        self.crop_at_once = RandomResizedCrop(**crop, cropping_mode="resample")
        self.flip = RandomHorizontalFlip(p=0.5) if mirrorable else nn.Identity()
        # One module with three effects takes half the time of three modules.
        self.colour = ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Augment uint8 images `(N, R, R, 3)`; return float pixels 0..255 `(N, S, S, 3)`."""
        # Channels first in memory too, because kornia's crop is much faster that way.
        x = images.permute(0, 3, 1, 2).to(
            torch.float32, memory_format=torch.contiguous_format
        )  # (N, 3, R, R)
        if x.is_cpu:
            x = self.flip(self.crop(x.div_(255)))  # (N, 3, S, S)
            # Four images at a time stay in the CPU cache during the jitter's many small operations.
            x = torch.cat([self.colour(few) for few in x.split(4)])
        else:
            x = self.colour(self.flip(self.crop_at_once(x.div_(255))))  # (N, 3, S, S)
        pixels: Tensor = x.mul_(255).permute(0, 2, 3, 1)  # (N, S, S, 3)
        return pixels


class PaperAugmentation(nn.Module):
    """Change a batch of images as in section 4.1 of the 2012 paper: a moved crop, mirroring, colour noise.

    Args:
        size: both sides of an augmented image, in pixels, at most those of the image. If both are equal,
            there is nothing to move.
        colours: the principal colours `(3, 3)`, as `principal_colours` returns them.
        mirrorable: whether a mirrored image keeps its class.
    """

    colours: Tensor

    def __init__(self, size: int, colours: Tensor, *, mirrorable: bool) -> None:
        super().__init__()
        self.size, self.mirrorable = size, mirrorable
        self.register_buffer("colours", colours)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Augment uint8 images `(N, R, R, 3)`; return float pixels `(N, S, S, 3)`, a few beyond 0..255."""
        count, device = len(images), images.device
        offsets = torch.randint(0, images.shape[1] - self.size + 1, (2, count, 1))
        rows, columns = offsets + torch.arange(self.size)  # (N, S) each
        if self.mirrorable:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        factors = NOISE * torch.randn(count, 3)
        index = torch.arange(count, device=device)[:, None, None]
        cropped = images[index, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]  # (N, S, S, 3)
        noise = 255 * factors.to(device) @ self.colours.T  # (N, 3)
        return cropped.float() + noise[:, None, None, :]


def principal_colours(split: Split) -> Tensor:
    """Return the eigenvectors of the covariance of the colours, each times its eigenvalue, as columns.

    Args:
        split: the training images, of which 256 evenly spaced ones are used.

    Returns:
        float32 `(3, 3)`, for pixels in 0..1.

    Raises:
        DatasetError: too many images cannot be read, or a shard was changed.
    """
    count = min(PALETTE_IMAGES, len(split.labels))
    order = np.arange(count) * len(split.labels) // count
    pixels = np.concatenate(
        [
            images[:, ::PALETTE_STRIDE, ::PALETTE_STRIDE].reshape(-1, 3) / 255
            for images, _ in split.batches(order, 64)
        ]
    )
    values, vectors = np.linalg.eigh(np.cov(pixels, rowvar=False))
    return torch.from_numpy(vectors * values).float()


@dataclass(frozen=True)
class Mixed:
    """A batch whose images are mixed with others of the batch.

    Args:
        images: float `(N, S, S, 3)`.
        partners: the indices `(N,)` of the images that were mixed in.
        share: the share of each image itself, at least a half; the rest is the partner's.
    """

    images: Tensor
    partners: Tensor
    share: float


def mixup(images: Tensor, concentration: float) -> Mixed:
    """Mix each image of a batch with another one (Zhang and others, 2018), with one share for the batch.

    Args:
        images: float `(N, S, S, 3)`.
        concentration: both parameters of the beta distribution that the share is drawn from.
    """
    beta = torch.distributions.Beta(torch.tensor(concentration), torch.tensor(concentration))
    drawn = float(beta.sample())
    share = max(drawn, 1 - drawn)
    partners = torch.randperm(len(images)).to(images.device)
    return Mixed(share * images + (1 - share) * images[partners], partners, share)
