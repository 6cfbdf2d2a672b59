"""Broken or long metadata do not keep an image from being decoded, upright and without lines of libraries."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_model import Contract
from alexnet_model.decoding import upright_from_encoded, upright_from_opened
from alexnet_model.errors import ImageError

from ..awkward_images import encoded, textured

UPRIGHT = textured(48, 40)
STORED = UPRIGHT.transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns it upright
CONTRACT = Contract(size=32, resize=36)
ORIENTATION = (0x0112, 3, 1, 6)
XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
TWO_MB = bytes(2_000_000)

Entry = tuple[int, int, int, int]


def exif(*entries: Entry, order: str = "<", rest: bytes = b"", claimed: int | None = None) -> bytes:
    """EXIF data of these entries, and of as many as `claimed`."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    count = struct.pack(order + "H", len(entries) if claimed is None else claimed)
    # A short value is in the first two bytes.
    packed = (struct.pack(order + ("HHIHxx" if e[1] == 3 and e[2] == 1 else "HHII"), *e) for e in entries)
    return start + count + b"".join(packed) + bytes(4) + rest


EXIF = {
    "little-endian": exif(ORIENTATION),
    "big-endian": exif(ORIENTATION, order=">"),
    "header twice": b"Exif\0\0" + exif(ORIENTATION),
    "text behind the end": exif((0x010F, 2, 100, 99_999), ORIENTATION),
    "unknown kind": exif((0x010F, 99, 1, 1), ORIENTATION),
    "endless text": exif((0x010F, 2, 2**32 - 1, 8), ORIENTATION),
    "more entries than there are": exif(ORIENTATION, claimed=500),
    "negative width": exif((0x0100, 9, 1, 2**32 - 5), ORIENTATION),
    "resolution by zero": exif(ORIENTATION, (0x011A, 5, 1, 8), (0x0128, 3, 1, 2)),
    "resolution as text": exif(ORIENTATION, (0x011A, 2, 4, 7), (0x0128, 2, 4, 7)),
    "GPS as text": exif(ORIENTATION, (0x8825, 2, 4, 7)),
    "directory in a circle": exif(ORIENTATION, (0x8769, 4, 1, 8)),
    "cut maker note": exif(ORIENTATION, (0x927C, 7, 50_000, 10)),
}


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    """STORED as a JPEG with these segments after its start."""
    whole = encoded(STORED, "JPEG", quality=97)
    packed = (bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return whole[:2] + b"".join(packed) + whole[2:]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """STORED as a PNG with these chunks before its pixels."""
    whole = encoded(STORED, "PNG")
    at = whole.index(b"IDAT") - 4
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return whole[:at] + b"".join(packed) + whole[at:]


def tiff(*entries: Entry) -> bytes:
    """STORED as a TIFF with these entries too."""
    height, width = STORED.height, STORED.width
    pixels = STORED.tobytes()
    own = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
    own += [(278, 4, 1, height), (279, 4, 1, len(pixels)), ORIENTATION]
    start = 8 + 2 + 12 * (len(own) + 2 + len(entries)) + 4
    own += [(258, 3, 3, start), (273, 4, 1, start + 6)]
    return exif(*sorted([*own, *entries]), rest=struct.pack("<HHH", 8, 8, 8) + pixels)


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if a library writes to standard error or warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", append=True)
        yield
    assert capfd.readouterr().err == ""
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def is_upright(image: bytes) -> bool:
    expected = UPRIGHT
    if image.startswith(b"\xff\xd8"):
        with Image.open(io.BytesIO(jpeg())) as stored:
            expected = stored.transpose(Image.Transpose.ROTATE_270)
    return np.array_equal(CONTRACT.prepared(image), CONTRACT.prepared(expected))


def webp(data: bytes) -> bytes:
    return encoded(STORED, "WEBP", lossless=True, exif=data)


@pytest.mark.parametrize("name", EXIF)
@pytest.mark.parametrize(
    "carrier",
    [lambda data: jpeg((0xE1, b"Exif\0\0" + data)), lambda data: png((b"eXIf", data)), webp],
    ids=["JPEG", "PNG", "WebP"],
)
def test_the_orientation_beside_broken_exif_entries_is_applied(
    name: str, carrier: Callable[[bytes], bytes]
) -> None:
    assert is_upright(carrier(EXIF[name]))


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [(0x010F, 2, 100, 99_999_999)],
        [(0x010F, 99, 1, 1)],
        [(0x8769, 4, 1, 99_999_999)],
        [(0x8769, 2, 4, 7)],
        [(0x011A, 2, 4, 7), (0x0128, 2, 4, 7)],
        [(34675, 7, 100, 99_999_999)],
    ],
    ids=str,
)
def test_broken_tags_of_a_tiff_are_ignored(entries: list[Entry]) -> None:
    assert is_upright(tiff(*entries))


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
def test_a_compressed_tiff_is_turned_upright(big: bool) -> None:
    assert is_upright(encoded(STORED, "TIFF", compression="tiff_lzw", big_tiff=big, tiffinfo={0x0112: 6}))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"tEXt", b"c\0" + TWO_MB)],
        [(b"zTXt", b"c\0\0" + zlib.compress(TWO_MB))],
        [(b"iCCP", b"c\0\0" + zlib.compress(TWO_MB))],
        [(b"zTXt", b"c\0\0garbage")],
        [(b"iCCP", b"c\0\7garbage")],
        [(b"gAMA", b"\0"), (b"cHRM", b"\0"), (b"sRGB", b""), (b"pHYs", b"\0")],
        [(b"acTL", b"\0"), (b"fcTL", b"\0"), (b"fdAT", b"\0")],
    ],
    ids=lambda chunks: " ".join(f"{kind.decode()} {len(data)}" for kind, data in chunks),
)
def test_ancillary_chunks_of_a_png_are_ignored(chunks: list[tuple[bytes, bytes]]) -> None:
    assert is_upright(png(*chunks, (b"eXIf", EXIF["little-endian"])))


