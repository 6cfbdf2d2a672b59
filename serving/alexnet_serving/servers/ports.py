"""The ports that a server listens on: the requested ones if they are free, else free ones."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Mapping

from alexnet_model.errors import PortTaken, ServerError, UsageError, os_error_reason

# Below Linux's range for outgoing connections: one of these could otherwise take a chosen port in the seconds
# between choosing it and listening on it.
FREE_PORTS = range(18_000, 32_000)


def resolve_ports(addresses: Mapping[str, str], requested: Mapping[str, int | None]) -> dict[str, int]:
    """Return a port for each interface: the requested one if it is free, a free one for None and 0.

    Args:
        addresses: The IPv4 address to listen on, by interface.
        requested: The port, by interface.

    Raises:
        UsageError: a port is out of range, or two interfaces request the same one.
        PortTaken: another process listens on a requested port.
        ServerError: this user may not listen on it.
    """
    ports = {name: port for name, port in requested.items() if port}
    for name, port in ports.items():
        if not 1 <= port <= 65535:
            raise UsageError(f"{name} port", got=str(port), expected="1 to 65535")
        if list(ports.values()).count(port) > 1:
            raise UsageError(f"{name} port", got=f"{port}, as another port", expected="ports that differ")
        _check_free(addresses[name], name, port)
    for name in requested.keys() - ports.keys():
        ports[name] = _free_port(addresses[name], name, taken=set(ports.values()))
    return ports


def _check_free(address: str, name: str, port: int) -> None:
    error = _listen_error(address, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise PortTaken(
            f"{name} port {port}",
            got="another process that listens on it",
            expected="a free port",
            next_step="Stop that process or use another port; 0 picks a free one.",
        ) from error
    raise _cannot_listen(address, name, port, error) from error


def _free_port(address: str, name: str, taken: set[int]) -> int:
    for port in random.sample(FREE_PORTS, k=100):
        error = _listen_error(address, port)
        if error is None and port not in taken:
            return port
        if error is not None and error.errno == errno.EADDRNOTAVAIL:
            raise _cannot_listen(address, name, port, error) from error
    raise ServerError("ports", got="100 random ports that are taken", expected="a free one")


def _cannot_listen(address: str, name: str, port: int, error: OSError) -> ServerError:
    foreign = error.errno == errno.EADDRNOTAVAIL
    return ServerError(
        f"{name} port {port}" + (f" of {address}" if foreign else ""),
        got=os_error_reason(error),
        expected="a port to listen on",
        next_step="Use an address of this machine, such as 127.0.0.1 or 0.0.0.0." if foreign else "",
    )


def _listen_error(address: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that recently closed connections do not count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None
