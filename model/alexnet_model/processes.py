"""Use of an object only in the process that made it.

A forked child has copies of its parent's objects, but none of its parent's threads. A client would wait for a
thread that does not exist, and closing a server would stop that of the parent. So an object with threads,
connections or processes remembers `os.getpid()`: `check_same_process` refuses its use in a child, and its
`close` and `__exit__` return at once where `os.getpid()` differs.
"""

from __future__ import annotations

import os

from .errors import AlexnetError


def check_same_process(what: str, made_in_pid: int, *, kind: type[AlexnetError]) -> None:
    """Check that this process is the one that made an object.

    Args:
        what: the object, for the message, such as `client grpc://127.0.0.1:8001`.
        made_in_pid: `os.getpid()` when the object was made.
        kind: the class of the error.

    Raises:
        AlexnetError: of the class `kind`: this process was forked after the object was made.
    """
    if made_in_pid != os.getpid():
        raise kind(
            what,
            got=f"a use in process {os.getpid()}",
            expected=f"one in process {made_in_pid}, which made it before this process was forked from it",
            next_step="Make one in each process.",
        )
