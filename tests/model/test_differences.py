"""Differences between nested values."""

from __future__ import annotations

from typing import Any

import pytest

from alexnet_model.differences import MISSING, Difference, Key, differences


@pytest.mark.parametrize(
    ("got", "expected", "found"),
    [
        ({"a": 1, "b": [1, {"c": 2}]}, {"a": 1, "b": [1, {"c": 2}]}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": [1, 2]}, {"a": [1]}, [("a[1]", 2, MISSING)]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}, {"b": 3}]}, [("a[0].b", 1, 2), ("a[1]", MISSING, {"b": 3})]),
        ({"b": 1, "a": 1}, {"a": 2, "c": 3}, [("b", 1, MISSING), ("a", 1, 2), ("c", MISSING, 3)]),
        ({"a": {Key("9.0"): "x"}}, {"a": {Key("9.0"): "y"}}, [('a["9.0"]', "x", "y")]),
        ({"a": (1, 2)}, {"a": [1, 2]}, []),
        ({"a": None}, {}, [("a", None, MISSING)]),
        ({"a": "text"}, {"a": "test"}, [("a", "text", "test")]),
        ({"a": {}}, {"a": 1}, [("a", {}, 1)]),
        (1, 2, [("", 1, 2)]),
    ],
)
def test_every_value_that_differs(got: Any, expected: Any, found: list[tuple[str, Any, Any]]) -> None:
    assert list(differences(got, expected)) == [Difference(*values) for values in found]
