from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from alexnet_model import errors
from alexnet_model.errors import (
    AlexnetError,
    ImageError,
    InvalidUrl,
    MissingExtra,
    ReportError,
    UsageError,
)
from alexnet_model.extras import needs

CLASSES: dict[str, type[AlexnetError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, AlexnetError)
}


def documented_tree() -> dict[str, str | None]:
    """Return the parent of each class in the module's docstring."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}((?:│ {3}| {4})*)((?:├── |└── )?)([A-Z]\w+)(?: |$)", line)
        if match:
            depth = len(match[1]) // 4 + bool(match[2])
            above = [entry for entry in above if entry[0] < depth]
            parents[match[3]] = above[-1][1] if above else None
            above.append((depth, match[3]))
    return parents


def test_the_docstring_lists_exactly_the_classes_of_the_tree() -> None:
    actual = {name: kind.__bases__[0].__name__ for name, kind in CLASSES.items() if kind is not AlexnetError}
    assert documented_tree() == {"AlexnetError": None} | actual


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_an_error_can_be_pickled_and_copied(kind: type[AlexnetError]) -> None:
    error = kind("images", got="3", expected="4", next_step="Add one.")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == str(error) == "images: got 3, expected 4. Add one."
        assert vars(other) == vars(error)


def test_empty_parts_are_left_out_of_the_message() -> None:
    assert str(AlexnetError("server")) == "server"
    assert str(AlexnetError("server", got="no answer")) == "server: got no answer"
    assert str(AlexnetError("server", expected="an answer")) == "server: expected an answer"
    assert str(AlexnetError("server stopped", next_step="Start it.")) == "server stopped. Start it."


def test_exit_codes() -> None:
    usage = {kind for kind in CLASSES.values() if kind.exit_code == 2}
    assert usage == {UsageError, InvalidUrl, ReportError}
    assert {kind.exit_code for kind in CLASSES.values()} == {1, 2}


def test_a_missing_module_names_the_extra_to_install() -> None:
    with pytest.raises(MissingExtra) as missing, needs("train"):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert str(missing.value) == (
        "module no_such_module: got no such module, expected the [train] extra to be installed. "
        "Run: pip install 'alexnet-serving[train]'"
    )


def test_needs_leaves_other_errors_unchanged() -> None:
    with pytest.raises(ImageError), needs("train"):
        raise ImageError("image")
