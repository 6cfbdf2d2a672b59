"""Images in memory that a server on the same machine reads: no copy travels.

    with SharedImages(client, capacity=32) as shared:
        shared.images[:2] = prepared  # uint8 (2, 224, 224, 3)
        probabilities = shared.probabilities(2)

The server must have been started with `alexnet serve --shared-memory`. Whether it is faster depends on the
batch and the machine: docs/decisions/shared-memory.md has figures.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Self

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import BadRequest, ClientError, UsageError

from .client import Client
from .core import DEFAULT_MODEL
from .steps import blocking
from .transports.transport import FloatArray, Region

_PREFIX = "alexnet_images_"
_OURS = re.compile(rf"{_PREFIX}(?P<pid>\d+)_[0-9a-f]+")
_SHM = Path("/dev/shm")  # noqa: S108 (where Linux keeps POSIX shared memory)


class SharedImages:
    """Room for `capacity` images, in a `with`; gone from this machine and the server after it.

    Python's resource tracker, a process of its own, removes the memory even where this process is killed.
    What the server still knows of it then, and what outlives the tracker, is removed by the next to enter.
    """

    def __init__(self, client: Client, *, capacity: int) -> None:
        """Raises:
        UsageError: the capacity is less than 1, or the server is on another machine.
        """
        if capacity < 1:
            raise UsageError("capacity", got=f"{capacity}", expected="at least 1 image")
        if not client.url.is_loopback:
            raise UsageError(
                f"shared memory with {client.url}", got="another machine", expected="a server on this one"
            )
        self._client = client
        self._core = client._core
        self._capacity = capacity

    def __enter__(self) -> Self:
        """Make the memory and tell the server.

        Raises:
            BadRequest: the server was not started for shared memory.
            ClientError: no answer.
            UsageError: there is no room for it.
        """
        self._client.connect()
        remove_orphans(self._client)
        contract = self._client.contract
        name = f"{_PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
        size_bytes = self._capacity * contract.image_bytes
        self.region = Region(name=name, key=f"/{name}", size_bytes=size_bytes)
        self._file: int | None = None
        try:
            self._memory = SharedMemory(name, create=True, size=size_bytes)
        except OSError as error:
            raise self._no_room(error) from error
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
        timeout_s = self._core.timeout_s
        try:
            with contextlib.suppress(ClientError):  # a server that is gone has forgotten it
                self._client.transport.unregister(self.region.name, timeout_s=timeout_s).result()
        finally:
            self._release()

    def probabilities(self, count: int, *, model: str = DEFAULT_MODEL) -> FloatArray:
        """Class probabilities, float32 `(count, classes)`, of the first images in `images`.

        Raises:
            UsageError: there are not so many.
            ClientError: the server, the model or the request failed.
        """
        name = self._client.contract.probabilities_name
        return self.infer(count, model=model, outputs=(name,))[name]

    def infer(
        self,
        count: int,
        *,
        model: str = DEFAULT_MODEL,
        outputs: tuple[str, ...] = ("probabilities", "logits"),
    ) -> dict[str, FloatArray]:
        """The model's raw outputs for the first images in `images`, at most a batch.

        Raises:
            UsageError: there are not so many.
            ClientError: the server, the model or the request failed.
        """
        if not 1 <= count <= self._capacity:
            raise UsageError("count", got=f"{count}", expected=f"1 to {self._capacity} images")
        try:
            return blocking(self._core.infer_in_region(self.region, self.images[:count], model, outputs))
        except BadRequest:
            if self.region.name in {region.name for region in _regions(self._client)}:
                raise
            self._register()  # a server that was started again knows nothing of it
            return blocking(self._core.infer_in_region(self.region, self.images[:count], model, outputs))

    def _register(self) -> None:
        timeout_s = self._core.timeout_s
        self._client.transport.register(self.region, timeout_s=timeout_s).result()

    def _release(self) -> None:
        self.images = np.empty((0, 0, 0, 3), np.uint8)  # a view of the memory would hinder its closing
        with contextlib.suppress(BufferError):  # a caller kept one: the memory goes with the last of them
            self._memory.close()
        try:
            self._memory.unlink()
        except FileNotFoundError:  # somebody has tidied up; the tracker would complain of it at the end
            resource_tracker.unregister(self.region.key, "shared_memory")
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _reserve(self) -> None:
        """Lock the memory's file, so that no other takes it for an orphan's, and take the room for it."""
        self._file = os.open(_SHM / self.region.name, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            os.posix_fallocate(self._file, 0, self.region.size_bytes)  # else a write without room would kill
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, cause: OSError) -> UsageError:
        return UsageError(
            f"capacity of {self._capacity} images",
            got=f"{cause.strerror} for {self.region.size_bytes / 2**20:.0f} MiB in {_SHM}",
            expected="room for them",
            next_step="Use a smaller capacity, or give it more room (docker run --shm-size).",
        )


def remove_orphans(client: Client) -> tuple[str, ...]:
    """Remove the memory of processes that are no more, here and from the server; gives the names.

    Raises:
        ClientError: the server does not answer, or was not started for shared memory.
    """
    transport, timeout_s = client.transport, client._core.timeout_s
    registered = {region.name for region in _regions(client)}
    here = {path.name for path in _SHM.glob(f"{_PREFIX}*")}
    orphans = []
    for name in sorted(registered | here):
        with _locked_orphan(name) as is_orphan:
            if not is_orphan:
                continue
            if name in registered:
                transport.unregister(name, timeout_s=timeout_s).result()
            with contextlib.suppress(PermissionError):  # another user's
                (_SHM / name).unlink(missing_ok=True)
            orphans.append(name)
    return tuple(orphans)


def _regions(client: Client) -> tuple[Region, ...]:
    return client.transport.regions(timeout_s=client._core.timeout_s).result()


@contextlib.contextmanager
def _locked_orphan(name: str) -> Iterator[bool]:
    """Whether memory is an orphan. Its file is locked meanwhile: that of the living is already.

    A process's number alone does not say: it means another one, or none, in a container of its own.
    """
    if not _is_of_the_dead(name):
        yield False
        return
    try:
        lock = os.open(_SHM / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # removed by the tracker, and still known to the server
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


def _is_of_the_dead(name: str) -> bool:
    found = _OURS.fullmatch(name)
    if found is None:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, and alive
        return False
    return False
