"""Contracts that people choose: presets, a JSON file with some of the fields, and the data config of timm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .contract import Contract, values_from_json
from .errors import ContractError, os_errors_as
from .reading import bytes_of_file

PRESETS: Mapping[str, Contract] = {
    "imagenet": Contract(),  # torchvision's recipe
    "tf": Contract(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),  # pixels from -1 to 1, as in TensorFlow
    "none": Contract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),  # pixels from 0 to 1
}
MAX_FILE_BYTES = 64 * 1024


def contract_from_file(path: Path) -> Contract:
    """Read a contract that a person wrote: any of the fields of `Contract`, the others have the defaults.

    Args:
        path: a JSON file such as `{"size": 227, "resize": "stretch", "mean": [0.5, 0.5, 0.5]}`.

    Raises:
        ContractError: the file cannot be read, is not a JSON object, has an unknown field, or a field has a
            value that is not implemented.
    """
    expected = "a JSON file with fields of a contract"
    next_step = "Check the path."
    with os_errors_as(ContractError, path, expected=expected, next_step=next_step):
        content = bytes_of_file(path, max_bytes=MAX_FILE_BYTES)
    try:
        values = values_from_json(content.decode("utf-8", "replace"), next_step="Correct the file.")
        known = sorted(field.name for field in fields(Contract))
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ContractError(
                "contract",
                got=f"the field {unknown[0]!r}",
                expected=f"some of {', '.join(known)}",
                next_step="Correct or remove it.",
            )
        return Contract(**values)
    except ContractError as error:
        raise ContractError(
            f"{path}: {error.subject}", got=error.got, expected=error.expected, next_step=error.next_step
        ) from error


def contract_from_timm_config(config: Mapping[str, Any]) -> Contract:
    """Return the contract that prepares images as timm does for the evaluation of a model.

    Args:
        config: what `timm.data.resolve_model_data_config(model)` returns. Read are `input_size`,
            `interpolation`, `mean`, `std`, `crop_pct` and `crop_mode`; those that are missing have timm's
            defaults.

    Raises:
        ContractError: the model expects images that a contract does not describe: not square, not of three
            channels, of another filter or crop mode.
    """
    channels, height, width = _input_size(config.get("input_size", (3, 224, 224)))
    if channels != 3 or height != width:
        raise _of_timm("input_size", (channels, height, width), "3 channels and a square, (3, SIZE, SIZE)")
    crop_pct = config.get("crop_pct", 0.875)
    is_number = isinstance(crop_pct, int | float) and not isinstance(crop_pct, bool)
    if not is_number or not 0 < crop_pct <= 1:
        raise _of_timm("crop_pct", crop_pct, "a number above 0 and at most 1")
    crop_mode = config.get("crop_mode", "center")
    if crop_mode == "center":
        resize: Any = math.floor(height / crop_pct)
    elif crop_mode == "squash" and crop_pct == 1:
        resize = "stretch"
    else:
        raise _of_timm(
            "crop_mode", f"{crop_mode!r} with crop_pct {crop_pct:g}", "'center', or 'squash' with crop_pct 1"
        )
    defaults = Contract()
    return Contract(
        size=height,
        resize=resize,
        interpolation=config.get("interpolation", "bicubic"),
        mean=_tuple(config.get("mean", defaults.mean)),
        std=_tuple(config.get("std", defaults.std)),
    )


def _input_size(value: object) -> tuple[int, int, int]:
    sizes = _tuple(value)
    if not isinstance(sizes, tuple) or len(sizes) != 3 or not all(isinstance(size, int) for size in sizes):
        raise _of_timm("input_size", value, "(3, SIZE, SIZE)")
    return sizes


def _tuple(value: Any) -> Any:
    """Return a list as a tuple; `Contract` refuses what is neither."""
    return tuple(value) if isinstance(value, list) else value


def _of_timm(name: str, value: object, expected: str) -> ContractError:
    return ContractError(
        f"timm's data config: {name}",
        got=value if isinstance(value, str) else repr(value),
        expected=expected,
        next_step="Give the contract yourself, if another one fits the model.",
    )
