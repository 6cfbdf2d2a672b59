"""Prepared pixels compared with a plain reference: Pillow resizes the whole image, which is then cropped.

The reference decodes with Pillow alone, and follows the rules that torchvision publishes for `Resize` and
`CenterCrop`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_model import Contract

from ..awkward_images import AWKWARD

Pixels = np.ndarray[Any, Any]
Textured = Callable[[int, int], Image.Image]
WITH_METADATA = Path(__file__).parents[1] / "images"

# Small, so that the reference of a very thin image fits into memory.
CONTRACTS = {
    "bilinear": Contract(resize=40, size=32),
    "bicubic": Contract(resize=37, size=37, interpolation="bicubic"),
    "nearest": Contract(resize=33, size=24, interpolation="nearest"),
    "larger nearest": Contract(resize=61, size=60, interpolation="nearest"),
    "stretch bilinear": Contract(resize="stretch", size=48),
    "stretch bicubic": Contract(resize="stretch", size=31, interpolation="bicubic"),
    "stretch nearest": Contract(resize="stretch", size=48, interpolation="nearest"),
    "no resize": Contract(resize="none", size=60),
    "BGR over a colour": Contract(resize=40, size=33, colour="BGR", background=(200, 30, 90)),
    "one pixel": Contract(resize=1, size=1),
}


def decoded(encoded: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The image as a viewer shows it, mode RGB."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    if image.mode.startswith("I"):  # 16 bits grey
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("RGB")


def reference(image: Image.Image, contract: Contract) -> Pixels:
    """Resize the whole image, pad it to the crop, crop it."""
    size = contract.size
    resampling = {
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "nearest": Image.Resampling.NEAREST,
    }[contract.interpolation]
    if contract.resize == "stretch":
        image = image.resize((size, size), resampling)
    elif contract.resize != "none":
        width, height = image.size
        long = int(contract.resize * max(image.size) / min(image.size))
        image = image.resize(
            (contract.resize, long) if width <= height else (long, contract.resize), resampling
        )
    missing = [max(0, size - side) for side in image.size]
    left, top = (side // 2 for side in missing)
    right, bottom = ((side + 1) // 2 for side in missing)
    image = ImageOps.expand(image, (left, top, right, bottom), fill=0)
    left, top = (round((side - size) / 2.0) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return pixels if contract.colour == "RGB" else pixels[..., ::-1]


def largest_difference(pixels: Pixels, expected: Pixels) -> int:
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    return int(np.abs(pixels.astype(int) - expected.astype(int)).max())


# The largest image only takes longer than others.
@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "12000x9000"])
def test_every_contract_prepares_awkward_images_as_the_reference(name: str) -> None:
    encoded = AWKWARD[name]()
    differences = {
        rule: largest_difference(
            contract.prepared(encoded), reference(decoded(encoded, contract.background), contract)
        )
        for rule, contract in CONTRACTS.items()
    }
    assert max(differences.values()) <= 1, differences
    assert not any(value for rule, value in differences.items() if "nearest" in rule or rule == "no resize")


@pytest.mark.parametrize(
    "size",
    [
        *((256, 256), (224, 224), (8, 8), (1, 1), (500, 375), (375, 500), (1023, 769), (257, 255)),
        *((40, 2000), (3, 2), (512, 512), (448, 300), (341, 256)),
    ],
    ids="{0[0]}x{0[1]}".format,
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_sizes_of_photographs_equal_the_reference(
    textured: Textured, size: tuple[int, int], interpolation: str
) -> None:
    image, contract = textured(*size), Contract(interpolation=interpolation)
    difference = largest_difference(contract.prepared(image), reference(image, contract))
    assert difference <= (0 if interpolation == "nearest" else 1)


def test_the_rules_and_filters_give_different_pixels(textured: Textured) -> None:
    image = textured(90, 70)
    contracts = [
        Contract(resize=resize, size=40, interpolation=interpolation)
        for resize in (50, "stretch")
        for interpolation in ("bilinear", "bicubic", "nearest")
    ]
    pixels = [contract.prepared(image) for contract in (*contracts, Contract(resize="none", size=40))]
    assert len({array.tobytes() for array in pixels}) == 7


def test_without_resizing_pixels_are_kept_and_small_images_padded_with_black() -> None:
    pixels = np.arange(1, 28, dtype=np.uint8).reshape(3, 3, 3)
    contract = Contract(resize="none", size=6, background=(9, 9, 9))
    prepared = contract.prepared(Image.fromarray(pixels))
    np.testing.assert_array_equal(prepared[1:4, 1:4], pixels)  # one row above it, two below
    assert prepared.sum() == pixels.sum()
    np.testing.assert_array_equal(
        Contract(resize="none", size=1).prepared(Image.fromarray(pixels)), pixels[1:2, 1:2]
    )


@pytest.mark.parametrize("resize", [256, "stretch", "none"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_the_thinnest_image_takes_no_time(resize: Any, interpolation: str) -> None:
    """Its resized sides would be 256 x 4,608,000,000 pixels."""
    image = Image.new("L", (18_000_000, 1), 77)
    contract = Contract(resize=resize, interpolation=interpolation)
    started = time.perf_counter()
    prepared = contract.prepared(image)
    assert time.perf_counter() - started < 30  # a busy machine; the whole images would take hours
    assert prepared.max() == 77


@pytest.mark.parametrize("name", ["exif6_negative_width.jpg", "exif6_resolution_unit_ascii.jpg"])
def test_invalid_exif_tags_beside_a_valid_orientation_are_ignored(name: str) -> None:
    expected = Contract().prepared(WITH_METADATA / "base.png")
    assert largest_difference(Contract().prepared(WITH_METADATA / name), expected) <= 3  # a JPEG


@pytest.mark.parametrize("name", ["png_icc_2MB.png", "png_text_2MB.png"])
def test_long_metadata_of_a_png_is_ignored(name: str) -> None:
    expected = Contract().prepared(WITH_METADATA / "base.png")
    np.testing.assert_array_equal(Contract().prepared(WITH_METADATA / name), expected)
