"""A real server's life: starting, dying in every way, stopping, and what is left afterwards (nothing)."""

from __future__ import annotations

import errno
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from alexnet_model.errors import (
    EngineRefused,
    MissingExtra,
    PortTaken,
    RepositoryError,
    ServerDied,
    ServerError,
    UsageError,
)
from alexnet_serving import EmbeddedServer, Server
from alexnet_serving.servers import embedded, process_server
from alexnet_serving.servers.embedded import is_alive, stubs_of

from .conftest import ENCODED, Artifacts
from .recorded_engines import repository_of_engines

pytestmark = pytest.mark.slow

SHARED_MEMORY = Path("/dev/shm")


class Remains:
    """What a server would leave behind: processes, shared memory, a temporary folder."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.group = server._process.pid
        self.shm_prefix = server._launch.shm_prefix
        self.folder = Path(server._launch.folder)
        assert server._watchdog is not None
        self.watcher = server._watchdog.pid
        self.pids = {self.group, *stubs_of(self.group)}
        assert len(self.pids) == 1 + len(server.models)
        assert list(SHARED_MEMORY.glob(f"{self.shm_prefix}*"))

    @property
    def any(self) -> list[str]:
        return [
            *(f"process {pid}" for pid in self.pids if is_alive(pid, self.group)),
            *(str(path) for path in SHARED_MEMORY.glob(f"{self.shm_prefix}*")),
            *([str(self.folder)] if self.folder.exists() else []),
            *([f"watcher {self.watcher}"] if is_alive(self.watcher, self.watcher) else []),
        ]


def eventually(is_so: Callable[[], bool], deadline_s: float = 60.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def small(repository: Path) -> Path:
    """One model is enough where values do not matter."""
    for model in ("alexnet_fp32", *ENCODED):
        shutil.rmtree(repository / model)
    return repository


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_ready_inside_and_gone_outside(small: Path) -> None:
    server: Server
    with EmbeddedServer(small) as server:
        remains = Remains(server)
        assert server.models == ("alexnet_int8",)
        assert server.grpc_url.startswith("grpc://127.0.0.1:")
        with urllib.request.urlopen(f"{server.http_url}/v2/models/alexnet_int8/ready") as response:
            assert response.status == 200
        with urllib.request.urlopen(server.metrics_url) as response:
            assert b"nv_inference_count" in response.read()
        server.check()
    assert remains.any == []
    server.stop()  # once more does nothing
    server.check()


def test_it_listens_on_loopback_only(server: EmbeddedServer) -> None:
    listening = subprocess.run(
        ["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=True
    ).stdout
    for url in (server.grpc_url, server.http_url, server.metrics_url.removesuffix("/metrics")):
        port = f"{int(url.rpartition(':')[2]):04X}"
        addresses = {
            line.split()[1].partition(":")[0]
            for line in listening.splitlines()
            if f":{port}" in line.split()[1] and line.split()[3] == "0A"
        }
        assert addresses, url
        assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_wait_returns_when_stopped_from_elsewhere(small: Path) -> None:
    with EmbeddedServer(small) as server:
        threading.Timer(0.2, server.stop).start()
        server.wait()
        assert not Path(server._launch.folder).exists()


def test_kill_9_of_the_server_is_noticed_and_cleaned_up(small: Path) -> None:
    with EmbeddedServer(small) as server:
        remains = Remains(server)
        os.kill(server._process.pid, signal.SIGKILL)
        with pytest.raises(ServerDied, match=r"(?s)killed by signal 9.*Started GRPCInferenceService"):
            server.wait()
        assert remains.any == []
        with pytest.raises(ServerDied, match="signal 9"):
            server.check()


def test_kill_9_of_what_runs_a_model_is_noticed(small: Path) -> None:
    with EmbeddedServer(small) as server:
        remains = Remains(server)
        ((stub, model),) = stubs_of(server._process.pid).items()
        assert model == "alexnet_int8"
        os.kill(stub, signal.SIGKILL)
        with pytest.raises(ServerDied, match="model alexnet_int8"):
            server.wait()
    assert remains.any == []


def test_an_idle_http_connection_does_not_delay_the_end(small: Path) -> None:
    """Triton alone would wait for it for 15 seconds."""
    with EmbeddedServer(small) as server:
        port = int(server.http_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
            started_s = time.monotonic()
            server.stop()
            assert time.monotonic() - started_s < 12


def test_a_stuck_server_is_killed_after_the_deadline(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_server, "EXIT_TIMEOUT_S", -4.5)
    with EmbeddedServer(small) as server:
        remains = Remains(server)
        for pid in remains.pids:
            os.kill(pid, signal.SIGSTOP)
    assert remains.any == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent(small: Path, number: int) -> None:
    script = f"""
        from pathlib import Path
        from alexnet_serving import EmbeddedServer
        with EmbeddedServer(Path({str(small)!r})) as server:
            print(server._process.pid, server._launch.shm_prefix, server._launch.folder, flush=True)
            server.wait()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, shm_prefix, folder = parent.stdout.readline().split()
        stubs = stubs_of(int(pid))
        assert stubs
        parent.send_signal(number)
    assert eventually(lambda: not any(is_alive(p, int(pid)) for p in (int(pid), *stubs)))
    assert eventually(lambda: not Path(folder).exists())
    assert eventually(lambda: not list(SHARED_MEMORY.glob(f"{shm_prefix}*")))


