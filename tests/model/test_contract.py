from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract
from alexnet_model.errors import AlexnetError, ContractError, ImageError

GOLDEN_DIGEST = "4b0580bad27dad603c4b5dc290c5824f5d045a15e78ff993889ec5e54e10cda7"


def test_the_digest_of_the_default_contract_does_not_change() -> None:
    # Checkpoints, exports and served models have it: a client refuses a model with another digest.
    assert Contract().digest == GOLDEN_DIGEST


# For each field that may differ: a value other than the default that the code implements.
OTHER_VALUES: dict[str, Any] = {
    "input_name": "pixels",
    "colour": "BGR",
    "resize": 257,
    "size": 223,
    "interpolation": "bicubic-antialias",
    "background": (0, 255, 255),
    "mean": (0.5, 0.456, 0.406),
    "std": (0.5, 0.224, 0.225),
    "probabilities_name": "scores",
    "logits_name": "raw",
}
ONLY_ONE_VALUE = {"version": 2, "layout": "NCHW", "dtype": "FP32"}


def test_every_field_is_covered_by_a_test_of_its_values() -> None:
    assert {
        field.name for field in dataclasses.fields(Contract)
    } == OTHER_VALUES.keys() | ONLY_ONE_VALUE.keys()


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_field_changes_the_digest_and_is_listed_as_a_difference(name: str) -> None:
    ours = Contract()
    theirs = dataclasses.replace(ours, **{name: OTHER_VALUES[name]})
    assert theirs.digest != ours.digest
    (difference,) = ours.differences(theirs)
    assert difference.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((name, value, str(getattr(Contract(), name))) for name, value in ONLY_ONE_VALUE.items()),
        ("version", True, "1"),
        ("colour", "GREY", "'RGB' or 'BGR'"),
        ("interpolation", "bilinear", "'bilinear-antialias' or 'bicubic-antialias'"),
        ("interpolation", "bicubic", "'bilinear-antialias' or 'bicubic-antialias'"),
        ("interpolation", ["bilinear-antialias"], "'bilinear-antialias' or 'bicubic-antialias'"),
        ("size", 0, "1 to 256 whole pixels, at most the value of resize"),
        ("size", 257, "1 to 256 whole pixels, at most the value of resize"),
        ("size", 224.0, "whole pixels"),
        ("resize", 0, "1 to 4096 whole pixels"),
        ("resize", 10**9, "1 to 4096 whole pixels"),
        ("resize", "256", "whole pixels"),
        ("background", (0, 0, 256), "3 whole numbers from 0 to 255"),
        ("background", (0, 0), "3 whole numbers from 0 to 255"),
        ("background", "white", "3 whole numbers from 0 to 255"),
        ("mean", (0.5,), "3 finite numbers"),
        ("mean", (0.5, 0.5, math.nan), "3 finite numbers"),
        ("mean", (0.5, 0.5, 10**400), "3 finite numbers"),
        ("mean", 0.5, "3 finite numbers"),
        ("std", (0.2, 0.0, 0.2), "3 finite numbers above 0"),
        ("std", (0.2, -0.2, 0.2), "3 finite numbers above 0"),
        ("std", (0.2, 0.2, 0.2, 0.2), "3 finite numbers above 0"),
        ("std", (0.2, "0.2", 0.2), "3 finite numbers above 0"),
        ("input_name", "", "letters"),
        ("input_name", "an image", "letters"),
        ("logits_name", 7, "letters"),
        ("logits_name", "probabilities", "different names"),
        ("input_name", "encoded", "different names"),
    ],
)
def test_values_that_are_not_implemented_are_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ContractError) as refused:
        dataclasses.replace(Contract(), **{name: value})
    line = str(refused.value)
    assert line.startswith((f"contract field {name}: got ", "contract tensor names: got "))
    assert expected in line
    assert refused.value.next_step
    assert "\n" not in line
    # The same from JSON, and a ValueError for readers of records.
    values = json.loads(json.dumps(dataclasses.asdict(Contract()) | {name: value}))
    with pytest.raises(ValueError, match="contract"):
        Contract.from_json(json.dumps(values))


def test_a_resize_below_the_crop_is_refused() -> None:
    with pytest.raises(
        ContractError, match="size: got 224, expected 1 to 223 whole pixels, at most the value of resize"
    ):
        Contract(resize=223)


