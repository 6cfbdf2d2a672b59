"""A server in Docker, against a stand-in for `docker`: its command line, and its life.

What a real engine makes of the command line no test here can say.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from alexnet_model.errors import RepositoryError
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE
from alexnet_serving import Server
from alexnet_serving.servers import cleanup_watchdog, process_server
from alexnet_serving.servers.docker_server import DockerServer

from ..stand_ins.docker import FakeDocker, fake_docker, lives
from ..stand_ins.nvidia_smi import H100, fake_nvidia_smi, no_nvidia_smi
from .conftest import Artifacts
from .docker_setting import H200, Fake, failure_of, repository_of_engines
from .test_embedded import eventually

LOCK = "shared-memory,model-repository,logging,trace:alexnet:closed=closed"
TRITON = [
    "tritonserver",
    "--model-repository=/models",
    "--model-control-mode=explicit",
    "--disable-auto-complete-config",
    "--exit-on-error=true",
    "--strict-readiness=true",
    "--exit-timeout-secs=15",
    f"--grpc-restricted-protocol={LOCK}",
    f"--http-restricted-api={LOCK}",
    "--allow-sagemaker=false",
    "--allow-vertex-ai=false",
]
LOAD_INT8 = "--load-model=alexnet_int8"
NO_GPU_METRICS = "--allow-gpu-metrics=false"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return partial(fake_docker, monkeypatch, tmp_path)


@pytest.fixture
def on_cpu(repository: Path) -> Path:
    """A repository that OpenVINO computes."""
    shutil.rmtree(repository / "alexnet_fp32")
    return repository


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H200])


def docker_options(repository: Path, server: DockerServer, *, gpus: bool, address: str) -> list[str]:
    ports = {name: url.split(":")[2].partition("/")[0] for name, url in urls_of(server).items()}
    return [
        "--rm",
        "--name=alexnet-NAME",
        "--pull=never",
        "--init",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--tmpfs=/tmp:rw,nosuid,nodev,size=1g",
        f"--user={f'{os.getuid()}:{os.getgid()}' if os.getuid() else '1000:1000'}",
        "--shm-size=1g",
        "--ulimit=memlock=-1",
        "--ulimit=stack=67108864",
        *(["--gpus=all"] if gpus else []),
        f"--mount=type=bind,source={repository},target=/models,readonly",
        f"--publish={address}:{ports['grpc']}:8001",
        f"--publish={address}:{ports['http']}:8000",
        f"--publish={address}:{ports['metrics']}:8002",
    ]


def options_of(run: list[str], image: str) -> list[str]:
    """Docker's own options, without what is random."""
    return [re.sub(r"alexnet-[0-9a-f]{16}$", "alexnet-NAME", o) for o in run[1 : run.index(image)]]


def triton_options(run: list[str], image: str) -> list[str]:
    """What runs in the container."""
    return run[run.index(image) + 1 :]


def urls_of(server: DockerServer) -> dict[str, str]:
    return {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url}


def test_engines(artifacts: Artifacts, gpu: None, fake: Fake, tmp_path: Path) -> None:
    docker = fake()
    engines = repository_of_engines(artifacts, tmp_path)
    server: Server
    with DockerServer(engines) as server:
        assert server.models == ("alexnet_fp32", "alexnet_int8")
        (run,) = docker.runs
        expected = docker_options(engines, server, gpus=True, address="127.0.0.1")
        assert options_of(run, TRITON_IMAGE) == expected
        assert triton_options(run, TRITON_IMAGE) == [
            *TRITON,
            "--load-model=alexnet_fp32",
            LOAD_INT8,
            "--model-load-thread-count=1",
        ]
        assert server.grpc_url.startswith("grpc://127.0.0.1:")
        assert server.metrics_url.endswith("/metrics")


def test_models_for_a_cpu(on_cpu: Path, gpu: None, fake: Fake) -> None:
    docker = fake()
    with DockerServer(on_cpu) as server:
        (run,) = docker.runs
        expected = docker_options(on_cpu, server, gpus=False, address="127.0.0.1")
        assert options_of(run, CPU_IMAGE) == expected
        load = ["--load-model=alexnet", "--load-model=alexnet_decode"]
        pool = "--backend-config=python,shm-default-byte-size=16777216"
        assert triton_options(run, CPU_IMAGE) == [*TRITON, *load, LOAD_INT8, pool, NO_GPU_METRICS]


