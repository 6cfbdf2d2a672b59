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
from alexnet_model.contract import contract_from_parameters
from alexnet_model.errors import AlexnetError, ContractError, ImageError

GOLDEN_DIGEST = "289b2e56664660fba12e49a54b8cb1cfdc88f01efac33e7d6f63e4b386dfb9bc"


def test_the_digest_of_the_default_contract_does_not_change() -> None:
    # Checkpoints, exports and served models have it: a client refuses a model with another digest.
    assert Contract().digest == GOLDEN_DIGEST


# For each field that may differ: a value other than the default that the code implements.
OTHER_VALUES: dict[str, Any] = {
    "input_name": "pixels",
    "colour": "BGR",
    "resize": "stretch",
    "size": 223,
    "interpolation": "bicubic",
    "background": (0, 255, 255),
    "mean": (0.5, 0.456, 0.406),
    "std": (0.5, 0.224, 0.225),
    "probabilities_name": "scores",
    "logits_name": "raw",
}
ONLY_ONE_VALUE = {"version": 3, "layout": "NCHW", "dtype": "FP32"}


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
        ("version", True, "2"),
        ("colour", "GREY", "'RGB' or 'BGR'"),
        ("interpolation", "bilinear-antialias", "'bilinear' or 'bicubic' or 'nearest'"),
        ("interpolation", ["bilinear"], "'bilinear' or 'bicubic' or 'nearest'"),
        ("size", 0, "1 to 4096 whole pixels"),
        ("size", 5000, "1 to 4096 whole pixels"),
        ("size", 257, "got 257, a crop larger than the resized image, expected at most 256"),
        ("size", 224.0, "whole pixels"),
        ("resize", 0, "1 to 4096 whole pixels, 'stretch' or 'none'"),
        ("resize", 10**9, "1 to 4096 whole pixels, 'stretch' or 'none'"),
        ("resize", "256", "1 to 4096 whole pixels, 'stretch' or 'none'"),
        ("resize", "squash", "1 to 4096 whole pixels, 'stretch' or 'none'"),
        ("background", (0, 0, 256), "3 whole numbers from 0 to 255"),
        ("background", (0, 0), "3 whole numbers from 0 to 255"),
        ("background", "white", "3 whole numbers from 0 to 255"),
        ("mean", (0.5,), "3 numbers from -10 to 10"),
        ("mean", (0.5, 0.5), "3 numbers from -10 to 10"),
        ("mean", (0.5, 0.5, math.nan), "3 numbers from -10 to 10"),
        ("mean", (0.5, 0.5, 10**400), "3 numbers from -10 to 10"),
        ("mean", (123.7, 116.3, 103.5), "of pixels in 0..1"),
        ("mean", 0.5, "3 numbers from -10 to 10"),
        ("std", (0.2, 0.0, 0.2), "3 numbers from 0.0001 to 10"),
        ("std", (0.2, -0.2, 0.2), "3 numbers from 0.0001 to 10"),
        ("std", (0.2, 0.2, 0.2, 0.2), "3 numbers from 0.0001 to 10"),
        ("std", (0.2, "0.2", 0.2), "3 numbers from 0.0001 to 10"),
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
    expected = "got 224, a crop larger than the resized image, expected at most 223, the value of resize"
    with pytest.raises(ContractError, match=f"size: {expected}. Use resize 224 or more"):
        Contract(resize=223)
    assert Contract(size=4096, resize="stretch").image_shape == (4096, 4096, 3)
    assert Contract(size=300, resize="none").image_shape == (300, 300, 3)


def test_whole_numbers_have_the_digest_of_the_same_fractions() -> None:
    whole = Contract(mean=(0, 0, 0), std=(1, 1, 1))
    assert whole.digest == Contract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).digest


def test_a_contract_error_is_an_error_of_this_project_and_a_value_error() -> None:
    assert issubclass(ContractError, AlexnetError)
    assert issubclass(ContractError, ValueError)


@pytest.mark.parametrize(
    ("changes", "next_step"),
    [
        (
            {"version": 1},
            "Install alexnet-serving 0.1, which wrote this contract, or export the model again.",
        ),
        ({"version": 3}, "Install an alexnet-serving that is newer than 0.2."),
        ({"version": 3, "gamma": 2.2}, "Install an alexnet-serving that is newer than 0.2."),
        ({"version": 0}, "Export the model again."),
        ({"version": "2"}, "Export the model again."),
    ],
    ids=str,
)
def test_a_contract_of_another_version_is_refused_with_the_version_to_install(
    changes: dict[str, Any], next_step: str
) -> None:
    values = json.loads(Contract().to_json()) | changes
    with pytest.raises(ContractError) as refused:
        Contract.from_json(json.dumps(values))
    expected = f"contract field version: got {changes['version']!r}, expected 2. {next_step}"
    assert str(refused.value) == expected


def test_the_parameters_of_a_served_model_are_checked_by_their_digest() -> None:
    contract = Contract(size=227)
    parameters = {"contract": contract.to_json(), "contract_digest": contract.digest}
    assert contract_from_parameters(parameters) == contract
    with pytest.raises(ContractError, match=f"digest: got 000000000000, expected {contract.digest[:12]}"):
        contract_from_parameters(parameters | {"contract_digest": "0" * 64})
    for missing in parameters:
        rest = {name: value for name, value in parameters.items() if name != missing}
        with pytest.raises(ContractError, match="a model without a contract"):
            contract_from_parameters(rest)


def test_json_is_canonical_and_can_be_read_back() -> None:
    contract = Contract(size=96, resize="none", mean=(0.1, 0.2, 0.3))
    text = contract.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert Contract.from_json(text) == contract
    assert Contract.from_json(json.dumps(json.loads(text), indent=4)).digest == contract.digest


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"version": 2}', "not json", "[" * 100_000])
def test_json_that_is_not_a_contract_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match=r"fields|JSON"):
        Contract.from_json(text)


def test_json_with_an_unknown_field_is_refused() -> None:
    values = json.loads(Contract().to_json()) | {"gamma": 2.2}
    with pytest.raises(ValueError, match="gamma"):
        Contract.from_json(json.dumps(values))


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
        (np.zeros((1, 225, 224, 3), np.uint8), ["(1, 225, 224, 3)", "contract.prepared"]),
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
