"""Options of `alexnet export` that say how images are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_cli.contract_options import contract_from_options
from alexnet_cli.main import run
from alexnet_model import Contract
from alexnet_model.errors import UsageError


def test_without_options_there_is_no_contract() -> None:
    assert contract_from_options() is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": 227}, Contract(size=227)),
        ({"image_size": 300, "resize": "342"}, Contract(size=300, resize=342)),
        ({"image_size": 300, "resize": "stretch"}, Contract(size=300, resize="stretch")),
        ({"resize": "none", "interpolation": "nearest"}, Contract(resize="none", interpolation="nearest")),
        (
            {"mean": "0, 0.5,1", "std": "1,1,0.1", "colour": "BGR", "background": "1,2,3"},
            Contract(mean=(0.0, 0.5, 1.0), std=(1.0, 1.0, 0.1), colour="BGR", background=(1, 2, 3)),
        ),
        ({"preset": "imagenet"}, Contract()),
        ({"preset": "tf", "image_size": 200}, Contract(size=200, mean=(0.5,) * 3, std=(0.5,) * 3)),
        ({"preset": "none", "std": "2,2,2"}, Contract(mean=(0.0,) * 3, std=(2.0,) * 3)),
    ],
)
def test_options_make_a_contract(options: dict[str, Any], expected: Contract) -> None:
    assert contract_from_options(**options) == expected


def test_options_replace_values_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "contract.json"
    file.write_text('{"size": 96, "colour": "BGR"}')
    assert contract_from_options(file=file) == Contract(size=96, colour="BGR")
    assert contract_from_options(file=file, image_size=100) == Contract(size=100, colour="BGR")
    with pytest.raises(UsageError, match="--contract and --preset: got both"):
        contract_from_options(file=file, preset="tf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "0"], "--image-size: got 0, expected 1 to 4096 whole pixels."),
        (["--image-size", "5000"], "--image-size: got 5000, expected 1 to 4096 whole pixels."),
        (
            ["--image-size", "300"],
            "--image-size: got 300, a crop larger than the resized image, expected at most 256",
        ),
        (
            ["--resize", "100"],
            "--image-size: got 224, a crop larger than the resized image, expected at most 100",
        ),
        (
            ["--resize", "squash"],
            "--resize: got 'squash', expected 1 to 4096 whole pixels, 'stretch' or 'none'.",
        ),
        (["--interpolation", "area"], "--interpolation: got 'area', expected 'bilinear' or"),
        (["--mean", "0.5,0.5"], "--mean: got '0.5,0.5', expected three numbers with commas, such as 0,0,0"),
        (["--mean", "123,117,104"], "--mean: got (123.0, 117.0, 104.0), expected 3 numbers from -10 to 10"),
        (["--std", "0.2,0,0.2"], "--std: got (0.2, 0.0, 0.2), expected 3 numbers from 0.0001 to 10"),
        (["--std", "one"], "--std: got 'one', expected three numbers"),
        (["--colour", "GREY"], "--colour: got 'GREY', expected 'RGB' or 'BGR'."),
        (
            ["--background", "0,0,256"],
            "--background: got (0, 0, 256), expected 3 whole numbers from 0 to 255",
        ),
        (["--background", "0.5,0,0"], "--background: got '0.5,0,0', expected three whole numbers"),
        (["--preset", "caffe"], "--preset: got 'caffe', expected one of imagenet, tf, none"),
        (["--contract", "none.json"], "none.json: got no such file or directory, expected a JSON file"),
    ],
)
def test_wrong_options_are_one_line_each(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "x.safetensors", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line
