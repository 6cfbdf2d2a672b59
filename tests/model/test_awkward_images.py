"""Unusual but valid images are decoded to the pixels that an image viewer shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract
from alexnet_model.decoding import upright_from_opened

from ..awkward_images import png_of_16_bits

Textured = Callable[[int, int], Image.Image]
Encoded = Callable[..., bytes]


def middle(image: Any) -> list[int]:
    """Return the centre pixel of the prepared image."""
    pixel: list[int] = Contract().prepared(image)[112, 112].tolist()
    return pixel


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)], ids="{0[0]}x{0[1]}".format)
def test_tiny_and_thin_images_keep_their_colour(encoded: Encoded, size: tuple[int, int]) -> None:
    assert middle(encoded(Image.new("RGB", size, (200, 100, 50)), "PNG")) == [200, 100, 50]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_in_their_final_mode_are_not_copied(mode: str) -> None:
    image = Image.new(mode, (40, 30))
    assert upright_from_opened(image) is image


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_every_lossless_format_gives_the_same_pixels(encoded: Encoded, format_name: str) -> None:
    image = Image.new("RGB", (40, 30), (255, 0, 0))
    options = {"lossless": True} if format_name == "WEBP" else {}
    assert middle(encoded(image, format_name, **options)) == [255, 0, 0]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, [255, 255, 255]),
        ("L", 77, [77, 77, 77]),
        ("LA", (40, 255), [40, 40, 40]),
        ("LA", (40, 0), [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (255, 0, 0, 128), [255, 127, 127]),
    ],
)
def test_grey_and_transparent_images_over_white(
    encoded: Encoded, mode: str, colour: tuple[int, ...] | int, expected: list[int]
) -> None:
    assert middle(encoded(Image.new(mode, (32, 32), colour), "PNG")) == expected


def test_transparent_pixels_show_the_contracts_background() -> None:
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    assert Contract(background=(1, 2, 3)).prepared(clear)[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("transparency", [None, 1], ids=["opaque", "transparent"])
def test_palette_images_with_and_without_transparency(encoded: Encoded, transparency: int | None) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 12, 200, 90] + [0] * (254 * 3))
    options = {} if transparency is None else {"transparency": transparency}
    expected = [12, 200, 90] if transparency is None else [255, 255, 255]
    assert middle(encoded(image, "PNG", **options)) == expected


def test_cmyk_jpegs_are_converted_to_rgb(encoded: Encoded) -> None:
    red = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=100)
    assert Image.open(io.BytesIO(red)).mode == "CMYK"
    np.testing.assert_allclose(middle(red), [255, 0, 0], atol=3)


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (128, 0), (32768, 128), (65535, 255), (25700, 100)])
def test_16_bit_grey_is_scaled_and_not_clipped(level: int, expected: int) -> None:
    image = png_of_16_bits(np.full((32, 32), level, np.uint16))
    assert Image.open(io.BytesIO(image)).mode.startswith("I")
    assert middle(image) == [expected] * 3


def test_16_bit_grey_tiff_is_scaled(encoded: Encoded) -> None:
    image = Image.fromarray(np.full((32, 32), 32768, np.uint16))
    assert middle(encoded(image, "TIFF")) == [128] * 3


def test_16_bit_colour_is_scaled(encoded: Encoded) -> None:
    pixels = np.zeros((32, 32, 3), np.uint16)
    pixels[..., 0], pixels[..., 1] = 65535, 32768
    assert middle(png_of_16_bits(pixels)) == [255, 128, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(textured: Textured, encoded: Encoded, orientation: int) -> None:
    upright = np.asarray(textured(320, 256))
    # How a camera in that orientation stores the pixels.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(Contract().prepared(image), Contract().prepared(Image.fromarray(upright)))


def test_progressive_jpeg_equals_baseline(textured: Textured, encoded: Encoded) -> None:
    image = textured(301, 299)
    progressive = encoded(image, "JPEG", progressive=True)
    baseline = encoded(image, "JPEG", progressive=False)
    assert progressive != baseline
    np.testing.assert_array_equal(Contract().prepared(progressive), Contract().prepared(baseline))


def test_a_jpeg_of_odd_size_with_subsampled_colour_keeps_its_colour(encoded: Encoded) -> None:
    image = encoded(Image.new("RGB", (225, 333), (30, 160, 220)), "JPEG", quality=95, subsampling="4:2:0")
    np.testing.assert_allclose(middle(image), [30, 160, 220], atol=2)


def test_an_animation_gives_its_first_frame(encoded: Encoded) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(animation)).n_frames == 3  # type: ignore[attr-defined]
    assert middle(animation) == [255, 0, 0]
