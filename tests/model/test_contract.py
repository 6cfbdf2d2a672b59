from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract
from alexnet_model.errors import ImageError

GOLDEN_DIGEST = "4b0580bad27dad603c4b5dc290c5824f5d045a15e78ff993889ec5e54e10cda7"


def test_the_digest_is_the_one_in_files_and_servers_out_there() -> None:
    # Changing it makes every exported model refuse its clients: raise `version` when that is meant.
    assert Contract().digest == GOLDEN_DIGEST


def other_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return (other_value(value[0]), *value[1:])
    return value + "x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Contract)])
def test_every_field_changes_the_digest_and_is_named_as_the_difference(name: str) -> None:
    ours = Contract()
    theirs = dataclasses.replace(ours, **{name: other_value(getattr(ours, name))})
    assert theirs.digest != ours.digest
    (difference,) = ours.differences(theirs)
    assert difference.startswith(f"{name}: ")


def test_json_is_canonical_and_comes_back_equal() -> None:
    contract = Contract(size=96, mean=(0.1, 0.2, 0.3))
    text = contract.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert Contract.from_json(text) == contract
    assert Contract.from_json(json.dumps(json.loads(text), indent=4)).digest == contract.digest


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"version": 1}', "not json"])
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fields|Expecting"):
        Contract.from_json(text)


def test_json_with_an_unknown_field_is_refused() -> None:
    values = json.loads(Contract().to_json()) | {"gamma": 2.2}
    with pytest.raises(ValueError, match="gamma"):
        Contract.from_json(json.dumps(values))


def resized_then_cropped(image: Image.Image) -> np.ndarray[Any, Any]:
    """The contract's words done literally: shorter side to 256, centre crop 224."""
    shorter = min(image.size)
    width, height = (256 * side // shorter for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))


@pytest.mark.parametrize(
    "size",
    [
        (256, 256),
        (224, 224),
        (8, 8),
        (1, 1),
        (500, 375),
        (375, 500),
        (1023, 769),
        (257, 255),
        (40, 2000),
        (3, 2),
    ],
    ids="{0[0]}x{0[1]}".format,
)
def test_prepared_is_resize_then_crop_to_one_level(
    textured: Callable[[int, int], Image.Image], size: tuple[int, int]
) -> None:
    image = textured(*size)
    prepared = Contract().prepared(image)
    assert prepared.shape == (224, 224, 3)
    assert prepared.dtype == np.uint8
    difference = np.abs(prepared.astype(int) - resized_then_cropped(image).astype(int))
    assert difference.max() <= 1


def test_an_image_prepared_from_path_bytes_file_and_image_is_the_same(
    textured: Callable[[int, int], Image.Image], tmp_path: Any
) -> None:
    path = tmp_path / "image.png"
    textured(300, 280).save(path)
    expected = Contract().prepared(textured(300, 280))
    with path.open("rb") as file, Image.open(path) as lazy:
        for source in (path, str(path), path.read_bytes(), file, lazy):
            np.testing.assert_array_equal(Contract().prepared(source), expected)


def test_checked_gives_one_image_its_batch_axis_and_contiguous_memory() -> None:
    one = np.zeros((224, 224, 3), np.uint8)
    assert Contract().checked(one).shape == (1, 224, 224, 3)
    every_second = np.zeros((4, 224, 224, 3), np.uint8)[::2]
    checked = Contract().checked(every_second)
    assert checked.shape == (2, 224, 224, 3)
    assert checked.flags.c_contiguous


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 3, 224, 224), np.uint8), ["(1, 3, 224, 224)", "channels last"]),
        (np.zeros((3, 224, 224), np.uint8), ["(3, 224, 224)", "channels last"]),
        (np.zeros((1, 224, 224, 3), np.float32), ["float32", "uint8"]),
        (np.zeros((224, 224, 3), np.int64), ["int64", "uint8"]),
        (np.zeros((0, 224, 224, 3), np.uint8), ["(0, 224, 224, 3)", "(N, 224, 224, 3)"]),
        (np.zeros((1, 225, 224, 3), np.uint8), ["(1, 225, 224, 3)", "prepared"]),
        (np.zeros((224, 224), np.uint8), ["(224, 224)", "prepared"]),
        (np.zeros((224, 224, 4), np.uint8), ["(224, 224, 4)", "prepared"]),
        (np.zeros((), np.uint8), ["()", "prepared"]),
        (np.zeros((1, 1, 224, 224, 3), np.uint8), ["(1, 1, 224, 224, 3)", "prepared"]),
        (np.array(["an image"]), ["<U8", "uint8"]),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_arrays_of_another_shape_layout_or_dtype_are_refused(
    images: np.ndarray[Any, Any], words: list[str]
) -> None:
    with pytest.raises(ImageError) as refused:
        Contract().checked(images)
    for word in words:
        assert word in str(refused.value)


def test_an_image_costs_150528_bytes() -> None:
    contract = Contract()
    assert contract.image_bytes == 150_528 == np.zeros(contract.image_shape, np.uint8).nbytes


def test_draft_is_not_used_because_it_changes_pixels() -> None:
    """Pillow's shortcut for large JPEGs. Should its pixels ever be equal, it may be used."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((2400, 1600), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    large.save(encoded, "JPEG")
    whole = Contract().prepared(encoded.getvalue())
    with Image.open(io.BytesIO(encoded.getvalue())) as drafted:
        drafted.draft("RGB", (384, 256))
        assert drafted.size == (600, 400)
        assert not np.array_equal(Contract().prepared(drafted), whole)
