"""Ports on loopback: checked before anything starts, chosen where none is given."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Mapping

from alexnet_model.errors import PortTaken, ServerError, UsageError, os_error_reason

# Below Linux's range for outgoing connections, one of which could otherwise take a chosen port in the
# seconds between choosing and listening.
CHOICES = range(18_000, 32_000)


def ports_from_wishes(addresses: Mapping[str, str], wishes: dict[str, int | None]) -> dict[str, int]:
    """A port a name, on the address of that name: the one wished for, or a free one for None and 0.

    Raises:
        UsageError: a port is no port, or two names want the same.
        PortTaken: something listens on it already.
        ServerError: this user may not listen on it.
    """
    given = {name: port for name, port in wishes.items() if port}
    for name, port in given.items():
        if not 1 <= port <= 65535:
            raise UsageError(f"{name} port", got=str(port), expected="1 to 65535")
        if list(given.values()).count(port) > 1:
            raise UsageError(f"{name} port", got=f"{port}, as another port", expected="ports that differ")
        _check_free(addresses[name], name, port)
    ports = dict(given)
    for name in wishes.keys() - given.keys():
        ports[name] = _free_port(addresses[name], name, taken=set(ports.values()))
    return ports


def _check_free(address: str, name: str, port: int) -> None:
    error = _error_of_listening(address, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise PortTaken(
            f"{name} port {port}",
            got="something listening on it already",
            expected="a free port",
            next_step="Stop that or name another port; 0 takes a free one.",
        ) from error
    raise _cannot_listen(address, name, port, error) from error


def _free_port(address: str, name: str, taken: set[int]) -> int:
    for port in random.sample(CHOICES, k=100):
        error = _error_of_listening(address, port)
        if error is None and port not in taken:
            return port
        if error is not None and error.errno == errno.EADDRNOTAVAIL:
            raise _cannot_listen(address, name, port, error) from error
    raise ServerError("ports", got="100 in a row that are taken", expected="a free one")


def _cannot_listen(address: str, name: str, port: int, error: OSError) -> ServerError:
    elsewhere = error.errno == errno.EADDRNOTAVAIL
    return ServerError(
        f"{name} port {port}" + (f" of {address}" if elsewhere else ""),
        got=os_error_reason(error),
        expected="a port to listen on",
        next_step="Name an address of this machine, such as 127.0.0.1 or 0.0.0.0." if elsewhere else "",
    )


def _error_of_listening(address: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections lately closed are not taken for a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None
