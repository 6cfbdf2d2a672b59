"""Images that cannot be read are one `ImageError` of one line that names them, whatever is wrong."""

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


def test_missing(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.jpg")
    assert line.startswith(f"{tmp_path / 'none.jpg'}: got no such file")


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path}: got is a directory")


def test_a_path_that_cannot_be() -> None:
    assert "null byte" in refusal("a\0b.jpg")


def test_a_closed_file(tmp_path: Path) -> None:
    path = tmp_path / "closed.png"
    Image.new("RGB", (4, 4)).save(path)
    with path.open("rb") as file:
        pass
    assert refusal(file).startswith(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, world\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_empty_and_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    line = refusal(path)
    assert line.startswith(str(path))
    assert f"{len(content)} bytes" in line or "broken image" in line


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated(textured: Textured, encoded: Encoded, format_name: str, share: float) -> None:
    whole = encoded(textured(120, 90), format_name)
    assert "expected a JPEG" in refusal(whole[: int(len(whole) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd tags
def test_flipped_bytes_never_escape_as_another_error(textured: Textured, encoded: Encoded) -> None:
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
def test_decompression_bombs_are_refused_unread(size: tuple[int, int]) -> None:
    assert "expected at most 178,956,970 (a decompression bomb" in refusal(png_header(*size))


def test_a_bomb_that_was_opened_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100 * 100)
    assert "101x100 pixels" in refusal(Image.new("1", (101, 100)))
    assert Contract().prepared(Image.new("1", (100, 100))).max() == 0


def test_a_file_longer_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "long.jpg"
    with path.open("wb") as file:
        file.truncate(decoding.MAX_ENCODED_BYTES + 1)
    assert "more than 67,108,864 bytes" in refusal(path)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_an_image_opened_from_a_broken_file(
    textured: Textured, encoded: Encoded, format_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "half"
    whole = encoded(textured(120, 90), format_name)
    path.write_bytes(whole[: len(whole) // 2])
    with Image.open(path) as lazy:
        assert refusal(lazy).startswith(f"{path}: got a broken image")


def test_an_image_whose_data_lies(textured: Textured, encoded: Encoded) -> None:
    # Pillow raises SyntaxError, not OSError, when a PNG's second data chunk is none.
    whole = encoded(textured(400, 300), "PNG")
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    broken = whole[:second] + b"\0\0\0\0" + whole[second + 4 :]
    refusal(broken)
    refusal(Image.open(io.BytesIO(broken)))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_32_bits_a_pixel_of_unknown_range(mode: str) -> None:
    assert "unknown range" in refusal(Image.new(mode, (8, 8)))


def test_no_pixels() -> None:
    assert "0x5 pixels" in refusal(Image.new("RGB", (0, 5)))


def test_something_else_entirely() -> None:
    for thing in (12, None, np.zeros((224, 224, 3), np.uint8), io.StringIO("text")):
        assert f"type {type(thing).__name__}" in refusal(thing)
