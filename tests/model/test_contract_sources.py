from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_model import Contract, contract_from_file, contract_from_timm_config
from alexnet_model.contract_sources import PRESETS
from alexnet_model.errors import ContractError

TIMM = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.95,
    "crop_mode": "center",
}


def test_presets_differ_in_mean_and_std_alone() -> None:
    assert PRESETS["imagenet"] == Contract()
    assert PRESETS["tf"] == Contract(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert PRESETS["none"] == Contract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_a_file_may_have_some_of_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_text('{"size": 227, "resize": "stretch", "mean": [0, 0.5, 1]}')
    assert contract_from_file(path) == Contract(size=227, resize="stretch", mean=(0.0, 0.5, 1.0))
    path.write_text("{}")
    assert contract_from_file(path) == Contract()
    path.write_text(Contract(colour="BGR").to_json())
    assert contract_from_file(path) == Contract(colour="BGR")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"size": 227, "gamma": 2.2, "x": 1}',
            "contract: got the field 'gamma', expected some of background, ",
        ),
        ('{"mean": [0.5, 0.5]}', "contract field mean: got (0.5, 0.5), expected 3 numbers"),
        ('{"version": 1}', "contract field version: got 1, expected 2. Install alexnet-serving 0.1"),
        ('{"size": NaN}', "contract field size: got nan"),
        ("[]", "contract: got JSON of type list, expected a JSON object"),
        ("size: 227", "contract: got text that is not JSON"),
        (" " * 65_537, "got more than 65,536 bytes, expected a JSON file with fields of a contract"),
    ],
)
def test_a_file_that_is_not_a_contract_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "contract.json"
    path.write_text(text)
    with pytest.raises(ContractError) as refused:
        contract_from_file(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ContractError, match=r"none\.json: got no such file or directory, expected a JSON file"
    ):
        contract_from_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Contract(resize=235, interpolation="bicubic")),
        ({"crop_pct": 0.875, "interpolation": "bilinear"}, Contract()),
        (
            {"input_size": (3, 299, 299), "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
            Contract(
                size=299, resize=299, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
            ),
        ),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, Contract(resize="stretch", interpolation="bicubic")),
        ({"interpolation": "nearest"}, Contract(resize=235, interpolation="nearest")),
    ],
)
def test_timms_data_config_becomes_a_contract(changes: dict[str, Any], expected: Contract) -> None:
    assert contract_from_timm_config(TIMM | changes) == expected


def test_an_empty_config_has_timms_defaults() -> None:
    assert contract_from_timm_config({}) == Contract(interpolation="bicubic")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (1, 28, 28)}, "input_size: got (1, 28, 28), expected 3 channels and a square"),
        ({"input_size": (3, 224, 256)}, "input_size: got (3, 224, 256), expected 3 channels and a square"),
        ({"input_size": 224}, "input_size: got 224, expected (3, SIZE, SIZE)"),
        ({"crop_pct": 1.2}, "crop_pct: got 1.2, expected a number above 0 and at most 1"),
        ({"crop_pct": None}, "crop_pct: got None"),
        (
            {"crop_mode": "border"},
            "crop_mode: got 'border' with crop_pct 0.95, expected 'center', or 'squash'",
        ),
        ({"crop_mode": "squash"}, "crop_mode: got 'squash' with crop_pct 0.95"),
        ({"interpolation": "lanczos"}, "contract field interpolation: got 'lanczos'"),
        ({"mean": (0.5,)}, "contract field mean: got (0.5,)"),
        ({"input_size": (3, 5000, 5000)}, "contract field resize: got 5263"),
    ],
)
def test_a_config_that_no_contract_describes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError) as refused:
        contract_from_timm_config(TIMM | changes)
    assert message in str(refused.value)
    assert refused.value.next_step
    assert "\n" not in str(refused.value)
