"""Images in shared memory, which a server on the same machine reads without a copy over the network.

    with SharedImages(client, capacity=32, model="alexnet_int8") as shared:
        shared.images[:2] = prepared  # uint8 (2, size, size, 3)
        probabilities = shared.probabilities(2)

The server must be started with `alexnet serve --shared-memory`. Whether it is faster depends on the batch and
the machine: docs/decisions/shared-memory.md has figures.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Self

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import BadRequest, ClientError, NotReady, UsageError

from .client import DEFAULT_MODEL, Client
from .sending import run_blocking
from .transports.transport import FloatArray, Region

_PREFIX = "alexnet_images_"
_NAME = re.compile(rf"{_PREFIX}(?P<pid>\d+)_[0-9a-f]+")
_RETRY_S = 0.005  # between two attempts to remove a registration
_SHM = Path("/dev/shm")  # noqa: S108 (where Linux keeps POSIX shared memory)


class SharedImages:
    """Shared memory for images, registered with the server inside `with` and removed after it.

    If this process is killed, Python's resource tracker (another process) removes the memory. What then is
    still registered, or outlives the tracker, is removed when the next `SharedImages` is entered.

    Attributes:
        images: the memory, uint8 `(capacity, size, size, 3)`, with the size of the model's contract.
        region: its name, key and size.
    """

    def __init__(self, client: Client, *, capacity: int, model: str = DEFAULT_MODEL) -> None:
        """Check the arguments; the memory is made by `with`.

        Args:
            client: a client of a server on this machine.
            capacity: how many images fit.
            model: the name on the server of the model that classifies them.

        Raises:
            UsageError: the capacity is less than 1, or the server is on another machine.
        """
        if capacity < 1:
            raise UsageError("capacity", got=f"{capacity}", expected="at least 1 image")
        if not client.url.is_loopback:
            raise UsageError(
                f"shared memory with {client.url}", got="another machine", expected="a server on this one"
            )
        self._client = client
        self._capacity = capacity
        self._model = model

    def __enter__(self) -> Self:
        """Create the memory and register it.

        Raises:
            BadRequest: the server does not allow shared memory.
            ClientError: no reply.
            UsageError: there is not enough memory.
        """
        self._client.connect()
        self._pid = os.getpid()
        remove_orphans(self._client)
        contract = self._client.model(self._model).contract
        name = f"{_PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
        size_bytes = self._capacity * contract.image_bytes
        self.region = Region(name=name, key=f"/{name}", size_bytes=size_bytes)
        self._file: int | None = None
        try:
            self._memory = SharedMemory(name, create=True, size=size_bytes)
        except OSError as error:
            raise self._not_enough_memory(error) from error
        try:
            self._reserve()
            self.images: Uint8Array = np.ndarray(
                (self._capacity, *contract.image_shape), np.uint8, self._memory.buf
            )
            self._register()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid != os.getpid():
            return  # in a forked child: the memory is the parent's
        try:
            with contextlib.suppress(ClientError):  # a stopped server has no registrations
                _unregister(self._client, self.region.name)
        finally:
            self._release()

    def probabilities(self, count: int) -> FloatArray:
        """Class probabilities, float32 `(count, classes)`, of the first images in `images`.

        Args:
            count: how many images, at most one batch.

        Raises:
            UsageError: `count` is not 1 to the capacity, or the model takes encoded images only.
            ClientError: the server, the model or the request failed.
        """
        name = self._client.model(self._model).contract.probabilities_name
        return self.infer(count, outputs=(name,))[name]

    def infer(self, count: int, *, outputs: tuple[str, ...] | None = None) -> dict[str, FloatArray]:
        """The model's raw outputs by name, float32 `(count, classes)`, for the first images in `images`.

        Args:
            count: how many images, at most one batch.
            outputs: names of the outputs to return. Default: probabilities and logits.

        Raises:
            UsageError: `count` is not 1 to the capacity, or the model takes encoded images only.
            ClientError: the server, the model or the request failed.
        """
        if not 1 <= count <= self._capacity:
            raise UsageError("count", got=f"{count}", expected=f"1 to {self._capacity} images")
        images = self.images[:count]
        try:
            return run_blocking(self._client._infer_in_region(self.region, images, self._model, outputs))
        except BadRequest:
            if self.region.name in {region.name for region in _regions(self._client)}:
                raise
            self._register()  # the server was restarted
            return run_blocking(self._client._infer_in_region(self.region, images, self._model, outputs))

    def _register(self) -> None:
        self._client.transport.register(self.region, timeout_s=self._client.timeout_s).result()

    def _release(self) -> None:
        self.images = np.empty((0, 0, 0, 3), np.uint8)  # an open view prevents closing
        with contextlib.suppress(BufferError):  # a caller kept a view: the memory is freed with the last one
            self._memory.close()
        try:
            self._memory.unlink()
        except FileNotFoundError:  # already removed: the tracker would warn about it at exit
            resource_tracker.unregister(self.region.key, "shared_memory")
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _reserve(self) -> None:
        """Lock the memory's file, so that it is not taken for an orphan, and allocate its pages."""
        self._file = os.open(_SHM / self.region.name, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            # Without it, a write may be killed by SIGBUS when memory runs out.
            os.posix_fallocate(self._file, 0, self.region.size_bytes)
        except OSError as error:
            raise self._not_enough_memory(error) from error

    def _not_enough_memory(self, cause: OSError) -> UsageError:
        return UsageError(
            f"capacity of {self._capacity} images",
            got=f"{cause.strerror} for {self.region.size_bytes / 2**20:.0f} MiB in {_SHM}",
            expected="enough shared memory",
            next_step="Use a smaller capacity, or enlarge /dev/shm (docker run --shm-size).",
        )


def remove_orphans(client: Client) -> tuple[str, ...]:
    """Remove the memory of processes that have ended, here and on the server.

    Args:
        client: a client of a server on this machine.

    Returns:
        The names of what was removed.

    Raises:
        ClientError: the server does not reply, or does not allow shared memory.
    """
    registered = {region.name for region in _regions(client)}
    here = {path.name for path in _SHM.glob(f"{_PREFIX}*")}
    orphans = []
    for name in sorted(registered | here):
        with _locked_orphan(name) as is_orphan:
            if not is_orphan:
                continue
            if name in registered:
                _unregister(client, name)
            with contextlib.suppress(PermissionError):  # another user's file
                (_SHM / name).unlink(missing_ok=True)
            orphans.append(name)
    return tuple(orphans)


def _unregister(client: Client, name: str) -> None:
    """Remove a registration. The server refuses that for a moment after it has replied to a request."""
    until_s = time.monotonic() + client.timeout_s
    while True:
        try:
            client.transport.unregister(name, timeout_s=client.timeout_s).result()
        except NotReady:
            if time.monotonic() > until_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _regions(client: Client) -> tuple[Region, ...]:
    return client.transport.regions(timeout_s=client.timeout_s).result()


@contextlib.contextmanager
def _locked_orphan(name: str) -> Iterator[bool]:
    """Whether memory is an orphan. Its file stays locked inside `with`; a live owner holds the lock itself.

    The process's ID alone does not prove it: in another container the ID means another process, or none.
    """
    if not _owner_has_ended(name):
        yield False
        return
    try:
        lock = os.open(_SHM / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # removed by the tracker, but still registered
        yield True
        return
    except PermissionError:  # another user's
        yield False
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)


def _owner_has_ended(name: str) -> bool:
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's live process
        return False
    return False