def test_a_wrong_checksum_of_a_text_is_ignored() -> None:
    image = png((b"tEXt", b"c\0hello"), (b"eXIf", EXIF["little-endian"]))
    assert is_upright(image.replace(b"hello", b"hallo"))


RAW_EXIF = b"\nexif\n      99\n" + (b"Exif\0\0" + EXIF["little-endian"] + TWO_MB).hex().encode()


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF)),
        (b"tEXt", b"Raw profile type exif\0" + RAW_EXIF),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + TWO_MB),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0name\0" + zlib.compress(XMP + TWO_MB)),
    ],
    ids=["compressed EXIF", "EXIF", "XMP", "compressed XMP"],
)
def test_an_orientation_in_a_long_text_of_a_png_is_applied(chunk: tuple[bytes, bytes]) -> None:
    assert is_upright(png(chunk))


@pytest.mark.parametrize(
    "segments",
    [
        [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)],
        [(0xE0, b"JFIF\0\1"), (0xE1, b"Exif\0\0" + EXIF["little-endian"])],
        [(0xE2, b"ICC_PROFILE\0"), (0xE1, b"Exif\0\0" + EXIF["little-endian"])],
        [(0xE2, b"MPF\0garbage"), (0xE1, b"Exif\0\0" + EXIF["little-endian"])],
        [(0xED, b"Photoshop 3.0\0008BIM\3\xed\xff"), (0xE1, b"Exif\0\0" + EXIF["little-endian"])],
        [(0xEE, b"Adobe\0\1"), (0xFE, b"a comment"), (0xE1, b"Exif\0\0" + EXIF["little-endian"])],
    ],
    ids=["XMP", "short JFIF", "short profile", "broken MPF", "broken Photoshop", "short Adobe and comment"],
)
def test_broken_segments_of_a_jpeg_are_ignored(segments: list[tuple[int, bytes]]) -> None:
    assert is_upright(jpeg(*segments))


