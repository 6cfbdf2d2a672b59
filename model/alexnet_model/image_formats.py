"""The image formats that are decoded, and the names of other formats."""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXPECTED = "a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM image"
# The first bytes of those formats that cannot be the start of something else.
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
# Images of other formats that a folder may hold beside those above.
OTHER_SUFFIXES = {
    **dict.fromkeys((".heic", ".heif"), "a HEIC image"),
    ".avif": "an AVIF image",
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "a JPEG 2000 image"),
    ".jxl": "a JPEG XL image",
    ".svg": "an SVG image",
    ".psd": "a Photoshop file",
}
CONVERT = "Convert it to JPEG or PNG."

_STARTS = {
    b"\0\0\0\x0cjP  \r\n\x87\n": ("a JPEG 2000 image", CONVERT),
    b"\xff\x4f\xff\x51": ("a JPEG 2000 image", CONVERT),
    b"\0\0\0\x0cJXL \r\n\x87\n": ("a JPEG XL image", CONVERT),
    b"\xff\x0a": ("a JPEG XL image", CONVERT),
    b"8BPS\0\x01": ("a Photoshop file", CONVERT),
    b"%PDF-": ("a PDF document", "Convert its pages to JPEG or PNG."),
    b"PK\x03\x04": ("a ZIP archive", "Unpack it."),
    b"version https://git-lfs.github.com/spec/": (
        "a Git LFS pointer, not the image itself",
        "Fetch the image with: git lfs pull",
    ),
}
# Of the files of the ISO base media format, which start with a list of brands.
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_SNIFFED_BYTES = 4096  # an SVG may start with comments


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that are decoded, in lower case with the dot, as Pillow has them."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def other_format(encoded: bytes) -> tuple[str, str] | None:
    """Recognise a file of a format that is not decoded by its first bytes.

    Args:
        encoded: The file.

    Returns:
        What it is, such as `a HEIC image`, and what to do; None if it is not recognised.
    """
    start = encoded[:_SNIFFED_BYTES]
    for signature, known in _STARTS.items():
        if start.startswith(signature):
            return known
    if start[4:8] == b"ftyp":
        end = int.from_bytes(start[:4], "big")
        brands = [start[index : index + 4] for index in range(8, min(end, len(start)), 4)]
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "an AVIF image", CONVERT
        if any(brand in _HEIC_BRANDS for brand in brands):
            return "a HEIC image", CONVERT
        return "a video", "Save its frames as JPEG or PNG."
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        if re.search(rb"<svg[\s>]", text) and not re.search(rb"<html[\s>]", text):
            return "an SVG image", CONVERT
        if re.search(rb"<(!doctype html|html|head|body)\b", text):
            return "a web page (HTML)", "Download the image itself."
    return None
