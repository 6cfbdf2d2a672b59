"""Decode any image to upright 8-bit pixels, RGB or grey: the first step of the input contract.

A grey image keeps its one channel, because resizing one channel is three times as fast as resizing three.

Unusual but valid images are decoded (1x1, very thin, CMYK, greyscale, palette, alpha, 16-bit, EXIF-rotated,
progressive). Every broken or hostile image raises an `ImageError`.
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import ImageError, UnreadableImage, os_error_reason


class BinaryFile(Protocol):
    """An open binary file: only `read` is used."""

    def read(self, size: int, /) -> bytes: ...


EncodedImage: TypeAlias = str | Path | bytes | BinaryFile
Colour: TypeAlias = tuple[int, int, int]

MAX_ENCODED_BYTES = 64 * 1024 * 1024
# Pillow's own limit for decompression bombs: it warns at a third of a gigabyte of RGB and raises at twice
# that.
MAX_PIXELS = 2 * 89_478_485
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
WHITE: Colour = (255, 255, 255)
# Pillow warns from half of MAX_PIXELS on; this module checks the limit itself, so the warning is not needed.
# `catch_warnings` around each call is not thread-safe. A filter that the user has set takes precedence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
EXIF_ORIENTATION = 0x0112
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_START = b"\x89PNG\r\n\x1a\n"
# Chunks of a PNG that are not used. Pillow fails on those that decompress to more than 1 MB.
PNG_METADATA = (b"iCCP", b"zTXt", b"iTXt")
PNG_ORIENTATIONS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may have one


def upright_from_encoded(source: EncodedImage, *, background: Colour = WHITE) -> Image.Image:
    """Decode an encoded image.

    Args:
        source: a path, the bytes of an image file, or a file opened as binary.
        background: the RGB colour, 0..255, under transparent pixels.

    Returns:
        An upright image of mode "RGB" or "L".

    Raises:
        ImageError: it is missing, empty, truncated, not an image, or larger than `MAX_ENCODED_BYTES` or
            `MAX_PIXELS`.
    """
    name = name_of(source)
    encoded = encoded_bytes(source)
    try:
        with Image.open(io.BytesIO(_without_png_metadata(encoded)), formats=FORMATS) as image:
            return _upright(image, name, background)
    except UnidentifiedImageError as error:
        raise ImageError(
            name,
            got=f"{len(encoded)} bytes that are not an image",
            expected=_EXPECTED,
            next_step="Remove it or convert it.",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, "more") from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise _broken(name, error) from error


def upright_from_opened(image: Image.Image, *, background: Colour = WHITE) -> Image.Image:
    """Decode an image that Pillow has opened; its pixels may not have been read yet.

    Args:
        image: a Pillow image of any mode.
        background: the RGB colour, 0..255, under transparent pixels.

    Returns:
        An upright image of mode "RGB" or "L".

    Raises:
        ImageError: it has no pixels, more than `MAX_PIXELS`, a mode whose range of values is not known, or
            pixels that cannot be decoded.
    """
    name = name_of(image)
    try:
        return _upright(image, name, background)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise _broken(name, error) from error


def _upright(image: Image.Image, name: str, background: Colour) -> Image.Image:
    """Apply an image's EXIF orientation and convert it to mode "RGB" or "L"."""
    if 0 in image.size:
        raise ImageError(name, got=f"{image.width}x{image.height} pixels", expected="at least 1x1")
    _check_pixels(image, name)
    image.load()  # before the orientation is read, because a PNG may have it behind the pixels
    orientation = image.getexif().get(EXIF_ORIENTATION)
    # Not `ImageOps.exif_transpose`: it writes the metadata again, and fails where a camera's tag is invalid.
    upright = image.transpose(TO_UPRIGHT[orientation]) if orientation in TO_UPRIGHT else image
    if upright.mode in GREY_16_BIT or (upright.mode == "I" and image.format == "PNG"):
        upright = _grey_from_16_bit(upright)
    if upright.mode in ("I", "F"):
        raise ImageError(
            name,
            got=f"mode {upright.mode} (32 bits a pixel, of unknown range)",
            expected="8 or 16 bits a channel",
            next_step="Convert it to 8 bits.",
        )
    if upright.has_transparency_data:
        canvas = Image.new("RGBA", upright.size, (*background, 255))
        return Image.alpha_composite(canvas, upright.convert("RGBA")).convert("RGB")
    return upright if upright.mode == "L" else upright.convert("RGB")


