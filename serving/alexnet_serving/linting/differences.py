"""Where two protobuf messages differ, field by field, each named as one would write it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

SHOWN = 56  # characters of a long text
NOTHING = "nothing"


@dataclass(frozen=True)
class Difference:
    """`field` such as `input[0].dims[1]` or `parameters["contract"].string_value`."""

    field: str
    got: str
    expected: str


def differences(got: Message, expected: Message, at: str = "") -> Iterator[Difference]:
    """Compare every field that the messages' type has, whether it is set or not."""
    for field in got.DESCRIPTOR.fields:
        path = f"{at}.{field.name}" if at else field.name
        mine, theirs = getattr(got, field.name), getattr(expected, field.name)
        if isinstance(mine, Mapping):
            for key in sorted({*mine, *theirs}):
                there = (mine.get(key), theirs.get(key))
                yield from _of_values(field.message_type.fields_by_name["value"], *there, _keyed(path, key))
        elif isinstance(mine, Sequence) and not isinstance(mine, str | bytes):
            for index in range(max(len(mine), len(theirs))):
                there = (_at(mine, index), _at(theirs, index))
                yield from _of_values(field, *there, f"{path}[{index}]")
        elif field.has_presence:
            there = (
                mine if got.HasField(field.name) else None,
                theirs if expected.HasField(field.name) else None,
            )
            yield from _of_values(field, *there, path)
        else:
            yield from _of_values(field, mine, theirs, path)


def _of_values(field: FieldDescriptor, got: Any, expected: Any, path: str) -> Iterator[Difference]:
    """Of one value of a field; None where it is not set."""
    if isinstance(got, Message) and isinstance(expected, Message):
        yield from differences(got, expected, path)
    elif got != expected:
        yield Difference(path, *_shown(_text(field, got), _text(field, expected)))


def _text(field: FieldDescriptor, value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, Message):
        return f"{{{text_format.MessageToString(value, as_one_line=True).strip()}}}"
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return str(named.name if named else value)
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def _shown(got: str, expected: str) -> tuple[str, str]:
    """Long texts are cut to where they differ."""
    pairs = enumerate(zip(got, expected, strict=False))
    where = next((i for i, (a, b) in pairs if a != b), 0)
    return _cut(got, where), _cut(expected, where)


def _cut(text: str, around: int) -> str:
    if len(text) <= SHOWN:
        return text
    start = max(0, min(around - SHOWN // 2, len(text) - SHOWN))
    end = start + SHOWN
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _keyed(path: str, key: Any) -> str:
    return f"{path}[{json.dumps(key)}]"
