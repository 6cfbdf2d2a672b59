"""Optional dependencies: if one is not installed, the error names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtra


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guard imports: a module that is missing in the block raises a `MissingExtra`.

    Args:
        extra: the extra of `alexnet-serving` that installs the modules.

    >>> with needs("export"):
    ...     import json

    Raises:
        MissingExtra: a module imported in the block is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"module {error.name}",
            got="no such module",
            expected=f"the [{extra}] extra to be installed",
            next_step=f"Run: pip install 'alexnet-serving[{extra}]'",
        ) from error
