"""Several servers behind one transport: requests in turn, and to another server if one fails.

Each server has a transport of its own. So its contract and labels are checked separately, before its first
request and again after each new connection: a reply of a server with another contract is never accepted.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from alexnet_model.errors import (
    BadRequest,
    ClientError,
    ConnectionLost,
    ContractMismatch,
    ForeignServer,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
    Untrusted,
)

from ..credentials import ANONYMOUS, Credentials
from ..sending import MIN_ATTEMPT_S, Steps, copy_of, result_of, run_detached, wait_for
from ..url import Endpoints, ServerUrl
from .background import BackgroundLoop
from .error_rules import CLOSED, LATE, UNREACHABLE
from .transport import (
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    Transport,
    transport_from_url,
)

T = TypeVar("T")
# A server with an open request that has sent nothing for SILENT_S is probed for readiness. If it does not
# reply to the probe in PROBE_S, its requests move on. Both are at most a quarter of a request's timeout, so
# that half of it is left for another server.
SILENT_S = 1.0
PROBE_S = 2.0
WATCH_S = 0.25
# A failed server gets no requests for a random time up to a limit that doubles with each failure in a row.
FIRST_ASIDE_S = 0.2
LONGEST_ASIDE_S = 10.0
RESOLVE_S = 10.0  # how long the addresses of a name are used before they are looked up again
MIN_RESOLVE_S = 1.0  # after no server could be used

# A failure of one server, after which another one is tried. If all fail, the first one in this list is
# raised: a lost request, which must not be sent a third time, then those that the client tries again.
_MOVED_ON: tuple[type[ClientError], ...] = (
    ConnectionLost,
    Overloaded,
    NotReady,
    Unreachable,
    ContractMismatch,
    ModelNotFound,
    Untrusted,
    ForeignServer,
)


class _Server:
    """One server, and what is known about it."""

    def __init__(self, url: ServerUrl, transport: Transport) -> None:
        self.url = url
        self.transport = transport
        self.checked: dict[str, int] = {}  # each model with the count of connections when it was checked
        self.reading: dict[tuple[str, int], Future[None]] = {}  # by model and count of connections
        self.open: dict[Future[Any], tuple[float, float]] = {}  # each request with its start and its timeout
        self.replied_at = 0.0
        self.failures = 0  # in a row
        self.back_at: float | None = None  # when a failed server is probed; None: it is used
        self.is_probed = False
        self.is_gone = False  # its address is no longer one of the name's


class BalancedTransport:
    """A transport to several servers.

    Args:
        endpoints: the servers, or the name whose addresses are the servers.
        credentials: TLS files and headers.
        check: raises `ContractMismatch` for the configuration of a model that images of this client's do
            not fit. It is also given the server's URL, for the error.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        credentials: Credentials = ANONYMOUS,
        *,
        check: Callable[[ModelConfig, str], None],
    ) -> None:
        self._endpoints = endpoints
        self._credentials = credentials
        self._check = check
        self._lock = threading.RLock()
        self._loop = BackgroundLoop()  # watches for silent servers, and looks up names
        self._turn = 0
        self._closed = self._is_watching = False
        self._servers: tuple[_Server, ...] = ()
        self._gone: set[_Server] = set()  # until their requests have ended
        self._had: set[str] = set()  # models that were there
        self._resolved_at = 0.0
        self._resolving: Future[None] | None = None
        # Serialises requests before a name is resolved. All transports of a scheme write the same bytes.
        self._first = transport_from_url(endpoints.servers[0], credentials)
        if not endpoints.by_dns:
            rest = [transport_from_url(url, credentials) for url in endpoints.servers[1:]]
            transports = zip(endpoints.servers, [self._first, *rest], strict=True)
            self._servers = tuple(_Server(url, transport) for url, transport in transports)

    @property
    def connections(self) -> int:
        """Always 0: this transport checks each server's models by itself."""
        return 0

    def ready(self, *, timeout_s: float) -> Future[bool]:
        """Whether one of the servers is ready."""

        async def ready(server: _Server, left_s: float) -> bool:
            if not await self._reply(server, server.transport.ready(timeout_s=left_s), left_s):
                raise NotReady(str(server.url), got="a server that is not ready", expected="a ready one")
            return True

        return run_detached(self._first_success(ready, timeout_s))

    def model_names(self, *, timeout_s: float) -> Future[tuple[str, ...]]:
        """The names of the models of the first server in turn that replies."""

        async def names(server: _Server, left_s: float) -> tuple[str, ...]:
            return await self._reply(server, server.transport.model_names(timeout_s=left_s), left_s)

        return run_detached(self._first_success(names, timeout_s))

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        """The configuration of a model of the first server in turn whose model fits this client."""

        async def config(server: _Server, left_s: float) -> ModelConfig:
            connections = server.transport.connections
            reply = server.transport.model_config(model, timeout_s=left_s)
            found = await self._reply(server, reply, left_s)
            self._check(found, str(server.url))
            server.checked[model] = connections
            self._had.add(model)
            return found

        return run_detached(self._first_success(config, timeout_s, model))

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        """The sum over all servers; fails if one of them does not reply."""
        return run_detached(self._statistics(model, timeout_s))

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        return self._no_shared_memory()

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        return self._no_shared_memory()

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        return self._no_shared_memory()

    def prepare(self, request: InferRequest) -> Message:
        return self._first.prepare(request)

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        model = message.request.model

        async def infer(server: _Server, left_s: float) -> InferReply:
            await self._check_model(server, model, left_s)
            reply = await self._reply(server, server.transport.submit(message, timeout_s=left_s), left_s)
            # Another server may have taken the address meanwhile. A late reply has time left for this too.
            await self._check_model(server, model, timeout_s)
            return reply

        return run_detached(self._first_success(infer, timeout_s, model))

    def close(self) -> None:
        self._closed = True
        self._loop.close()
        for server in (*self._servers, *self._gone):
            server.transport.close()
        self._first.close()

    async def _first_success(
        self, attempt: Callable[[_Server, float], Steps[T]], timeout_s: float, model: str = ""
    ) -> T:
        """The result of the first server in turn that has one; at most one attempt on each server.

        After a lost connection, only one more server gets the request: it may be what crashed the first one.
        """
        deadline = time.monotonic() + timeout_s
        failed: list[ClientError] = []
        for server in await self._in_turn(timeout_s):
            left_s = deadline - time.monotonic()
            if left_s < MIN_ATTEMPT_S:
                break
            if server.is_gone:
                continue
            try:
                result = await attempt(server, left_s)
            except _MOVED_ON as error:
                if isinstance(error, ModelNotFound) and model in self._had:  # the server is draining
                    error = NotReady(error.subject, got=error.got, expected="the model that was there before")
                failed.append(error)
                if not isinstance(error, Overloaded | ModelNotFound):
                    self._set_aside(server)
                if sum(isinstance(error, ConnectionLost) for error in failed) > 1:
                    raise
            else:
                server.failures, server.back_at = 0, None
                return result
        if not failed:
            raise LATE.error(str(self._endpoints), f"no reply in {timeout_s:g} s")
        if self._endpoints.by_dns:
            self._resolve_if_older_than(MIN_RESOLVE_S)
        raise self._one_of(failed)

    def _one_of(self, failed: list[ClientError]) -> ClientError:
        """One error for all servers that were tried."""
        if len(failed) == 1:
            return failed[0]
        first = next(error for kind in _MOVED_ON for error in failed if isinstance(error, kind))
        each = "; ".join(f"{error.subject}: {error.got}" for error in failed)
        return type(first)(str(self._endpoints), got=each, expected=first.expected, next_step=first.next_step)

    async def _check_model(self, server: _Server, model: str, timeout_s: float) -> None:
        """Check the model of a server, unless that was done over its present connection."""
        connections = server.transport.connections
        if server.checked.get(model) == connections:
            return
        key = (model, connections)
        with self._lock:
            reading = server.reading.get(key)
            if is_first := reading is None:
                reading = server.reading[key] = run_detached(self._read_model(server, model, timeout_s))
        if is_first:
            reading.add_done_callback(lambda _: server.reading.pop(key, None))
        await result_of(copy_of(reading))  # a copy: others wait for it too

    async def _read_model(self, server: _Server, model: str, timeout_s: float) -> None:
        connections = server.transport.connections
        reply = server.transport.model_config(model, timeout_s=timeout_s)
        self._check(await self._reply(server, reply, timeout_s), str(server.url))
        server.checked[model] = connections

    async def _reply(self, server: _Server, reply: Future[T], timeout_s: float) -> T:
        """Wait for the reply of a server, which `_finish_probe` cancels if the server is silent."""
        with self._lock:
            server.open[reply] = (time.monotonic(), timeout_s)
            starts_watching = not self._is_watching
            self._is_watching = True
        if starts_watching:
            self._watch_later()
        try:
            await wait_for(reply)
        finally:
            with self._lock:
                del server.open[reply]
        if reply.cancelled():
            raise NotReady(
                str(server.url),
                got="no reply to a request, and none to a check of its readiness",
                expected="a server that replies",
                next_step="Check whether it hangs.",
            )
        result = reply.result()
        server.replied_at = time.monotonic()
        return result

    async def _in_turn(self, timeout_s: float) -> tuple[_Server, ...]:
        """All servers: those in use, each call from the next one on; then those that failed."""
        if self._endpoints.by_dns:
            resolving = self._resolve_if_older_than(RESOLVE_S)
            if not self._servers and resolving is not None:
                await self._resolved(resolving, timeout_s)
        now = time.monotonic()
        with self._lock:
            servers = self._servers
            self._turn += 1
            turn = self._turn
            due = [server for server in servers if server.back_at is not None and now > server.back_at]
        for server in due:
            self._probe(server, PROBE_S)
        used = tuple(server for server in servers if server.back_at is None)
        start = turn % len(used) if used else 0
        failed = sorted((s for s in servers if s.back_at is not None), key=lambda s: s.back_at or 0.0)
        return (*used[start:], *used[:start], *failed)

    def _set_aside(self, server: _Server) -> None:
        with self._lock:
            if server.back_at is None or time.monotonic() > server.back_at:
                limit_s = min(LONGEST_ASIDE_S, FIRST_ASIDE_S * 2.0 ** min(server.failures, 16))
                server.failures += 1
                server.back_at = time.monotonic() + random.uniform(limit_s / 2, limit_s)  # noqa: S311

    def _probe(self, server: _Server, timeout_s: float) -> None:
        """Check whether a server is ready, unless that is being done."""
        with self._lock:
            if server.is_probed or self._closed:
                return
            server.is_probed = True
        server.transport.ready(timeout_s=timeout_s).add_done_callback(partial(self._finish_probe, server))

    def _finish_probe(self, server: _Server, probe: Future[bool]) -> None:
        """Use a ready server again. Move the requests of one that does not reply to the others."""
        server.is_probed = False
        if self._closed or probe.cancelled():
            return
        if probe.exception() is None:
            server.replied_at = time.monotonic()
            if probe.result():
                server.back_at = None
            else:
                self._set_aside(server)
            return
        self._set_aside(server)
        with self._lock:
            has_others = any(other.back_at is None for other in self._servers)
            silent = list(server.open) if has_others else []
        for reply in silent:
            reply.cancel()

    def _watch_later(self) -> None:
        try:
            self._loop.call_later(WATCH_S, self._watch)
        except RuntimeError:  # closed
            self._is_watching = False

    def _watch(self) -> None:
        """Probe servers that have open requests and have been silent."""
        now = time.monotonic()
        silent: list[tuple[_Server, float]] = []
        with self._lock:
            watched = [server for server in (*self._servers, *self._gone) if server.open]
            if not watched:
                self._is_watching = False
                return
            for server in watched:
                for started, timeout_s in server.open.values():
                    if now - max(started, server.replied_at) > min(SILENT_S, timeout_s / 4):
                        silent.append((server, min(PROBE_S, timeout_s / 4)))
                        break
        for server, probe_s in silent:
            self._probe(server, probe_s)
        self._watch_later()

    async def _statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        await self._in_turn(timeout_s)
        futures = [s.transport.statistics(model, timeout_s=timeout_s) for s in self._servers]
        return _sum_of([await result_of(future) for future in futures])

    def _no_shared_memory(self) -> Future[Any]:
        failed: Future[Any] = Future()
        failed.set_exception(
            BadRequest(
                f"shared memory with {self._endpoints}",
                got="several servers",
                expected="one",
                next_step="Create a client for each server.",
            )
        )
        return failed

    def _resolve_if_older_than(self, age_s: float) -> Future[None] | None:
        """Look the name up again in the background, unless that was done or is being done."""
        with self._lock:
            if self._resolving is None and (
                not self._servers or time.monotonic() - self._resolved_at > age_s
            ):
                try:
                    self._resolving = self._loop.run(self._resolve())
                except RuntimeError as error:
                    subject = str(self._endpoints)
                    raise CLOSED.error(subject, "a client that is closed") from error
                self._resolving.add_done_callback(lambda _: setattr(self, "_resolving", None))
            return self._resolving

    async def _resolved(self, resolving: Future[None], timeout_s: float) -> None:
        """Wait for the first lookup of the name, which may take longer than a request has time."""
        waiting = copy_of(resolving)
        with suppress(RuntimeError):  # closed: the lookup is cancelled then
            self._loop.call_later(timeout_s, waiting.cancel)
        await wait_for(waiting)
        if self._closed:
            raise CLOSED.error(str(self._endpoints), "a client that is closed")
        if waiting.cancelled():
            raise LATE.error(str(self._endpoints), f"no address in {timeout_s:g} s")
        waiting.result()

    async def _resolve(self) -> None:
        """Add servers for new addresses; close those that are gone, once their requests have ended."""
        import asyncio
        import socket

        named = self._endpoints.servers[0]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                named.host, named.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            if self._servers:  # a fault of the name service is no reason to give up servers that work
                return
            raise UNREACHABLE.error(str(self._endpoints), f"no address: {error.strerror or error}") from error
        finally:
            self._resolved_at = time.monotonic()
        hosts = dict.fromkeys(str(address[0]) for *_, address in found)
        known = {server.url.host: server for server in self._servers}
        opened = {
            host: _Server(url, transport_from_url(url, self._credentials))
            for host in hosts
            if host not in known and (url := ServerUrl(named.scheme, host, named.port))
        }
        with self._lock:
            self._servers = tuple(known.get(host) or opened[host] for host in hosts)
        for host in known.keys() - hosts.keys():
            self._gone.add(known[host])
            self._loop.run(self._close_when_idle(known[host]))

    async def _close_when_idle(self, server: _Server) -> None:
        import asyncio

        server.is_gone = True
        while True:
            await asyncio.sleep(WATCH_S)  # first: a request may be about to start
            if not server.open:
                break
        await asyncio.to_thread(server.transport.close)
        self._gone.discard(server)


def _sum_of(statistics: list[ModelStatistics]) -> ModelStatistics:
    sizes = {size for one in statistics for size in one.executions_by_batch}
    return ModelStatistics(
        requests=sum(one.requests for one in statistics),
        images=sum(one.images for one in statistics),
        executions=sum(one.executions for one in statistics),
        queue_ns=sum(one.queue_ns for one in statistics),
        compute_input_ns=sum(one.compute_input_ns for one in statistics),
        compute_infer_ns=sum(one.compute_infer_ns for one in statistics),
        compute_output_ns=sum(one.compute_output_ns for one in statistics),
        failed=sum(one.failed for one in statistics),
        executions_by_batch={
            size: sum(one.executions_by_batch.get(size, 0) for one in statistics) for size in sorted(sizes)
        },
    )
