"""A TCP proxy on this machine that delays what it forwards, or forwards nothing any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class TcpProxy:
    """Forwards connections to a port of this machine.

    Attributes:
        delay_s: how long each piece of data takes in each direction, seconds.
        connections: how many connections clients have made.
        port: where it listens.
    """

    def __init__(self, target_port: int, *, delay_s: float = 0.0) -> None:
        self._target_port = target_port
        self._stalled: set[int] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.delay_s = delay_s
        self.connections = 0
        self.port = 0

    def stall(self) -> None:
        """Forward nothing any more over the connections that are open now; later ones are not affected."""
        self._stalled |= set(range(self.connections + 1))

    def drop(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._abort)

    @contextmanager
    def running(self) -> Iterator[TcpProxy]:
        """Listen inside `with`."""
        self._loop = loop = asyncio.new_event_loop()
        listening = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = listening.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            listening.close()
            loop.run_until_complete(self._end())
            loop.close()

    async def _end(self) -> None:
        self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.append(writer)
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.append(server_writer)
            await asyncio.gather(
                self._forward(number, reader, server_writer), self._forward(number, server_reader, writer)
            )

    async def _forward(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            if number not in self._stalled:
                loop.call_later(self.delay_s, writer.write, data)
        if number not in self._stalled:
            loop.call_later(self.delay_s, writer.close)
