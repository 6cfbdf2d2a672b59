"""A child process of a benchmark: it runs one function, and exchanges Python objects with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

CLOSING_S = 10.0  # for a child to end by itself


class ChildProcess:
    """Run a function in a process of its own, which should end when its connection is closed.

    Args:
        function: Called in the child with its end of the connection, as "module:function".
        environment: Variables added to this process's own.
    """

    def __init__(self, function: str, environment: Mapping[str, str] | None = None) -> None:
        module, _, name = function.partition(":")
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"from multiprocessing.connection import Connection\nfrom {module} import {name}\n"
            # -P: no module in the current folder replaces an installed one.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"{code}{name}(Connection({theirs.fileno()}))"],
                env={**os.environ, **(environment or {})},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # a process group with its children, which Ctrl-C does not reach
            )
        self.connection: Connection[Any, Any] = Connection(ours.detach())

    def close(self) -> None:
        """Close the connection, and kill the child with its children if it does not end before a deadline."""
        self.connection.close()
        try:
            self.process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # after the deadline, or a second Ctrl-C
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self._output.close()

    def ending(self) -> str:
        """Describe how the child ended, with its last line of output; waits for the end for some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSING_S)
        code = self.process.returncode
        ending = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        self._output.seek(0)
        lines = self._output.read()[-4096:].decode(errors="replace").strip().splitlines()
        return f"{ending}: {lines[-1].strip()}" if lines else ending