def test_a_contract_error_is_an_error_of_this_project_and_a_value_error() -> None:
    assert issubclass(ContractError, AlexnetError)
    assert issubclass(ContractError, ValueError)


@pytest.mark.parametrize("changes", [{"version": 2}, {"version": 2, "gamma": 2.2}, {"version": 0}], ids=str)
def test_a_contract_of_an_unknown_version_is_refused_by_its_version(changes: dict[str, Any]) -> None:
    values = json.loads(Contract().to_json()) | changes
    with pytest.raises(ContractError, match=rf"contract field version: got {changes['version']}, expected 1"):
        Contract.from_json(json.dumps(values))


def test_json_is_canonical_and_can_be_read_back() -> None:
    contract = Contract(size=96, mean=(0.1, 0.2, 0.3))
    text = contract.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert Contract.from_json(text) == contract
    assert Contract.from_json(json.dumps(json.loads(text), indent=4)).digest == contract.digest


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"version": 1}', "not json"])
def test_json_that_is_not_a_contract_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match=r"fields|JSON"):
        Contract.from_json(text)


def test_json_with_an_unknown_field_is_refused() -> None:
    values = json.loads(Contract().to_json()) | {"gamma": 2.2}
    with pytest.raises(ValueError, match="gamma"):
        Contract.from_json(json.dumps(values))


def resized_then_cropped(
    image: Image.Image, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray[Any, Any]:
    """Resize the whole image to a shorter side of 256, then take the centre crop of 224."""
    shorter = min(image.size)
    width, height = (256 * side // shorter for side in image.size)
    resized = image.resize((width, height), resampling)
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
def test_prepared_equals_resize_then_crop_to_one_level(
    textured: Callable[[int, int], Image.Image], size: tuple[int, int]
) -> None:
    image = textured(*size)
    prepared = Contract().prepared(image)
    assert prepared.shape == (224, 224, 3)
    assert prepared.dtype == np.uint8
    difference = np.abs(prepared.astype(int) - resized_then_cropped(image).astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize("size", [(8, 8), (500, 375), (1023, 769)], ids="{0[0]}x{0[1]}".format)
def test_bicubic_prepared_equals_resize_then_crop_to_one_level(
    textured: Callable[[int, int], Image.Image], size: tuple[int, int]
) -> None:
    image = textured(*size)
    prepared = Contract(interpolation="bicubic-antialias").prepared(image)
    expected = resized_then_cropped(image, Image.Resampling.BICUBIC)
    assert np.abs(prepared.astype(int) - expected.astype(int)).max() <= 1
    assert not np.array_equal(prepared, Contract().prepared(image))


def test_bgr_is_rgb_with_the_channels_reversed(textured: Callable[[int, int], Image.Image]) -> None:
    image = textured(300, 280)
    prepared = Contract(colour="BGR").prepared(image)
    np.testing.assert_array_equal(prepared, Contract().prepared(image)[..., ::-1])
    assert prepared.flags.c_contiguous
    assert Contract(colour="BGR").prepared(Image.new("RGB", (9, 9), (1, 2, 3)))[0, 0].tolist() == [3, 2, 1]


def test_an_image_prepared_from_path_bytes_file_and_image_is_the_same(
    textured: Callable[[int, int], Image.Image], tmp_path: Any
) -> None:
    path = tmp_path / "image.png"
    textured(300, 280).save(path)
    expected = Contract().prepared(textured(300, 280))
    with path.open("rb") as file, Image.open(path) as lazy:
        for source in (path, str(path), path.read_bytes(), file, lazy):
            np.testing.assert_array_equal(Contract().prepared(source), expected)


def test_checked_returns_a_contiguous_batch() -> None:
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


def test_an_image_has_150528_bytes() -> None:
    contract = Contract()
    assert contract.image_bytes == 150_528 == np.zeros(contract.image_shape, np.uint8).nbytes


def test_draft_is_not_used_because_it_changes_pixels() -> None:
    """`draft` lets Pillow decode large JPEGs faster. If its pixels ever become equal, use it."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((2400, 1600), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    large.save(encoded, "JPEG")
    whole = Contract().prepared(encoded.getvalue())
    with Image.open(io.BytesIO(encoded.getvalue())) as drafted:
        drafted.draft("RGB", (384, 256))
        assert drafted.size == (600, 400)
        assert not np.array_equal(Contract().prepared(drafted), whole)
