"""Find and call the function or class that makes a network: `package.module:factory` of any Python package.

A factory is code. It is imported only if its name comes from the user, never because a file names it
(`checkpoint.load_checkpoint`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from .errors import UsageError, foreign_error_reason
from .extras import needs

with needs("export"):
    from torch import nn
    from torch.nn.parameter import is_lazy

Option: TypeAlias = bool | int | float | str
Factory: TypeAlias = Callable[..., nn.Module]
CLASSES_ARGUMENTS = ("num_classes", "classes")


def factory_from(name: str) -> Factory:
    """Import a factory, from the installed packages or from the current folder.

    Args:
        name: `package.module:factory`. `timm:NAME` is also any model of `timm.create_model`.

    Raises:
        UsageError: there is no such module or factory, or importing the module raises an error.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise _wrong(name, "such a name", "package.module:factory")
    module = _imported(name, module_name)
    factory: Any = module
    for part in attribute.split("."):
        factory = getattr(factory, part, None)
    if factory is None and module_name == "timm":
        return functools.partial(module.create_model, attribute)
    if factory is None:
        names = [known for known in dir(module) if not known.startswith("_")]
        close = difflib.get_close_matches(attribute, names, n=1)
        raise _wrong(
            name,
            f"no {attribute!r} in {module_name}",
            "the name of a function or class that returns a network",
            f"Did you mean {module_name}:{close[0]}?" if close else "",
        )
    if isinstance(factory, nn.Module) or not callable(factory):
        raise _wrong(
            name, f"an object of type {type(factory).__name__}", "a function or class that makes a network"
        )
    found: Factory = factory
    return found


def network_from(name: str, factory: Factory, classes: int, options: Mapping[str, Option]) -> nn.Module:
    """Call a factory.

    The number of classes is passed as `num_classes`, or as `classes`, where the factory has such an argument,
    and as `num_classes` where it takes any keyword. Otherwise the factory decides on it.

    Args:
        name: the factory's name, for messages.
        factory: what makes the network.
        classes: the number of outputs.
        options: its other arguments.

    Raises:
        UsageError: the factory needs or has other arguments, raises an error, does not return a network, or
            the network has lazy layers.
    """
    arguments: dict[str, Any] = dict(options)
    parameters = _parameters(factory)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    by = next((argument for argument in CLASSES_ARGUMENTS if argument in named), None)
    if by or takes_any:
        arguments.setdefault(by or CLASSES_ARGUMENTS[0], classes)
    unknown = [] if takes_any else sorted(arguments.keys() - named.keys())
    if unknown:
        others = ", ".join(argument for argument in named if argument not in CLASSES_ARGUMENTS)
        raise _wrong(name, f"the option {unknown[0]!r}", f"one of its arguments: {others or 'it has none'}")
    missing = [p.name for p in parameters if _is_required(p) and p.name not in arguments]
    if missing:
        raise _wrong(
            name,
            f"no value for its argument {missing[0]!r}",
            "every argument without a default",
            f"Add --arch-option {missing[0]}=VALUE.",
        )
    try:
        with _current_folder_importable():
            network = factory(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
        raise _wrong(
            name, foreign_error_reason(error), f"a network from {name.partition(':')[2] or name}({given})"
        ) from error
    if not isinstance(network, nn.Module):
        raise _wrong(name, f"an object of type {type(network).__name__}", "a torch.nn.Module")
    if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        raise _wrong(
            name,
            "lazy layers, whose shapes are not known",
            "a network whose weights have shapes",
            "Run one image through the network in the factory, before it is returned.",
        )
    return network


def has_argument(factory: Factory, argument: str) -> bool:
    """Return whether a factory names this argument; `**kwargs` is not enough."""
    return any(parameter.name == argument for parameter in _parameters(factory))


def _imported(name: str, module_name: str) -> Any:
    try:
        with _current_folder_importable():
            importlib.invalidate_caches()  # the module may have been written a moment ago
            return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name
        if absent and (module_name == absent or module_name.startswith(f"{absent}.")):
            raise _wrong(
                name,
                f"no module {absent}",
                "a module of an installed package, or in the current folder",
                f"Install the package, or change to the folder that holds {absent.partition('.')[0]}.py.",
            ) from error
        raise _wrong(name, foreign_error_reason(error), f"to import {module_name}") from error


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Import from the current folder first, as `python -m` does."""
    folder = str(Path.cwd())
    if "" in sys.path or folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _parameters(factory: Factory) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # a few callables in C have no signature
        return (inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD),)


def _is_required(parameter: inspect.Parameter) -> bool:
    optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not optional


def _wrong(name: str, got: str, expected: str, next_step: str = "") -> UsageError:
    return UsageError(f"architecture {name}", got=got, expected=expected, next_step=next_step)