def test_requests_after_an_idle_moment_and_from_two_servers_side_by_side(small: Path) -> None:
    zeros = np.zeros((2, 224, 224, 3), np.uint8)
    image = InferInput("image", [2, 224, 224, 3], "UINT8")
    image.set_data_from_numpy(zeros)
    with EmbeddedServer(small) as one, EmbeddedServer(small) as two:
        answers = []
        for server in (one, two):
            with InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
                answers.append(client.infer("alexnet_int8", [image]).as_numpy("logits"))
        one.stop()
        two.check()
        with InferenceServerClient(two.grpc_url.removeprefix("grpc://")) as client:
            answers.append(client.infer("alexnet_int8", [image]).as_numpy("logits"))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[1], answers[2])


@pytest.mark.parametrize("name", ["grpc", "http", "metrics"])
def test_a_taken_port(name: str, repository: Path, taken_port: int) -> None:
    with pytest.raises(PortTaken, match=f"{name} port {taken_port}"):
        EmbeddedServer(repository, **{f"{name}_port": taken_port})  # type: ignore[arg-type]


def test_given_ports_are_used(small: Path) -> None:
    with EmbeddedServer(small) as first:
        port = int(first.grpc_url.rpartition(":")[2])
    with EmbeddedServer(small, grpc_port=port) as again:
        assert again.grpc_url == f"grpc://127.0.0.1:{port}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"grpc_port": -1},
        {"http_port": 65536},
        {"grpc_port": 8001, "http_port": 8001},
        {"address": "0.0.0.0"},
        {"address": "example.org"},
        {"ready_timeout_s": 0.0},
        {"ready_timeout_s": float("nan")},
    ],
)
def test_options_that_cannot_be(wrong: dict[str, Any], repository: Path) -> None:
    with pytest.raises(UsageError):
        EmbeddedServer(repository, **wrong)


def test_engines_are_for_docker(artifacts: Artifacts, tmp_path: Path) -> None:
    engines = repository_of_engines(artifacts, tmp_path / "a b")
    with pytest.raises(EngineRefused) as caught:
        EmbeddedServer(engines)
    assert caught.value.next_step.endswith(f"--with docker --repository {shlex.quote(str(engines))}")


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        EmbeddedServer(tmp_path / "missing")
    with pytest.raises(RepositoryError, match="no model"):
        EmbeddedServer(tmp_path)


@pytest.mark.parametrize("what", ["truncated", "missing", "config"])
def test_a_model_that_does_not_load_is_named(what: str, repository: Path) -> None:
    model = repository / "alexnet_int8"
    if what == "truncated":
        content = (model / "1" / "model.onnx").read_bytes()
        (model / "1" / "model.onnx").unlink()  # a hard link: writing into it would break the artifact
        (model / "1" / "model.onnx").write_bytes(content[: len(content) // 2])
    elif what == "missing":
        shutil.rmtree(model / "1")
    else:
        (model / "config.pbtxt").write_text("max_batch_size: {")
    server = EmbeddedServer(repository)
    with pytest.raises(ServerError, match="model alexnet_int8") as caught, server:
        pytest.fail("entered")
    assert not isinstance(caught.value, ServerDied)
    assert "\n" not in str(caught.value)
    assert not Path(server._launch.folder).exists()


def test_the_fix_for_a_model_that_does_not_load(small: Path) -> None:
    """The extra to install if a package is missing; otherwise the lint command."""
    server = EmbeddedServer(small)
    for reason in (
        "Internal: ModuleNotFoundError: No module named 'openvino'",
        "Invalid argument: unable to find backend library for backend 'openvino_dynamic', try specifying",
    ):
        assert server._load_failure_fix("alexnet_int8", reason).endswith(
            "pip install 'alexnet-serving[embedded]'"
        )
    assert server._load_failure_fix("small", "Internal: bad magic").endswith(f"export: alexnet lint {small}")
    spaced = small.rename(small.with_name("my models"))
    fix = EmbeddedServer(spaced)._load_failure_fix("small", "bad")
    assert fix.endswith(f"alexnet lint {shlex.quote(str(spaced))}")


def test_the_deadline_for_readiness(small: Path) -> None:
    server = EmbeddedServer(small, ready_timeout_s=0.01)
    with pytest.raises(ServerError, match=r"not ready after 0\.01 s"), server:
        pytest.fail("entered")
    assert not Path(server._launch.folder).exists()
    assert not list(SHARED_MEMORY.glob(f"{server._launch.shm_prefix}*"))


def test_no_room_for_the_backends(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def full(_: object, folder: Path) -> None:
        folders.append(folder.parent)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "assemble_backends", full)
    server = EmbeddedServer(small)
    with pytest.raises(ServerError, match="no space left on device"), server:
        pytest.fail("entered")
    (folder,) = folders
    assert not folder.exists()


def test_without_the_extra(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"\[embedded\]"):
        EmbeddedServer(repository)


def test_a_temporary_folder_that_a_shell_would_split(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(ServerError, match="unsafe to pass to Triton"), EmbeddedServer(small):
        pass
    assert not list(folder.iterdir())


def test_a_server_can_be_entered_again(small: Path) -> None:
    server = EmbeddedServer(small)
    for _ in range(2):
        with server:
            server.check()
            process = server._process.pid
        assert not Path(f"/proc/{process}").exists()
