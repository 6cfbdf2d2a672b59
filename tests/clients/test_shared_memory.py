from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from alexnet_clients import Client, FakeTransport, Region, SharedImages, remove_orphans, shared_memory
from alexnet_model.errors import BadRequest, NotReady, UsageError

SHM = Path("/dev/shm")
IMAGES = np.arange(2, dtype=np.uint8)[:, None, None, None] * np.full((2, 224, 224, 3), 255, np.uint8)


PREFIX = f"alexnet_images_of_tests_{os.getpid()}_"


@pytest.fixture(autouse=True)
def _prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests in other processes, which use shared memory too, would remove the orphans of these."""
    monkeypatch.setattr(shared_memory, "_PREFIX", PREFIX)
    monkeypatch.setattr(shared_memory, "_NAME", re.compile(rf"{PREFIX}(?P<pid>\d+)_[0-9a-f]+"))


def ours() -> set[str]:
    return {path.name for path in SHM.glob(f"{PREFIX}*")}


@pytest.fixture
def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_the_server_reads_shared_images(fake: FakeTransport, client: Client) -> None:
    before = ours()
    with SharedImages(client, capacity=4) as shared:
        shared.images[:2] = IMAGES
        assert ours() - before == {shared.region.name}
        assert fake.known_regions == {shared.region.name: shared.region}
        assert shared.probabilities(2).argmax(axis=1).tolist() == [0, 9]
        assert fake.requests[-1].region == shared.region.name
    assert ours() == before
    assert fake.known_regions == {}


def test_memory_that_the_server_still_uses_is_unregistered_a_moment_later(
    fake: FakeTransport, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    unregister = fake.unregister
    refused: list[str] = []

    def refuse_twice(name: str, *, timeout_s: float) -> Future[None]:
        if len(refused) == 2:
            return unregister(name, timeout_s=timeout_s)
        refused.append(name)
        reply: Future[None] = Future()
        reply.set_exception(NotReady(name, got="memory that is in use"))
        return reply

    monkeypatch.setattr(fake, "unregister", refuse_twice)
    with SharedImages(client, capacity=1):
        pass
    assert len(refused) == 2
    assert fake.known_regions == {}


def test_an_error_inside_with_removes_the_memory(fake: FakeTransport, client: Client) -> None:
    before = ours()
    kept = []  # views that outlive the memory

    def fail() -> None:
        with SharedImages(client, capacity=1) as shared:
            kept.append(shared.images)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ours() == before
    assert fake.known_regions == {}
    assert kept[0].shape == (1, 224, 224, 3)


def test_a_refused_registration_removes_the_memory(fake: FakeTransport, client: Client) -> None:
    before = ours()
    client.connect()
    fake.failures.append(BadRequest("server", got="This protocol is restricted"))
    with pytest.raises(BadRequest), SharedImages(client, capacity=1):
        pytest.fail("entered")

    class Refuses(FakeTransport):
        def register(self, region: Region, *, timeout_s: float) -> Future[None]:
            self.failures.append(BadRequest("server", got="no such region"))
            return super().register(region, timeout_s=timeout_s)

    with (
        Client("grpc://127.0.0.1", transport=Refuses()) as refused,
        pytest.raises(BadRequest),
        SharedImages(refused, capacity=1),
    ):
        pytest.fail("entered")
    assert ours() == before


def test_remove_orphans_removes_only_memory_of_ended_processes(
    fake: FakeTransport, client: Client, dead_process: int
) -> None:
    names = [f"{PREFIX}{dead_process}_0123abcd", f"{PREFIX}1_{'f' * 8}", "somebody_elses"]
    for name in names:
        fake.known_regions[name] = Region(name=name, key=f"/{name}", size_bytes=1)
    (SHM / names[0]).touch()
    try:
        assert remove_orphans(client) == (names[0],)
        assert not (SHM / names[0]).exists()
        assert list(fake.known_regions) == names[1:]
    finally:
        (SHM / names[0]).unlink(missing_ok=True)


def test_memory_is_registered_again_after_a_restart(fake: FakeTransport, client: Client) -> None:
    with SharedImages(client, capacity=2) as shared:
        shared.images[:] = IMAGES
        shared.probabilities(2)
        fake.known_regions.clear()
        answered = fake.brightness_as_class

        def answer(request: object) -> object:
            if shared.region.name not in fake.known_regions:
                raise BadRequest("server", got="Unable to find shared memory region")
            return answered(request)  # type: ignore[arg-type]

        fake.predict = answer  # type: ignore[assignment]
        assert shared.probabilities(2).argmax(axis=1).tolist() == [0, 9]


def test_a_refusal_with_registered_memory_is_raised(fake: FakeTransport, client: Client) -> None:
    with SharedImages(client, capacity=2) as shared:

        def refuse(request: object) -> object:
            raise BadRequest("server", got="batch-size must be <= 1")

        fake.predict = refuse  # type: ignore[assignment]
        with pytest.raises(BadRequest, match="batch-size"):
            shared.probabilities(2)


def test_locked_memory_of_another_pid_namespace_is_kept(
    fake: FakeTransport, client: Client, dead_process: int
) -> None:
    """No process here has the owner's ID, but the owner holds the lock."""
    name = f"{PREFIX}{dead_process}_0123abcd"
    fake.known_regions[name] = Region(name=name, key=f"/{name}", size_bytes=1)
    try:
        with (SHM / name).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert remove_orphans(client) == ()
            assert (SHM / name).exists()
            assert name in fake.known_regions
        assert remove_orphans(client) == (name,)
    finally:
        (SHM / name).unlink(missing_ok=True)


