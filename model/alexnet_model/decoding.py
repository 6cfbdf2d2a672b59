"""Decode any image to upright 8-bit pixels, RGB or grey: the first step of the input contract.

A grey image keeps its one channel, because resizing one channel is three times as fast as resizing three.

Unusual but valid images are decoded (1x1, very thin, CMYK, greyscale, palette, alpha, 16-bit, EXIF-rotated,
progressive). Every broken or hostile image raises an `ImageError`.
"""

from __future__ import annotations

import ctypes
import io
import logging
import stat
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging
from PIL.TiffImagePlugin import (
    ROWSPERSTRIP,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    TiffImageFile,
)

from .errors import ImageError, UnreadableImage, os_error_reason
from .image_formats import EXPECTED, FORMATS, STARTS, other_format
from .image_metadata import ORIENTATION, orientation_from_metadata, pixels_and_orientation


class BinaryFile(Protocol):
    """An open binary file: only `read` is used."""

    def read(self, size: int, /) -> bytes: ...


EncodedImage: TypeAlias = str | Path | bytes | BinaryFile
Colour: TypeAlias = tuple[int, int, int]

MAX_ENCODED_BYTES = 64 * 1024 * 1024
# Pillow's own limit for decompression bombs: it warns at a third of a gigabyte of RGB and raises at twice
# that.
MAX_PIXELS = 2 * 89_478_485
WHITE: Colour = (255, 255, 255)
# Pillow warns about images of more than half of MAX_PIXELS, which this module limits itself, and about odd
# data in files that it decodes, which it does not name. A filter that the user has set takes precedence.
# `catch_warnings` around each call is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)
logging.getLogger("PIL").addHandler(logging.NullHandler())
# libtiff writes lines about broken files to standard error, beside the errors that Pillow raises for them.
with suppress(AttributeError, OSError):  # a Pillow without libtiff, or with one that cannot be reached
    _library = ctypes.CDLL(_imaging.__file__)
    _library.TIFFSetErrorHandler(None)
    _library.TIFFSetWarningHandler(None)
# Pillow's names of the TIFF compressions that decode every pixel or fail. Others, above all those of fax
# (CCITT), leave what was in memory before in the pixels of a broken file. So does JPEG if a part of the image
# is smaller than the TIFF says, which `_check_jpeg_parts` finds.
TIFF_COMPRESSIONS = (
    *("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd", "jpeg"),
)
CCITT = ("tiff_ccitt", "group3", "group4", "tiff_raw_16")
GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
        pixels, orientation = pixels_and_orientation(encoded)
        with Image.open(io.BytesIO(pixels), formats=FORMATS) as image:
            return _upright(image, name, background, orientation)
    except UnidentifiedImageError as error:
        if encoded.startswith(STARTS):
            raise _broken(name, "its header") from error
        got, next_step = other_format(encoded) or (
            f"{len(encoded)} bytes that are not an image",
            "Remove it or convert it.",
        )
        raise ImageError(name, got=got, expected=EXPECTED, next_step=next_step) from error
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


def _upright(
    image: Image.Image, name: str, background: Colour, orientation: int | None = None
) -> Image.Image:
    """Apply an image's orientation, by default that of its metadata, and convert it to mode "RGB" or "L"."""
    if 0 in image.size:
        raise ImageError(name, got=f"{image.width}x{image.height} pixels", expected="at least 1x1")
    _check_pixels(image, name)
    if isinstance(image, TiffImageFile):
        _check_compression(image, name)
    image.load()  # before the orientation is read, because a PNG may have it behind the pixels
    if orientation is None:
        orientation = _orientation_of(image)
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
    # `convert` copies an image even if it has that mode, which costs about as much as decoding a JPEG file.
    return upright if upright.mode in ("L", "RGB") else upright.convert("RGB")


def _check_compression(image: TiffImageFile, name: str) -> None:
    """Refuse a TIFF in which pixels may be left undecoded."""
    compression = image.info.get("compression", "raw")
    if compression not in TIFF_COMPRESSIONS:
        raise ImageError(
            name,
            got="a TIFF with "
            + ("fax compression (CCITT)" if compression in CCITT else f"the compression {compression}"),
            expected="another compression, such as LZW",
            next_step="Save it as PNG.",
        )
    if compression == "jpeg":
        _check_jpeg_parts(image, name)


def _check_jpeg_parts(image: TiffImageFile, name: str) -> None:
    """Check that the JPEG of each strip or tile is as large as that strip or tile.

    An image that was loaded before it was passed has no file any more and is not checked.
    """
    if image.fp is None or image.fp.closed:
        return
    tags = image.tag_v2
    tiled = TILELENGTH in tags
    width = tags[TILEWIDTH] if tiled else image.width
    rows = tags[TILELENGTH] if tiled else min(tags.get(ROWSPERSTRIP, image.height), image.height)
    strips = -(-image.height // rows)  # of each plane
    places = zip(
        tags[TILEOFFSETS if tiled else STRIPOFFSETS],
        tags[TILEBYTECOUNTS if tiled else STRIPBYTECOUNTS],
        strict=True,
    )
    for index, (offset, size) in enumerate(places):
        height = rows if tiled else min(rows, image.height - index % strips * rows)
        image.fp.seek(offset)
        with Image.open(io.BytesIO(image.fp.read(size)), formats=("JPEG",)) as part:
            if part.width < width or part.height < height:
                raise _broken(
                    name, f"a part of {part.width}x{part.height} pixels instead of {width}x{height}"
                )


def _orientation_of(image: Image.Image) -> int | None:
    info = image.info
    if "exif" in info or "xmp" in info:
        return orientation_from_metadata(info.get("exif"), info.get("xmp"))
    return image.getexif().get(ORIENTATION)


def name_of(source: object) -> str:
    """Return what an error calls an image: its path, or "image" if it has none.

    Args:
        source: a path, an open file, a Pillow image or anything else.
    """
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if name else "image"


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
        raise ImageError(name, got="0 bytes", expected=EXPECTED, next_step="Remove it or save it again.")
    return encoded


def _content_of_file(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("a pipe or device")  # reading it might never end
    with path.open("rb") as file:
        return file.read(MAX_ENCODED_BYTES + 1)


def _broken(name: str, reason: object) -> ImageError:
    return ImageError(
        name,
        got=f"a broken image ({reason})",
        expected=EXPECTED,
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
