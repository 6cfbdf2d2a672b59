from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alexnet_training.recipe import Augmentation

SIZE = 32


def augmented(images: Tensor, *, mirrorable: bool = False, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = Augmentation(SIZE, mirrorable=mirrorable)(images)
    return result


def plain(*colour: int, count: int = 64) -> Tensor:
    """Return images of one colour `(N, S, S, 3)`, which cropping and mirroring do not change."""
    return torch.tensor(colour, dtype=torch.uint8).expand(count, SIZE, SIZE, 3).clone()


def dark_to_the_left(count: int = 64) -> Tensor:
    images = plain(0, 0, 0, count=count)
    images[:, :, SIZE // 2 :] = 200
    return images


def test_pixels_keep_their_shape_and_range() -> None:
    noise = torch.randint(0, 256, (8, SIZE, SIZE, 3), dtype=torch.uint8)
    result = augmented(noise, mirrorable=True)
    assert result.shape == noise.shape
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 255


def test_every_image_is_changed_differently_and_the_seed_reproduces_it() -> None:
    same = dark_to_the_left(1).repeat(16, 1, 1, 1)
    first = augmented(same)
    assert len({image.numpy().tobytes() for image in first}) == 16
    torch.testing.assert_close(augmented(same), first, rtol=0, atol=0)
    assert not torch.equal(augmented(same, seed=1), first)


def brighter_side(images: Tensor) -> Tensor:
    """Return `(N,)`, True where the right half is brighter than the left one."""
    half = SIZE // 2
    return images[:, :, half:].mean(dim=(1, 2, 3)) > images[:, :, :half].mean(dim=(1, 2, 3))


def test_images_are_mirrored_only_if_mirrorable() -> None:
    assert brighter_side(augmented(dark_to_the_left())).all()
    share = brighter_side(augmented(dark_to_the_left(), mirrorable=True)).float().mean()
    assert 0.25 < share < 0.75


def test_brightness_varies_in_both_directions() -> None:
    means = augmented(plain(100, 100, 100)).mean(dim=(1, 2, 3))
    assert 65 < means.min() < 80
    assert 120 < means.max() < 135


def test_contrast_varies() -> None:
    image = dark_to_the_left()
    image[image == 0] = 100
    spread = augmented(image).std(dim=(1, 2, 3)) / augmented(image).mean(dim=(1, 2, 3))
    assert spread.max() > 1.5 * spread.min()


def test_saturation_varies_more_than_by_contrast_alone() -> None:
    result = augmented(plain(150, 100, 50)).mean(dim=(1, 2))  # (N, 3)
    grey = result @ torch.tensor([0.299, 0.587, 0.114])
    strength = (
        result[:, 0] - result[:, 2]
    ) / grey  # unchanged by brightness; contrast scales it by 0.7 to 1.3
    assert strength.max() / strength.min() > 1.2 * 1.3 / 0.7


def test_crops_have_at_least_seven_tenths_of_the_area() -> None:
    # On a ramp, the slope of the resized crop is the crop's side.
    ramp = plain(0, 0, 0)
    ramp[..., :] = (torch.arange(SIZE) * 4 + 60).to(torch.uint8)[None, None, :, None]
    torch.manual_seed(0)
    cropped = Augmentation(SIZE, mirrorable=False).crop(ramp.permute(0, 3, 1, 2).float())
    sides = (cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]) / (4 * (SIZE - 1))
    assert sides.max() <= 1.01
    assert sides.min() > 0.7
    assert sides.std() > 0.02


@pytest.mark.parametrize("count", [1, 3])
def test_batches_of_other_sizes_keep_their_shape(count: int) -> None:
    assert augmented(dark_to_the_left(count), mirrorable=True).shape == (count, SIZE, SIZE, 3)
