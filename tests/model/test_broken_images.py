"""Every image that cannot be read raises an `ImageError` with one line that names the image."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract, decoding
from alexnet_model.errors import ImageError

from ..awkward_images import png_header

Textured = Callable[[int, int], Image.Image]
Encoded = Callable[..., bytes]


def refusal(image: object) -> str:
    with pytest.raises(ImageError) as refused:
        Contract().prepared(image)  # type: ignore[arg-type]
    line = str(refused.value)
    assert "\n" not in line
    assert not any(part.endswith(" ") for part in line.split(". "))
    return line


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.jpg")
    assert line.startswith(f"{tmp_path / 'none.jpg'}: got no such file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path}: got is a directory")


def test_a_path_with_a_null_byte_is_refused() -> None:
    assert "null byte" in refusal("a\0b.jpg")


def test_a_closed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "closed.png"
    Image.new("RGB", (4, 4)).save(path)
    with path.open("rb") as file:
        pass
    assert refusal(file).startswith(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, world\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_empty_files_and_other_content_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    line = refusal(path)
    assert line.startswith(str(path))
    assert f"{len(content)} bytes" in line or "broken image" in line


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_images_are_refused(
    textured: Textured, encoded: Encoded, format_name: str, share: float
) -> None:
    whole = encoded(textured(120, 90), format_name)
    assert "expected a JPEG" in refusal(whole[: int(len(whole) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about unknown tags
def test_corrupted_bytes_raise_no_other_error(textured: Textured, encoded: Encoded) -> None:
    rng = np.random.default_rng(0)
    for format_name in ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]:
        whole = encoded(textured(24, 20), format_name)
        for _ in range(150):
            broken = bytearray(whole)
            for position in rng.integers(0, min(len(broken), 200), 4):
                broken[position] = rng.integers(256)
            with contextlib.suppress(ImageError):  # many still decode
                Contract().prepared(bytes(broken))


@pytest.mark.parametrize(
    "size", [(20_000, 20_000), (15_000, 12_000), (1, 2**31 - 1)], ids="{0[0]}x{0[1]}".format
)
def test_decompression_bombs_are_refused_before_decoding(size: tuple[int, int]) -> None:
    assert "expected at most 178,956,970 (a decompression bomb" in refusal(png_header(*size))


def test_an_opened_image_above_the_pixel_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100 * 100)
    assert "101x100 pixels" in refusal(Image.new("1", (101, 100)))
    assert Contract().prepared(Image.new("1", (100, 100))).max() == 0


def test_a_file_above_the_size_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.jpg"
    with path.open("wb") as file:
        file.truncate(decoding.MAX_ENCODED_BYTES + 1)
    assert "more than 67,108,864 bytes" in refusal(path)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_an_image_opened_from_a_truncated_file_is_refused(
    textured: Textured, encoded: Encoded, format_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "half"
    whole = encoded(textured(120, 90), format_name)
    path.write_bytes(whole[: len(whole) // 2])
    with Image.open(path) as lazy:
        assert refusal(lazy).startswith(f"{path}: got a broken image")


def test_an_image_with_a_corrupt_data_chunk_is_refused(textured: Textured, encoded: Encoded) -> None:
    # Pillow raises SyntaxError, not OSError, for a corrupt second data chunk of a PNG.
    whole = encoded(textured(400, 300), "PNG")
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    broken = whole[:second] + b"\0\0\0\0" + whole[second + 4 :]
    refusal(broken)
    refusal(Image.open(io.BytesIO(broken)))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_images_with_32_bits_a_pixel_are_refused(mode: str) -> None:
    assert "unknown range" in refusal(Image.new(mode, (8, 8)))


def test_an_image_without_pixels_is_refused() -> None:
    assert "0x5 pixels" in refusal(Image.new("RGB", (0, 5)))


def test_objects_of_other_types_are_refused() -> None:
    for thing in (12, None, np.zeros((224, 224, 3), np.uint8), io.StringIO("text")):
        assert f"type {type(thing).__name__}" in refusal(thing)
