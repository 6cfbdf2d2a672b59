"""Wait for an event instead of for a fixed time, which a busy machine exceeds and others waste."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, *, within_s: float = 60.0) -> None:
    """Return as soon as a condition holds.

    Args:
        condition: is called every 10 ms.
        what: what is waited for, for the error.
        within_s: when to give up, seconds. It bounds a test that fails, and is not what the test measures.

    Raises:
        AssertionError: the condition did not hold in time.
    """
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"not in {within_s:g} s: {what}"
        time.sleep(0.01)
