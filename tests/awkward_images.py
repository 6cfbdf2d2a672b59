"""Unusual but valid images, and broken ones, for tests of the decoder in process and on the server."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, Any]


def textured(width: int, height: int) -> Image.Image:
    """An RGB image with smooth gradients and pixel noise, different in each corner."""
    rng = np.random.default_rng(width * 10_007 + height)
    x = np.linspace(0, 255, width)[None, :, None]
    y = np.linspace(0, 255, height)[:, None, None]
    smooth = np.concatenate([x + 0 * y, y + 0 * x, (x + y) / 2], axis=2)
    noise = rng.integers(-60, 60, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """An image's bytes in a format, with Pillow's options for it."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png_of_16_bits(pixels: Pixels) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write for colour. `(H, W)` or `(H, W, 3)` uint16."""
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return _png(struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0), zlib.compress(rows))


def png_header(width: int, height: int) -> bytes:
    """The start of a 1-bit PNG that claims to be this large, and hardly any data."""
    return _png(struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), zlib.compress(b"\0"), ended=False)


def rotated_by_exif(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif)


def palette_with_alpha() -> bytes:
    """Each colour of the palette with a transparency of its own."""
    return encoded(
        textured(90, 70).quantize(64), "PNG", transparency=bytes(np.arange(0, 256, 4, dtype=np.uint8))
    )


def enlarged(width: int, height: int) -> bytes:
    """A JPEG of this size, without the time that so much noise would take."""
    return encoded(textured(120, 90).resize((width, height), Image.Resampling.NEAREST), "JPEG", quality=60)


# Functions, because some images are large.
AWKWARD: dict[str, Callable[[], bytes]] = {
    **{f"exif orientation {n}": partial(rotated_by_exif, textured(320, 256), n) for n in range(2, 9)},
    "cmyk jpeg": lambda: encoded(textured(300, 231).convert("CMYK"), "JPEG"),
    "grey jpeg": lambda: encoded(textured(231, 300).convert("L"), "JPEG"),
    "grey png with alpha": lambda: encoded(textured(99, 300).convert("LA"), "PNG"),
    "1-bit png": lambda: encoded(textured(99, 98).convert("1"), "PNG"),
    "palette with alpha": palette_with_alpha,
    "colour with alpha": lambda: encoded(
        Image.merge("RGBA", [*textured(80, 90).split(), textured(80, 90).convert("L")]), "PNG"
    ),
    "16-bit grey png": lambda: png_of_16_bits(
        np.random.default_rng(1).integers(0, 2**16, (61, 67), dtype=np.uint16)
    ),
    "16-bit colour png": lambda: png_of_16_bits(
        np.random.default_rng(2).integers(0, 2**16, (61, 67, 3), dtype=np.uint16)
    ),
    "progressive jpeg": lambda: encoded(textured(301, 299), "JPEG", progressive=True),
    "subsampled jpeg": lambda: encoded(textured(225, 333), "JPEG", subsampling="4:2:0"),
    "webp": lambda: encoded(textured(257, 223), "WEBP"),
    "lossless webp with alpha": lambda: encoded(
        Image.merge("RGBA", [*textured(57, 91).split(), textured(57, 91).convert("L")]), "WEBP", lossless=True
    ),
    "gif": lambda: encoded(textured(64, 48).quantize(200), "GIF"),
    "tiff": lambda: encoded(textured(224, 224), "TIFF"),
    "bmp": lambda: encoded(textured(3, 500), "BMP"),
    "ppm": lambda: encoded(textured(500, 3), "PPM"),
    "1x1": lambda: encoded(textured(1, 1), "PNG"),
    "2x3": lambda: encoded(textured(2, 3), "JPEG"),
    "1x5000": lambda: encoded(textured(1, 5000), "PNG"),
    "223x225": lambda: encoded(textured(223, 225), "JPEG"),
    "12000x7": lambda: encoded(textured(12_000, 7), "PNG"),
    "7x12000": lambda: encoded(textured(7, 12_000), "JPEG"),
    "12000x9000": lambda: enlarged(12_000, 9_000),
}

# By the words of the error message.
BROKEN: dict[str, Callable[[], bytes]] = {
    "got 0 bytes": lambda: b"",
    "got 1 bytes that are not an image": lambda: b"\0",
    "got 1400 bytes that are not an image": lambda: b"hello, world\n\n" * 100,
    "image file is truncated": lambda: encoded(textured(120, 90), "JPEG")[:2_000],
    "got a broken image": lambda: encoded(textured(120, 90), "PNG")[:9_000],
    "decompression bomb": lambda: png_header(20_000, 20_000),
    "of unknown range": lambda: encoded(Image.new("F", (8, 8)), "TIFF"),
}


def _png(header: bytes, data: bytes, *, ended: bool = True) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    end = chunk(b"IEND", b"") if ended else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + end
