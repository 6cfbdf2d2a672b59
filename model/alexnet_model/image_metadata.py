"""Separate an image file's pixels from its metadata, of which only the orientation is used.

Pillow refuses images whose metadata are broken or long, and warns about others. It is given the file without
them. Nothing here decompresses more than `_TEXT_BYTES` or reads more than `_MOST_PARTS` parts.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

ORIENTATION = 0x0112  # the tag
UPRIGHT = 1
_TEXT_BYTES = 1024 * 1024
# Segments of a JPEG, chunks of a PNG, entries of a TIFF. Images of 64 MB have some 10,000 chunks.
_MOST_PARTS = 100_000

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_EXIF_TEXT = b"Raw profile type exif"
_PNG_XMP_TEXT = b"XML:com.adobe.xmp"

_JPEG_START = b"\xff\xd8"
_JPEG_FILL = re.compile(rb"\xff+")
_JPEG_METADATA = {bytes([marker]) for marker in (*range(0xE0, 0xF0), 0xFE)}  # with comments
# Frames with their Huffman tables, quantisation tables and restart intervals.
_JPEG_SEGMENTS = _JPEG_METADATA | {bytes([marker]) for marker in (*range(0xC0, 0xD0), 0xDB, 0xDD)}
_EXIF = b"Exif\0\0"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"

# Byte order and whether it is a BigTIFF, by the first bytes.
_TIFF_STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
# The tags that say how pixels are stored. The orientation is not among them: it is applied here.
_TIFF_PIXELS = {
    *range(254, 260),  # size, bits, compression
    *(262, 266, 273, 277, 278, 279, 284),  # colours, fill order, strips, planes
    *(
        292,
        293,
        317,
        320,
        *range(322, 326),
        332,
        334,
        338,
        339,
        347,
    ),  # options, palette, tiles, alpha, tables
    *range(512, 522),  # JPEG of TIFF 6.0
    *(530, 531, 532),  # YCbCr
}
_WHOLE_NUMBERS = {3: "H", 4: "I"}  # by the kind of an entry
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def pixels_and_orientation(encoded: bytes) -> tuple[bytes, int | None]:
    """Return a file without its metadata, and its orientation.

    Args:
        encoded: An image file.

    Returns:
        The file, and the orientation as EXIF counts it, 1 to 8. A file that is not a JPEG, PNG or TIFF is
        returned as it is, with None.

    Raises:
        ValueError: It has more than `_MOST_PARTS` segments, chunks or tags.
    """
    if encoded.startswith(_JPEG_START):
        return _jpeg(encoded)
    if encoded.startswith(_PNG_START):
        return _png(encoded)
    if encoded[:4] in _TIFF_STARTS:
        return _tiff(encoded)
    return encoded, None


def orientation_from_metadata(exif: object, xmp: object) -> int | None:
    """Return the orientation in EXIF data, or else in XMP; None if neither has one.

    Args:
        exif: EXIF data as bytes, with or without its header. Anything else counts as none.
        xmp: XMP as bytes. Anything else counts as none.
    """
    found = None
    if isinstance(exif, bytes):
        found = _orientation_of(_tiff_directory(exif.removeprefix(_EXIF).removeprefix(_EXIF)))
    if found is None and isinstance(xmp, bytes):
        match = _XMP_ORIENTATION.search(xmp[:_TEXT_BYTES])
        found = int(match[1]) if match else None
    return found


def _jpeg(encoded: bytes) -> tuple[bytes, int]:
    kept, position = [_JPEG_START], len(_JPEG_START)
    orientation = xmp = None
    parts = 0
    while fill := _JPEG_FILL.match(encoded, position):
        start = fill.end() + 1  # behind the marker
        marker = encoded[fill.end() : start]
        end = start + int.from_bytes(encoded[start : start + 2], "big")
        if marker not in _JPEG_SEGMENTS or not start + 2 <= end <= len(encoded):
            break  # the pixels, or something unknown
        parts = _counted(parts)
        if marker not in _JPEG_METADATA:
            kept.append(encoded[position:end])
        else:
            content = encoded[start + 2 : end]
            if marker == b"\xe1" and content.startswith(_EXIF):
                orientation = orientation or orientation_from_metadata(content, None)
            elif marker == b"\xe1" and xmp is None and content.startswith(_JPEG_XMP):
                xmp = content
            elif (marker == b"\xe0" and content.startswith(b"JFIF\0") and len(content) >= 14) or (
                marker == b"\xee" and content.startswith(b"Adobe") and len(content) >= 12
            ):  # they say what the colours are
                kept.append(encoded[position:end])
        position = end
    orientation = orientation or orientation_from_metadata(None, xmp) or UPRIGHT
    if sum(map(len, kept)) == position:
        return encoded, orientation  # without a copy
    return b"".join((*kept, encoded[position:])), orientation


def _counted(parts: int) -> int:
    if parts >= _MOST_PARTS:
        raise ValueError(f"more than {_MOST_PARTS:,} parts")
    return parts + 1


def _png(encoded: bytes) -> tuple[bytes, int]:
    kept, position = [_PNG_START], len(_PNG_START)
    exif = text = xmp = kind = None
    parts = 0
    while position < len(encoded) and kind != b"IEND":
        parts = _counted(parts)
        size = int.from_bytes(encoded[position : position + 4], "big") + 12  # with length, kind and checksum
        kind = encoded[position + 4 : position + 8]
        end = position + size
        if kind in _PNG_PIXELS or end > len(encoded):
            kept.append(encoded[position:end])
        elif kind == b"eXIf":
            exif = encoded[position + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            content = encoded[position + 8 : end - 4]
            if content.startswith(_PNG_EXIF_TEXT + b"\0"):
                text = _exif_from_text(_text_of(kind, content))
            elif content.startswith(_PNG_XMP_TEXT + b"\0"):
                xmp = _text_of(kind, content)
        position = end
    return b"".join(kept), orientation_from_metadata(exif or text, xmp) or UPRIGHT


def _text_of(kind: bytes, content: bytes) -> bytes:
    """Return the start of a PNG's text; empty if it cannot be decompressed."""
    _, _, rest = content.partition(b"\0")
    if kind == b"tEXt":
        return rest[:_TEXT_BYTES]
    compressed = kind == b"zTXt" or rest[:1] == b"\1"
    rest = rest[1:] if kind == b"zTXt" else b"".join(rest[2:].split(b"\0", 2)[2:])  # two language fields
    if not compressed:
        return rest[:_TEXT_BYTES]
    try:
        return zlib.decompressobj().decompress(rest, _TEXT_BYTES)
    except zlib.error:
        return b""