def test_memory_in_use_is_locked(client: Client) -> None:
    with (
        SharedImages(client, capacity=1) as shared,
        (SHM / shared.region.name).open() as found,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("forbidden", ["open", "unlink"])
def test_an_orphan_of_another_user_is_skipped(
    client: Client, dead_process: int, monkeypatch: pytest.MonkeyPatch, forbidden: str
) -> None:
    name = f"{PREFIX}{dead_process}_0123abcd"
    (SHM / name).touch()
    allowed = getattr(os, forbidden)

    def refuse(path: object, *rest: object, **more: object) -> object:
        if name in str(path):
            raise PermissionError
        return allowed(path, *rest, **more)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, forbidden, refuse)
            with SharedImages(client, capacity=1) as shared:
                assert shared.probabilities(1).shape == (1, 10)
        assert (SHM / name).exists()
    finally:
        (SHM / name).unlink()


def test_memory_that_was_removed_already_is_closed_silently() -> None:
    code = (
        "from pathlib import Path\n"
        "from alexnet_clients import Client, FakeTransport, SharedImages\n"
        "with Client('grpc://127.0.0.1', transport=FakeTransport()) as client:\n"
        "    with SharedImages(client, capacity=1) as shared:\n"
        "        (Path('/dev/shm') / shared.region.name).unlink()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)


def test_too_large_a_capacity_is_refused(client: Client) -> None:
    before = ours()
    room = os.statvfs(SHM)
    capacity = room.f_blocks * room.f_frsize // IMAGES[0].nbytes + 1
    with (
        pytest.raises(UsageError, match=r"No space left on device.*smaller capacity"),
        SharedImages(client, capacity=capacity),
    ):
        pytest.fail("entered")
    assert ours() == before


@pytest.mark.parametrize("count", [0, 3])
def test_count_must_be_within_the_capacity(count: int, client: Client) -> None:
    with SharedImages(client, capacity=2) as shared, pytest.raises(UsageError, match="1 to 2"):
        shared.probabilities(count)


def test_invalid_capacity_and_remote_servers_are_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        SharedImages(client, capacity=0)
    with (
        Client("grpc://10.0.0.1", transport=FakeTransport()) as elsewhere,
        pytest.raises(UsageError, match="another machine"),
    ):
        SharedImages(elsewhere, capacity=1)
