from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_model import Contract, splits_from
from alexnet_model.contract import Uint8Array
from alexnet_model.progress import silent
from alexnet_training import splits as splits_module
from alexnet_training.augmentation import Augmentation, PaperAugmentation, principal_colours
from alexnet_training.splits import SplitInMemory, prepared_from_splits

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


def split_of(images: Uint8Array) -> SplitInMemory:
    names = tuple(map(str, range(len(images))))
    return SplitInMemory(images, np.zeros(len(images), np.int64), names, names, ())


def test_principal_colours_are_eigenvectors_times_eigenvalues_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, SIZE, SIZE, 1))
    images = np.concatenate([grey, grey, np.zeros_like(grey)], axis=3).astype(np.uint8)
    colours = principal_colours(split_of(images))
    variance = (images[:, ::4, ::4, 0] / 255).var(ddof=1)
    # Red and green vary together, blue does not vary: one colour, (1, 1, 0) / sqrt(2), times its eigenvalue.
    assert colours.norm(dim=0).tolist() == pytest.approx([0, 0, 2 * variance], abs=1e-6)
    assert colours[:, 2].abs().tolist() == pytest.approx(
        [2 * variance / 2**0.5] * 2 + [0], rel=1e-4, abs=1e-6
    )


def paper(colours: Tensor | None = None, *, mirrorable: bool = False, seed: int = 0) -> PaperAugmentation:
    torch.manual_seed(seed)
    return PaperAugmentation(24, torch.zeros(3, 3) if colours is None else colours, mirrorable=mirrorable)


def test_the_papers_crops_are_parts_of_the_image_at_many_places_in_its_size() -> None:
    column = torch.arange(SIZE, dtype=torch.uint8)
    images = (3 * column[None, :, None] + 4 * column[:, None, None]).expand(64, SIZE, SIZE, 3).contiguous()
    result = paper()(images)
    assert result.shape == (64, 24, 24, 3)
    assert result.dtype == torch.float32
    corners = result[:, 0, 0, 0]
    assert torch.equal(result[:, 23, 0, 0] - corners, torch.full((64,), 4.0 * 23))
    assert torch.equal(result[:, 0, 23, 0] - corners, torch.full((64,), 3.0 * 23))
    assert corners.unique().numel() > 20
    assert 0 <= corners.min() <= corners.max() <= 7 * 8


def test_the_papers_images_are_mirrored_only_if_mirrorable() -> None:
    images = dark_to_the_left()
    assert brighter_side(paper()(images)).all()
    share = brighter_side(paper(mirrorable=True)(images)).float().mean()
    assert 0.25 < share < 0.75


def test_the_papers_noise_is_one_colour_for_each_image_along_the_principal_colours() -> None:
    colours = torch.tensor([[0.1, 0, 0], [0.1, 0, 0], [0, 0, 0]])
    changed = paper(colours)(plain(100, 100, 100, count=400)) - 100  # (400, 24, 24, 3)
    assert torch.equal(changed, changed[:, :1, :1].expand_as(changed))
    shift = changed[:, 0, 0]  # (400, 3)
    assert torch.equal(shift[:, 0], shift[:, 1])
    assert not shift[:, 2].any()
    assert shift[:, 0].std().item() == pytest.approx(255 * 0.1 * 0.1, rel=0.15)


def test_training_images_keep_the_margin_that_random_crops_need(
    stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = Contract(size=24, resize=32)
    splits = splits_from(str(stripes))
    plain = prepared_from_splits(splits, contract, progress=silent)
    wide = prepared_from_splits(splits, contract, keep_margin=True, progress=silent)
    assert isinstance(plain.train, SplitInMemory)
    assert isinstance(wide.train, SplitInMemory)
    assert wide.train.images.shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(wide.train.images[:, 4:28, 4:28], plain.train.images)
    assert wide.train.digests == plain.train.digests
    assert isinstance(wide.validation, SplitInMemory)
    assert wide.validation.images.shape[1:] == (24, 24, 3)

    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)
    on_disk = prepared_from_splits(splits, contract, keep_margin=True, progress=silent)
    ((images, _),) = on_disk.train.batches(np.arange(32), 32)
    np.testing.assert_array_equal(images, wide.train.images)