@pytest.mark.parametrize("here", [True, False])
def test_onnxruntime_takes_a_gpu_where_there_is_one(
    here: bool, on_onnxruntime: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if here:
        fake_nvidia_smi(monkeypatch, tmp_path, [H100])
    else:
        no_nvidia_smi(monkeypatch, tmp_path)
    docker = fake()
    with DockerServer(on_onnxruntime):
        (run,) = docker.runs
        assert ("--gpus=all" in run) == here
        expected = [*TRITON, "--load-model=alexnet_fp32", *([] if here else [NO_GPU_METRICS])]
        assert triton_options(run, TRITON_IMAGE) == expected


def test_version_compatible_engines_are_announced(
    artifacts: Artifacts, gpu: None, fake: Fake, tmp_path: Path
) -> None:
    docker = fake()
    with DockerServer(repository_of_engines(artifacts, tmp_path, version_compatible=True)):
        assert "--backend-config=tensorrt,version-compatible=true" in triton_options(
            docker.runs[0], TRITON_IMAGE
        )


@pytest.mark.parametrize(("address", "reached_at"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")])
def test_a_given_address_is_published(address: str, reached_at: str, on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    with DockerServer(on_cpu, address=address) as server:
        (run,) = docker.runs
        expected = docker_options(on_cpu, server, gpus=False, address=address)
        assert options_of(run, CPU_IMAGE) == expected
        assert {url.split(":")[1] for url in urls_of(server).values()} == {f"//{reached_at}"}


def test_another_image_and_given_ports(on_cpu: Path, fake: Fake) -> None:
    docker = fake(images=["mine:1"])
    with DockerServer(on_cpu, image="mine:1") as first:
        (port,) = re.findall(r"\d+$", first.grpc_url)
    with DockerServer(on_cpu, image="mine:1", grpc_port=int(port)) as server:
        assert server.grpc_url == f"grpc://127.0.0.1:{port}"
        assert f"--publish=127.0.0.1:{port}:8001" in docker.runs[-1]
        assert "mine:1" in docker.runs[-1]


def test_a_user_who_is_not_root_stays_who_they_are(
    on_cpu: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 5678)
    docker = fake()
    (on_cpu / "alexnet_int8" / "config.pbtxt").chmod(0o640)
    with DockerServer(on_cpu):
        assert "--user=1234:5678" in docker.runs[0]


def test_root_serves_only_what_others_can_read(
    on_cpu: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    docker = fake()
    (on_cpu / "alexnet_int8" / "config.pbtxt").chmod(0o640)
    error = failure_of(DockerServer(on_cpu))
    assert isinstance(error, RepositoryError)
    assert error.next_step == f"Run: chmod -R o+rX {on_cpu}"
    assert docker.runs == []
    (on_cpu / "alexnet_int8" / "config.pbtxt").chmod(0o644)
    (on_cpu / "a link to nowhere").symlink_to("nowhere")
    spaced = on_cpu.rename(on_cpu.with_name("my models"))
    (spaced / "alexnet_int8" / "config.pbtxt").chmod(0o640)
    error = failure_of(DockerServer(spaced))
    assert error.next_step == f"Run: chmod -R o+rX {shlex.quote(str(spaced))}"
    (spaced / "alexnet_int8" / "config.pbtxt").chmod(0o644)
    spaced.rename(on_cpu)
    with DockerServer(on_cpu):
        assert "--user=1000:1000" in docker.runs[0]


def test_ready_inside_and_gone_outside(on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    server = DockerServer(on_cpu)
    assert docker.calls == [], "Docker is not called before the server is entered"
    with server:
        ((name, container),) = docker.containers.items()
        with urllib.request.urlopen(f"{server.http_url}/v2/health/ready") as response:
            assert response.status == 200
        server.check()
        watcher = server._watchdog
        assert watcher is not None
        assert watcher.poll() is None
    assert docker.containers == {}
    assert not lives(container)
    assert docker.removed == [name], "even if it ended before"
    assert watcher.poll() == 0
    server.stop()  # once more does nothing
    server.check()
    assert docker.removed == [name]
    with server:  # and can be entered again
        assert docker.containers.keys().isdisjoint({name})


def test_before_it_is_entered_there_is_nothing_to_stop(on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    server = DockerServer(on_cpu)
    server.stop()
    server.check()
    server.wait()
    with server:
        assert docker.containers
    assert docker.containers == {}


@pytest.fixture
def slow_to_stop(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Its containers take half a second."""
    monkeypatch.setattr(process_server, "EXIT_TIMEOUT_S", -4.5)
    return fake(deaf=True)


def test_wait_returns_when_another_thread_is_done_with_stopping(
    on_cpu: Path, slow_to_stop: FakeDocker
) -> None:
    with DockerServer(on_cpu) as server:
        ((name, _),) = slow_to_stop.containers.items()
        threading.Timer(0.2, server.stop).start()
        server.wait()
        assert slow_to_stop.containers == {}
        assert slow_to_stop.removed == [name]


def test_leaving_waits_for_another_thread_that_stops_it(on_cpu: Path, slow_to_stop: FakeDocker) -> None:
    with DockerServer(on_cpu) as server:
        other = threading.Thread(target=server.stop)
        other.start()
        server._stopping.wait()
    assert slow_to_stop.containers == {}
    assert len(slow_to_stop.removed) == 1
    other.join()


def test_a_signal_that_stops_it_while_it_stops_does_nothing(on_cpu: Path, slow_to_stop: FakeDocker) -> None:
    handler = signal.signal(signal.SIGALRM, lambda *_: server.stop())
    try:
        with DockerServer(on_cpu) as server:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            server.stop()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert slow_to_stop.containers == {}
    assert len(slow_to_stop.removed) == 1


def test_a_container_deaf_to_signals_is_removed_after_the_deadline(
    on_cpu: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_server, "EXIT_TIMEOUT_S", -4.5)
    docker = fake(deaf=True)
    with DockerServer(on_cpu):
        (container,) = docker.containers.values()
    assert eventually(lambda: not lives(container))
    assert docker.containers == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_container_goes_when_its_parent_is_killed(number: int, on_cpu: Path, fake: Fake) -> None:
    docker = fake(deaf=True)  # so that it is not a signal that ends it
    script = f"""
        from pathlib import Path
        from alexnet_serving.servers.docker_server import DockerServer
        with DockerServer(Path({str(on_cpu)!r})) as server:
            print("ready", flush=True)
            server.wait()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        ((name, container),) = docker.containers.items()
        assert lives(container)
        parent.send_signal(number)
    assert eventually(lambda: not lives(container))
    assert eventually(lambda: docker.containers == {})
    assert docker.removed == [name]


def test_resources_that_a_server_does_not_have_are_not_removed(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "of another").touch()
    monkeypatch.setattr(cleanup_watchdog, "SHARED_MEMORY", tmp_path)
    docker = fake()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        cleanup_watchdog.clean_up(process.pid)
    assert (tmp_path / "of another").exists()
    assert docker.calls == []
