"""Every way in which a server in Docker does not start, or ends: what is said, and that nothing stays."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_model import docker as docker_module
from alexnet_model.errors import (
    AlexnetError,
    DockerError,
    EngineRefused,
    ManifestError,
    PortTaken,
    RepositoryError,
    ServerDied,
    ServerError,
    UsageError,
)
from alexnet_model.triton_image import BUILD_CPU_IMAGE, CPU_IMAGE, TRITON_IMAGE
from alexnet_serving.servers.docker_server import DockerServer

from ..stand_ins.docker import (
    NO_ENGINE,
    NO_GPU_RUNTIME,
    NO_GPU_VENDOR,
    NO_PERMISSION,
    STARTING,
    fake_docker,
    image_is_missing,
    lives,
    no_docker,
    port_is_allocated,
)
from ..stand_ins.nvidia_smi import L4, failing_nvidia_smi, fake_nvidia_smi, no_nvidia_smi
from ..waiting import wait_until
from .conftest import Artifacts
from .docker_setting import H200, Fake, failure_of, repository_of_engines

AT = "E1123 12:00:00.000000 1 model_lifecycle.cc:654] "


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return partial(fake_docker, monkeypatch, tmp_path)


@pytest.fixture
def on_cpu(repository: Path) -> Path:
    shutil.rmtree(repository / "alexnet_fp32")
    return repository


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    return repository_of_engines(artifacts, tmp_path)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H200])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda container, client: os.kill(container, signal.SIGKILL), "killed by signal 9 inside"),
        (lambda container, client: os.kill(container, signal.SIGTERM), "ended with exit code 0"),
        (lambda container, client: os.kill(client, signal.SIGKILL), "its Docker client killed by signal 9"),
    ],
)
def test_a_death_is_noticed_and_cleaned_up(
    end: Callable[[int, int], None], said: str, on_cpu: Path, fake: Fake
) -> None:
    docker = fake()
    with DockerServer(on_cpu) as server:
        (container,) = docker.containers.values()
        wait_until(lambda: "Started Metrics" in server._log.last(20), "the client relays the output")
        end(container, server._process.pid)
        with pytest.raises(ServerDied, match=rf"(?s)server in Docker: got {said}.*Started Metrics") as caught:
            server.wait()
        assert "| Model" not in str(caught.value), "Triton's tables of its own settings"
        assert not lives(container)
        assert docker.containers == {}


@pytest.mark.parametrize(
    ("failure", "kind", "fix"),
    [
        (NO_GPU_RUNTIME, DockerError, "apt-get install nvidia-container-toolkit"),
        (NO_GPU_VENDOR, DockerError, "apt-get install nvidia-container-toolkit"),
        (image_is_missing(CPU_IMAGE), DockerError, BUILD_CPU_IMAGE),
        (port_is_allocated(8001), PortTaken, "Stop the process on port 8001, or use another port"),
        (("exec: tritonserver: not found", 127), DockerError, "alexnet doctor"),
    ],
)
def test_docker_run_fails(
    failure: tuple[str, int], kind: type[AlexnetError], fix: str, on_cpu: Path, fake: Fake
) -> None:
    docker = fake(run_fails=failure)
    error = failure_of(DockerServer(on_cpu))
    assert type(error) is kind
    assert error.subject == "docker run"
    assert error.got
    assert fix in error.next_step
    assert "--help" not in str(error)
    assert "\n" not in str(error)
    assert len(docker.removed) == 1


@pytest.mark.parametrize(
    ("failure", "fix"),
    [(NO_ENGINE, "sudo systemctl start docker"), (NO_PERMISSION, "sudo usermod -aG docker $USER")],
)
def test_no_engine(failure: tuple[str, int], fix: str, on_cpu: Path, fake: Fake) -> None:
    docker = fake(fails=failure)
    error = failure_of(DockerServer(on_cpu))
    assert isinstance(error, DockerError)
    assert error.subject == "Docker", "not the image that was requested"
    assert fix in error.next_step
    assert docker.runs == []


def test_no_docker(on_cpu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_docker(monkeypatch, tmp_path)
    assert "docs.docker.com/engine/install" in failure_of(DockerServer(on_cpu)).next_step


def test_docker_goes_between_question_and_start(
    on_cpu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_docker(monkeypatch, tmp_path)
    monkeypatch.setattr(docker_module, "ask", lambda *_: '[{"Id": "sha256:1"}]')
    error = failure_of(DockerServer(on_cpu))
    assert str(error) == "server in Docker: got no such file or directory, expected docker to start"


def test_no_image(on_cpu: Path, engines: Path, fake: Fake) -> None:
    docker = fake(images=[])
    assert BUILD_CPU_IMAGE in failure_of(DockerServer(on_cpu)).next_step
    assert f"docker pull {TRITON_IMAGE}" in failure_of(DockerServer(engines)).next_step
    assert docker.runs == []


def test_triton_refuses_a_model(on_cpu: Path, fake: Fake) -> None:
    why = "Internal: ModuleNotFoundError: No module named openvino"
    fake(says=[*STARTING, f"{AT}\"failed to load 'alexnet_int8' version 1: {why}\""], exits=1)
    error = failure_of(DockerServer(on_cpu))
    assert type(error) is ServerError
    assert str(error).startswith(f"{on_cpu}: model alexnet_int8: got '{why}' from Triton")
    assert error.next_step.endswith(BUILD_CPU_IMAGE)


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        (
            "Invalid argument: unable to find backend library for backend 'onnxruntime', try specifying "
            "runtime on the model configuration.",
            "Pull the image that has it: docker pull {image}",
        ),
        (
            "Internal: onnx runtime error 7: Load model failed: Protobuf parsing failed.",
            "Check that it is unchanged since its export: alexnet lint {repository}",
        ),
    ],
)
def test_the_fix_for_a_model_that_triton_refuses(
    why: str, fix: str, on_onnxruntime: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    fake(says=[*STARTING, f"{AT}\"failed to load 'alexnet_fp32' version 1: {why}\""], exits=1)
    error = failure_of(DockerServer(on_onnxruntime))
    assert error.next_step == fix.format(image=TRITON_IMAGE, repository=on_onnxruntime)


def test_triton_refuses_an_engine(engines: Path, gpu: None, fake: Fake) -> None:
    why = "Internal: unable to create TensorRT engine: IRuntime::deserializeCudaEngine: Error Code 1"
    fake(says=[f"{AT}\"failed to load 'alexnet_fp32' version 1: {why}\""], exits=1)
    error = failure_of(DockerServer(engines))
    assert error.got == f"'{why}' from Triton"
    assert (
        f"alexnet export {engines} --runtime tensorrt --build docker --repository {engines}"
        in error.next_step
    )


def test_it_dies_before_it_is_ready(on_cpu: Path, fake: Fake) -> None:
    docker = fake(says=["tritonserver: unrecognized option"], exits=1)
    error = failure_of(DockerServer(on_cpu))
    assert isinstance(error, ServerDied)
    assert error.got == "ended with exit code 1"
    assert "unrecognized option" in error.next_step
    assert docker.containers == {}


def test_the_deadline_for_readiness(on_cpu: Path, fake: Fake) -> None:
    docker = fake(ready=False)
    error = failure_of(DockerServer(on_cpu, ready_timeout_s=0.5))
    assert type(error) is ServerError
    assert error.got == "not ready after 0.5 s"
    assert docker.containers == {}


def refused(repository: Path, fake: Fake) -> str:
    docker = fake()
    error = failure_of(DockerServer(repository))
    assert isinstance(error, EngineRefused)
    assert docker.calls
    assert docker.runs == [], "refused before anything was started"
    return str(error)


def test_engines_without_a_gpu(
    engines: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    said = refused(engines, fake)
    assert "nvidia-smi is not installed" in said
    assert "See what is missing: alexnet doctor" in said
    failing_nvidia_smi(monkeypatch, tmp_path)
    assert "couldn't communicate" in refused(engines, fake)


def test_engines_of_another_gpu(
    engines: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    said = refused(engines, fake)
    assert "built for TensorRT 11.1.0.106 on NVIDIA H200 (9.0)" in said
    assert "NVIDIA L4 (8.9" in said
    assert f"alexnet export {engines} --runtime tensorrt --build docker --repository {engines}" in said
    # A second GPU of the same compute capability is another place all the same.
    fake_nvidia_smi(monkeypatch, tmp_path, [H200, (1, "NVIDIA GH200", "9.0", "580.95.05", 97871)])
    assert "NVIDIA GH200" in refused(engines, fake)


def test_engines_of_another_tensorrt(artifacts: Artifacts, gpu: None, fake: Fake, tmp_path: Path) -> None:
    engines = repository_of_engines(artifacts, tmp_path, runtime_version="11.4.0.106")
    assert "TensorRT 11.1.0.106 loads only its own" in refused(engines, fake)
    fake(images=["mine:1"])
    assert "--image mine:1" in failure_of(DockerServer(engines, image="mine:1")).next_step
    docker = fake(images=["newer:1"], tensorrt="11.4.0.106")  # what the image says of itself counts
    with DockerServer(engines, image="newer:1"):
        assert len(docker.runs) == 1


def test_engines_without_their_record(engines: Path, gpu: None, fake: Fake) -> None:
    (engines / "alexnet.1.export.json").unlink()
    docker = fake()
    assert isinstance(failure_of(DockerServer(engines)), ManifestError)
    assert docker.runs == []


def test_a_path_that_cannot_be_mounted(on_cpu: Path, fake: Fake, tmp_path: Path) -> None:
    docker = fake()
    repository = on_cpu.rename(tmp_path / "a, b")
    assert "a comma" in (error := str(failure_of(DockerServer(repository))))
    assert error.endswith("Rename the folder.")
    assert docker.runs == []


@pytest.mark.parametrize("name", ["grpc", "http", "metrics"])
def test_a_taken_port(name: str, repository: Path, taken_port: int) -> None:
    with pytest.raises(PortTaken, match=f"{name} port {taken_port}"):
        DockerServer(repository, **{f"{name}_port": taken_port})  # type: ignore[arg-type]


@pytest.mark.parametrize("port", [None, 8001])
def test_an_address_of_another_machine(port: int | None, repository: Path) -> None:
    with pytest.raises(ServerError, match=r"of 203\.0\.113\.1: got cannot assign requested") as caught:
        DockerServer(repository, address="203.0.113.1", grpc_port=port)
    assert caught.value.next_step == "Use an address of this machine, such as 127.0.0.1 or 0.0.0.0."


@pytest.mark.parametrize(
    "wrong",
    [
        {"grpc_port": 65536},
        {"grpc_port": 8001, "http_port": 8001},
        {"address": "example.org"},
        {"address": "::1"},
        {"ready_timeout_s": 0.0},
    ],
)
def test_options_that_cannot_be(wrong: dict[str, Any], repository: Path) -> None:
    with pytest.raises(UsageError):
        DockerServer(repository, **wrong)


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        DockerServer(tmp_path / "missing")
