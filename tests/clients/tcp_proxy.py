"""TCP proxies on this machine: one delays what it forwards or stops, one refuses a request of gRPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self


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
    def running(self) -> Iterator[Self]:
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


# What a server sends that does not accept a request (RFC 9113, sections 6.4 and 6.8).
GOAWAY, REFUSED_STREAM = "GOAWAY", "REFUSED_STREAM"
_HEADERS_FRAME, _RST_STREAM_FRAME, _GOAWAY_FRAME = 1, 3, 7
_REFUSED, _CANCEL = 7, 8
_FRAME_HEAD_BYTES = 9
_PREFACE_BYTES = 24


class RefusingProxy(TcpProxy):
    """Forwards HTTP/2, but refuses the next request after `refuse_next`, as a server does that is closing."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._refusal = ""

    def refuse_next(self, refusal: str) -> None:
        """Do not forward the next request, and reply with GOAWAY or REFUSED_STREAM."""
        self._refusal = refusal

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.append(server_writer)
            replies = asyncio.create_task(self._forward(self.connections, server_reader, writer))
            await self._forward_requests(reader, server_writer, writer)
            await replies

    async def _forward_requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        server.write(await reader.readexactly(_PREFACE_BYTES))
        accepted = refused = 0
        while True:
            head = await reader.readexactly(_FRAME_HEAD_BYTES)
            length, kind, stream = int.from_bytes(head[:3]), head[3], int.from_bytes(head[5:9])
            body = await reader.readexactly(length)
            if kind == _HEADERS_FRAME and self._refusal:
                refusal, self._refusal, refused = self._refusal, "", stream
                if refusal == GOAWAY:
                    client.write(frame(_GOAWAY_FRAME, 0, accepted.to_bytes(4) + bytes(4)))
                else:
                    client.write(frame(_RST_STREAM_FRAME, stream, _REFUSED.to_bytes(4)))
                    # The server needs all headers, since later ones refer to them; the stream is cancelled.
                    server.write(head + body + frame(_RST_STREAM_FRAME, stream, _CANCEL.to_bytes(4)))
            elif stream == 0 or stream != refused:
                accepted = stream if kind == _HEADERS_FRAME else accepted
                server.write(head + body)


def frame(kind: int, stream: int, body: bytes) -> bytes:
    """Make a frame of HTTP/2 without flags (RFC 9113, section 4.1)."""
    return len(body).to_bytes(3) + bytes((kind, 0)) + stream.to_bytes(4) + body