def _exif_from_text(text: bytes) -> bytes:
    """Decode the hexadecimal digits after `exif` and a length, as ImageMagick writes them."""
    words = text.split(None, 2)
    digits = re.match(rb"[0-9a-fA-F\s]*", words[2]) if len(words) == 3 else None
    digits_only = b"".join(digits[0].split()) if digits else b""
    return bytes.fromhex(digits_only[: len(digits_only) // 2 * 2].decode())


class _Directory(NamedTuple):
    """The first directory of a TIFF file, or of EXIF data, which have the same format."""

    order: str  # of bytes, as `struct` writes it
    big: bool  # of a BigTIFF
    entries: list[bytes]


def _tiff_directory(content: bytes) -> _Directory | None:
    """Return the directory, without entries that are cut off; None if there is none."""
    if content[:4] not in _TIFF_STARTS:
        return None
    order, big = _TIFF_STARTS[content[:4]]
    size = 20 if big else 12
    try:
        (first,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
        count_format = order + ("Q" if big else "H")
        (count,) = struct.unpack_from(count_format, content, first)
    except (struct.error, OverflowError):
        return None
    first += struct.calcsize(count_format)
    end = min(first + count * size, len(content))
    _counted((end - first) // size - 1)
    return _Directory(
        order, big, [content[start : start + size] for start in range(first, end - size + 1, size)]
    )


def _orientation_of(directory: _Directory | None) -> int | None:
    for entry in directory.entries if directory else ():
        assert directory is not None
        tag, kind = struct.unpack_from(directory.order + "HH", entry)
        if tag == ORIENTATION and kind in _WHOLE_NUMBERS:
            format_ = directory.order + _WHOLE_NUMBERS[kind]
            (value,) = struct.unpack_from(format_, entry, 12 if directory.big else 8)
            return value if 1 <= value <= 8 else None
    return None


def _tiff(encoded: bytes) -> tuple[bytes, int]:
    """Append a directory of the tags that the pixels need, and let the file begin with it."""
    directory = _tiff_directory(encoded)
    if directory is None:
        return encoded, UPRIGHT
    order, big, entries = directory
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_PIXELS]
    position = len(encoded) + len(encoded) % 2
    header = encoded[:8] if big else encoded[:4]
    parts = (
        header + struct.pack(order + ("Q" if big else "I"), position),
        encoded[16 if big else 8 :],
        b"\0" * (len(encoded) % 2),
        struct.pack(order + ("Q" if big else "H"), len(kept)),
        *kept,
        bytes(8 if big else 4),  # no other directory
    )
    return b"".join(parts), _orientation_of(directory) or UPRIGHT
