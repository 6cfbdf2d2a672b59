"""The table of runtimes: built-in entries, entries of other distributions, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest

from alexnet_model import runtimes as table
from alexnet_model.errors import RuntimeNotUsable, UsageError
from alexnet_model.runtimes import BUILT_IN, ENTRY_POINT_GROUP, Runtime, runtime_named, runtime_of_backend

OTHER = Runtime(name="other", title="Other", source="onnx", devices=("cpu",), runner="json:loads")
Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Replace what entry points register: each argument is a value such as `package.module:ATTRIBUTE`."""

    def registered(*values: str) -> None:
        points = tuple(EntryPoint(f"p{n}", value, ENTRY_POINT_GROUP) for n, value in enumerate(values))
        monkeypatch.setattr(table, "entry_points", lambda group: points)
        table._table.cache_clear()

    monkeypatch.setattr("json.OTHER_RUNTIME", OTHER, raising=False)
    monkeypatch.setattr("json.TAKES_A_NAME", BUILT_IN[0], raising=False)
    yield registered
    table._table.cache_clear()


def test_a_runtime_of_another_distribution_is_in_the_table(register: Register) -> None:
    register("json:OTHER_RUNTIME")
    assert runtime_named("other") is OTHER
    assert [runtime.name for runtime in table.runtimes()] == [*(r.name for r in BUILT_IN), "other"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("json:NO_SUCH_NAME", "AttributeError"),
        ("no_such_module:RUNTIME", "ModuleNotFoundError"),
        ("json:loads", "function"),
        ("json:TAKES_A_NAME", "a name of its own"),
    ],
)
def test_a_broken_entry_point_is_one_clear_error(value: str, words: str, register: Register) -> None:
    register(value)
    with pytest.raises(RuntimeNotUsable, match=words):
        table.runtimes()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="got 'onnx', expected one of openvino, onnxruntime"):
        runtime_named("onnx")


def test_a_backend_names_its_runtime() -> None:
    runtime = runtime_of_backend("openvino_dynamic")
    assert runtime is not None
    assert runtime.name == "openvino"
    assert runtime_of_backend("pytorch") is None


def test_an_engine_needs_a_builder_and_nothing_else_has_one() -> None:
    with pytest.raises(ValueError, match="builder"):
        Runtime(name="x", title="X", source="engine", devices=("gpu",), runner="a:b")
    with pytest.raises(ValueError, match="builder"):
        Runtime(name="x", title="X", source="onnx", devices=("gpu",), runner="a:b", builder="a:c")


def test_the_backend_folders_of_built_in_runtimes_hold_a_model() -> None:
    folders = [runtime.backend_folder for runtime in BUILT_IN if runtime.backend_package]
    assert folders
    assert all(folder is not None and (folder / "model.py").is_file() for folder in folders)
