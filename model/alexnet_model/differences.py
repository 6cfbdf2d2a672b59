"""Find where two nested values of mappings, sequences and scalars differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()


class Key(str):
    """A mapping's key that a path shows in brackets, such as `parameters["contract"]`."""


@dataclass(frozen=True)
class Difference:
    """One value that differs.

    Attributes:
        path: Where it is, such as `input[0].dims[1]`; empty if the two whole values differ.
        got: The first value; `MISSING` if it has none there.
        expected: The second value; `MISSING` if it has none there.
    """

    path: str
    got: Any
    expected: Any


def differences(got: object, expected: object, path: str = "") -> Iterator[Difference]:
    """Yield every value that differs, in the order of the first value's keys.

    Mappings are compared by key and sequences by index; everything else, including text, by `==`.

    Args:
        got: The first value.
        expected: The second value.
        path: The start of the paths.

    >>> list(differences({"size": [1, 2]}, {"size": [1, 3]}))
    [Difference(path='size[1]', got=2, expected=3)]
    """
    if isinstance(got, Mapping) and isinstance(expected, Mapping):
        for key in dict.fromkeys([*got, *expected]):
            yield from differences(got.get(key, MISSING), expected.get(key, MISSING), _joined(path, key))
    elif _is_list(got) and _is_list(expected):
        for index in range(max(len(got), len(expected))):  # type: ignore[arg-type]
            yield from differences(_item(got, index), _item(expected, index), f"{path}[{index}]")
    elif got != expected:
        yield Difference(path, got, expected)


def _joined(path: str, key: object) -> str:
    if isinstance(key, Key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else str(key)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _item(values: Any, index: int) -> Any:
    return values[index] if index < len(values) else MISSING
