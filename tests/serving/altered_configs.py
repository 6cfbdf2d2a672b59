"""Copies of a configuration, each with another value altered, and the name of that value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig


def alterations(config: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """Yield a copy with one value altered, for each value, and the value's name."""
    for path in leaves(config):
        altered = copy_of(config)
        owner: Any = altered
        for step in path[:-1]:
            owner = owner[step] if isinstance(step, int | _Key) else getattr(owner, step)
        last = path[-1]
        value = owner[last] if isinstance(last, int | _Key) else getattr(owner, last)
        if isinstance(value, bool):
            other: Any = not value
        else:
            other = value + "x" if isinstance(value, str) else value + 1
        if isinstance(last, int | _Key):
            owner[last] = other
        else:
            setattr(owner, last, other)
        yield name_of(path), altered


def additions(
    message: Any, path: tuple[Any, ...] = (), root: Any = None
) -> Iterator[tuple[str, ModelConfig]]:
    """Yield a copy with one unset field set, for each field."""
    root = message if root is None else root
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            continue
        if hasattr(value, "append") or hasattr(value, "add"):
            for index, entry in enumerate(value if field.message_type else ()):
                yield from additions(entry, (*path, field.name, index), root)
            if value:
                continue
        elif field.message_type and message.HasField(field.name):
            yield from additions(value, (*path, field.name), root)
            continue
        elif not field.message_type and value:
            continue
        altered = copy_of(root)
        owner: Any = altered
        for step in path:
            owner = owner[step] if isinstance(step, int) else getattr(owner, step)
        if field.containing_oneof and owner.WhichOneof(field.containing_oneof.name):
            continue  # it would replace the other field
        if hasattr(value, "add"):
            getattr(owner, field.name).add()
        elif hasattr(value, "append"):
            getattr(owner, field.name).append(b"x" if field.type == field.TYPE_BYTES else _other(field))
        elif field.message_type:
            getattr(owner, field.name).SetInParent()
        else:
            setattr(owner, field.name, _other(field))
        yield name_of((*path, field.name)), altered


def _other(field: Any) -> Any:
    return {field.CPPTYPE_STRING: "x", field.CPPTYPE_BOOL: True}.get(field.cpp_type, 1)


def copy_of(config: ModelConfig) -> ModelConfig:
    copy = ModelConfig()
    copy.CopyFrom(config)
    return copy


class _Key(str):
    """A map's key in a path."""


def leaves(message: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value that is set."""
    for field, value in message.ListFields():
        here = (*path, field.name)
        if isinstance(value, Mapping):
            entries: Any = [((*here, _Key(key)), value[key]) for key in value]
        elif hasattr(value, "append") or hasattr(value, "add"):
            entries = [((*here, index), entry) for index, entry in enumerate(value)]
        else:
            entries = [(here, value)]
        for at, entry in entries:
            if hasattr(entry, "ListFields"):
                yield from leaves(entry, at)
            else:
                yield at


def name_of(path: tuple[Any, ...]) -> str:
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        elif isinstance(step, _Key):
            name += f'["{step}"]'
        else:
            name += f".{step}" if name else step
    return name