def name_of(source: object) -> str:
    """Return what an error calls an image: its path, or "image" if it has none.

    Args:
        source: a path, an open file, a Pillow image or anything else.
    """
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if name else "image"


_EXPECTED = "a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image"


def encoded_bytes(source: EncodedImage) -> bytes:
    """Read an image file without decoding it.

    Args:
        source: a path, the bytes of an image file, or a file opened as binary.

    Returns:
        At least one byte and at most `MAX_ENCODED_BYTES`.

    Raises:
        UnreadableImage: the file cannot be read.
        ImageError: it is empty or too large, or `source` is of another type.
    """
    name = name_of(source)
    encoded: object
    if isinstance(source, bytes):
        encoded = source
    else:
        try:
            if isinstance(source, str | Path):
                encoded = _content_of_file(Path(source))
            else:
                encoded = source.read(MAX_ENCODED_BYTES + 1)
        except AttributeError:
            encoded = source  # refused below
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, a closed file
            reason = os_error_reason(error) if isinstance(error, OSError) else str(error).lower()
            raise UnreadableImage(
                name, got=reason, expected="a readable file", next_step="Check the path."
            ) from error
    if not isinstance(encoded, bytes):
        raise ImageError(
            name,
            got=f"an object of type {type(source).__name__}",
            expected="a path, bytes, a file opened as binary, or a Pillow image",
        )
    if len(encoded) > MAX_ENCODED_BYTES:
        raise ImageError(
            name,
            got=f"more than {MAX_ENCODED_BYTES:,} bytes",
            expected="a smaller file",
            next_step="Save the image smaller.",
        )
    if not encoded:
        raise ImageError(name, got="0 bytes", expected=_EXPECTED, next_step="Remove it or save it again.")
    return encoded


def _content_of_file(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("a pipe or device")  # reading it might never end
    with path.open("rb") as file:
        return file.read(MAX_ENCODED_BYTES + 1)


def _without_png_metadata(encoded: bytes) -> bytes:
    """Remove the colour profile and the texts of a PNG, except a text that may have the orientation."""
    if not encoded.startswith(PNG_START) or not any(kind in encoded for kind in PNG_METADATA):
        return encoded
    kept, position = [encoded[: len(PNG_START)]], len(PNG_START)
    while position < len(encoded):
        size = int.from_bytes(encoded[position : position + 4], "big") + 12  # with length, kind and checksum
        chunk = encoded[position : position + size]
        if chunk[4:8] not in PNG_METADATA or chunk[8:].startswith(PNG_ORIENTATIONS):
            kept.append(chunk)
        position += size
    return b"".join(kept)


def _broken(name: str, error: Exception) -> ImageError:
    return ImageError(
        name,
        got=f"a broken image ({error})",
        expected=_EXPECTED,
        next_step="Remove it or save it again.",
    )


def _check_pixels(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(name, f"{image.width:,}x{image.height:,}")


def _too_many_pixels(name: str, got: str) -> ImageError:
    return ImageError(
        name,
        got=f"{got} pixels",
        expected=f"at most {MAX_PIXELS:,} (a decompression bomb otherwise)",
        next_step="Scale the image down.",
    )


def _grey_from_16_bit(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255 with rounding; Pillow's own conversion clips at 255."""
    grey = np.asarray(image).astype(np.uint32)  # (H, W)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