@pytest.mark.parametrize("name", ["little-endian", "text behind the end"])
def test_an_image_that_pillow_has_opened_is_turned_upright(name: str) -> None:
    image = jpeg((0xE1, b"Exif\0\0" + EXIF["resolution by zero"]))
    with Image.open(io.BytesIO(image)) as opened:
        np.testing.assert_array_equal(CONTRACT.prepared(opened), CONTRACT.prepared(image))
        np.testing.assert_array_equal(
            CONTRACT.prepared(ImageOps.exif_transpose(opened)), CONTRACT.prepared(image)
        )
    with Image.open(io.BytesIO(webp(EXIF[name]))) as opened:
        np.testing.assert_array_equal(CONTRACT.prepared(opened), CONTRACT.prepared(UPRIGHT))


@pytest.mark.parametrize(
    "image",
    [
        jpeg(*[(0xFE, b"")] * 100_001),
        png(*[(b"tEXt", b"")] * 100_001),
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40) + bytes(20 * 100_001),
    ],
    ids=["JPEG", "PNG", "BigTIFF"],
)
def test_endless_metadata_are_refused(image: bytes) -> None:
    with pytest.raises(ImageError, match="more than 100,000 parts"):
        CONTRACT.prepared(image)


def test_a_broken_header_is_of_a_broken_image() -> None:
    with pytest.raises(ImageError, match=r"got a broken image \(its header\)"):
        CONTRACT.prepared(png((b"tRNS", b"\0")))


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_fax_compression_is_refused(compression: str) -> None:
    image = encoded(UPRIGHT.convert("1"), "TIFF", compression=compression)
    with pytest.raises(ImageError, match=r"got a TIFF with fax compression \(CCITT\).*Save it as PNG"):
        CONTRACT.prepared(image)
    with Image.open(io.BytesIO(image)) as opened, pytest.raises(ImageError, match="CCITT"):
        CONTRACT.prepared(opened)


@pytest.mark.parametrize("size", [(300, 200), (16, 8)])
def test_a_tiff_of_jpegs_decodes_unless_one_is_smaller_than_its_place(size: tuple[int, int]) -> None:
    """libtiff reports success for a smaller one, and leaves the rest as it was in memory."""
    image = encoded(Image.effect_noise(size, 50).convert("RGB"), "TIFF", compression="jpeg")
    assert upright_from_encoded(image).size == size
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        assert upright_from_opened(opened).size == size
    before = image.index(b"\xff\xc0") + 7  # the width in the frame header of the first JPEG
    narrower = image[:before] + (size[0] - 9).to_bytes(2, "big") + image[before + 2 :]
    with pytest.raises(ImageError, match=rf"a broken image \(a part of {size[0] - 9}x"):
        upright_from_encoded(narrower)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_broken_tiff_writes_nothing_to_standard_error(compression: str) -> None:
    image = encoded(UPRIGHT, "TIFF", compression=compression)
    with pytest.raises(ImageError, match="broken image"):
        CONTRACT.prepared(image[:200] + b"\xff" * 300 + image[500:])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "got a HEIC image.*Convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "got a HEIC image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avifmiafmif1", "got an AVIF image.*Convert it"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "got a JPEG 2000 image"),
        (b"<?xml version='1.0'?>\n<!-- made -->\n<svg xmlns='...'>", "got an SVG image"),
        (b"\n<!DOCTYPE html>\n<html>", "got a web page.*Download the image itself"),
        (b"<html><body><svg ", "got a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "got a Git LFS pointer.*git lfs pull"),
        (b"%PDF-1.4", "got a PDF"),
    ],
)
def test_other_formats_are_named_with_what_to_do(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        CONTRACT.prepared(content)
