"""Augmentation: training images are changed at random, on the device that trains.

All classes draw from PyTorch's global generator of the CPU, on every device. Of several processes, each
draws the random numbers of the whole batch and uses those of its own images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_model.extras import needs

from .ranks import ALONE, Ranks
from .recipes import Recipe
from .splits import Split

with needs("train"):
    import torch
    from kornia.augmentation import ColorJitter, RandomHorizontalFlip, RandomResizedCrop
    from torch import Tensor, nn

PALETTE_IMAGES = 256  # images that the principal colours are computed from
PALETTE_STRIDE = 4  # every fourth pixel of every fourth row
NOISE = 0.1  # standard deviation of the paper's random factors
# Kornia's random numbers that all images of a batch have in common.
OF_ALL_IMAGES = ("forward_input_shape", "order")


def augmentation_of(
    recipe: Recipe, size: int, split: Split, *, mirrorable: bool, ranks: Ranks = ALONE
) -> nn.Module:
    """Return a recipe's augmentation: a module from uint8 `(N, R, R, 3)` to float pixels `(N, S, S, 3)`.

    Args:
        recipe: selects it.
        size: S, in pixels.
        split: the training images.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
        ranks: the processes that train together.

    Raises:
        DatasetError: too many images cannot be read, or a shard was changed.
    """
    if recipe.augmentation == "paper-2012":
        return PaperAugmentation(size, principal_colours(split), mirrorable=mirrorable, ranks=ranks)
    return Augmentation(size, mirrorable=mirrorable, smallest_crop=recipe.smallest_crop, ranks=ranks)


class Augmentation(nn.Module):
    """Change a batch of images at random: crop, brightness, contrast, saturation, and mirroring.

    Args:
        size: both sides of an augmented image, in pixels.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
        smallest_crop: the smallest share of the area that a crop keeps.
        ranks: the processes that train together.
    """

    def __init__(
        self, size: int, *, mirrorable: bool, smallest_crop: float = 0.7, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.ranks = ranks
        crop = {"size": (size, size), "scale": (smallest_crop, 1.0), "ratio": (3 / 4, 4 / 3)}
        self.crop = RandomResizedCrop(**crop)
        # On a GPU one kernel for the whole batch is faster than one crop after the other.
        self.crop_at_once = RandomResizedCrop(**crop, cropping_mode="resample")
        self.flip = RandomHorizontalFlip(p=0.5) if mirrorable else None
        # One module with three effects takes half the time of three modules.
        self.colour = ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Augment uint8 images `(N, R, R, 3)`; return float pixels 0..255 `(N, S, S, 3)`."""
        # Channels first in memory too, because kornia's crop is much faster that way.
        x = images.permute(0, 3, 1, 2).to(
            torch.float32, memory_format=torch.contiguous_format
        )  # (N, 3, R, R)
        x = self._changed(self.crop if x.is_cpu else self.crop_at_once, x.div_(255))  # (N, 3, S, S)
        if self.flip:
            x = self._changed(self.flip, x)
        # Four images at a time stay in the CPU cache during the jitter's many small operations.
        x = self._changed(self.colour, x, at_once=4 if x.is_cpu else len(x))
        pixels: Tensor = x.mul_(255).permute(0, 2, 3, 1)  # (N, S, S, 3)
        return pixels

    def _changed(self, effect: Any, x: Tensor, *, at_once: int | None = None) -> Tensor:
        """Return the images `(N, 3, R, R)` after an effect of Kornia's, computed on `at_once` at a time."""
        drawn = effect.forward_parameters(torch.Size((len(x) * self.ranks.count, *x.shape[1:])))
        size = at_once or len(x)
        parts = []
        for first in range(0, len(x), size):
            own = {
                name: value if name in OF_ALL_IMAGES else self.ranks.own(value)[first : first + size]
                for name, value in drawn.items()
            }
            parts.append(effect(x[first : first + size], params=own))
        return torch.cat(parts)


class PaperAugmentation(nn.Module):
    """Change a batch of images as in section 4.1 of the 2012 paper: a moved crop, mirroring, colour noise.

    Args:
        size: both sides of an augmented image, in pixels, at most those of the image. If both are equal,
            there is nothing to move.
        colours: the principal colours `(3, 3)`, as `principal_colours` returns them.
        mirrorable: whether a mirrored image keeps its class.
        ranks: the processes that train together.
    """

    colours: Tensor

    def __init__(self, size: int, colours: Tensor, *, mirrorable: bool, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.size, self.mirrorable, self.ranks = size, mirrorable, ranks
        self.register_buffer("colours", colours)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Augment uint8 images `(N, R, R, 3)`; return float pixels `(N, S, S, 3)`, a few beyond 0..255."""
        count, device = len(images) * self.ranks.count, images.device
        offsets = torch.randint(0, images.shape[1] - self.size + 1, (2, count, 1))
        rows, columns = offsets + torch.arange(self.size)  # of the whole batch, S each
        if self.mirrorable:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        factors = NOISE * torch.randn(count, 3)
        rows, columns, factors = map(self.ranks.own, (rows, columns, factors))
        index = torch.arange(len(images), device=device)[:, None, None]
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
        partners: the indices `(N,)` of the images that were mixed in: of 0 and 1, 2 and 3, and so on.
        share: the share of each image itself, at least a half; the rest is the partner's.
    """

    images: Tensor
    partners: Tensor
    share: float


def mixup(images: Tensor, concentration: float) -> Mixed:
    """Mix each image of a batch with its neighbour (Zhang and others, 2018), with one share for the batch.

    The order of the images is random, so neighbours are as good as any other pairs. And they are on the same
    rank, if several train together and each has an even number of images.

    Args:
        images: float `(N, S, S, 3)`, in random order. The last one of an odd number is not mixed.
        concentration: both parameters of the beta distribution that the share is drawn from.
    """
    beta = torch.distributions.Beta(torch.tensor(concentration), torch.tensor(concentration))
    drawn = float(beta.sample())
    share = max(drawn, 1 - drawn)
    partners = (torch.arange(len(images), device=images.device) ^ 1).clamp_(max=len(images) - 1)
    return Mixed(share * images + (1 - share) * images[partners], partners, share)
