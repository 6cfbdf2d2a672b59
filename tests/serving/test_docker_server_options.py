"""A server in Docker with TLS, and with shared memory: its mounts, Triton's options and published ports."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from functools import partial
from pathlib import Path

import pytest

from alexnet_model.errors import DockerError, PortTaken, ServerError, UsageError
from alexnet_model.triton_image import CPU_IMAGE
from alexnet_serving import ServerTls, ServerTrace
from alexnet_serving.servers.docker_server import DockerServer

from ..certificates import Certificates, make_certificates
from ..stand_ins.docker import fake_docker
from .docker_setting import Fake, failure_of

SHARED_MEMORY = Path("/dev/shm")
CONTAINERS_USER = (os.getuid(), os.getgid()) if os.getuid() else (1000, 1000)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return partial(fake_docker, monkeypatch, tmp_path)


@pytest.fixture
def on_cpu(repository: Path) -> Path:
    shutil.rmtree(repository / "alexnet_fp32")
    return repository


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "certificates, mine")  # a comma, which Docker could not mount


@pytest.fixture
def one_way(made: Certificates) -> ServerTls:
    return ServerTls(made.server.certificate, made.server.key)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def shown_as_tls(run: list[str]) -> Path:
    """The folder that the container sees as /tls."""
    (found,) = [
        re.fullmatch(r"--mount=type=bind,source=(.*),target=/tls,readonly", o) for o in run if "/tls," in o
    ]
    assert found is not None
    return Path(found[1])


def published(run: list[str]) -> dict[str, str]:
    """The address by the port inside."""
    found = [o.removeprefix("--publish=").split(":") for o in run if o.startswith("--publish=")]
    return {inside: address for address, _, inside in found}


def triton_options(run: list[str], word: str) -> list[str]:
    """The options of Triton in a `docker run` that contain a word."""
    return [option for option in run[run.index(CPU_IMAGE) :] if word in option]


def test_tls(on_cpu: Path, one_way: ServerTls, fake: Fake) -> None:
    docker = fake()
    with DockerServer(on_cpu, tls=one_way) as server:
        (run,) = docker.runs
        assert server.grpc_url.startswith("grpcs://127.0.0.1:")
        assert triton_options(run, "/tls/") == [
            "--grpc-server-cert=/tls/certificate.pem",
            "--grpc-server-key=/tls/key.pem",
        ]
        assert triton_options(run, "ssl") == ["--grpc-use-ssl=true"]
        folder = shown_as_tls(run)
        assert (folder / "certificate.pem").read_bytes() == one_way.certificate.read_bytes()
        assert (folder / "key.pem").read_bytes() == one_way.key.read_bytes()
        assert len(list(folder.iterdir())) == 2


def test_mutual_tls(on_cpu: Path, one_way: ServerTls, made: Certificates, fake: Fake) -> None:
    docker = fake()
    with DockerServer(on_cpu, tls=ServerTls(one_way.certificate, one_way.key, made.ca)):
        (run,) = docker.runs
        assert triton_options(run, "ssl") == ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true"]
        assert triton_options(run, "root-cert") == ["--grpc-root-cert=/tls/client_ca.pem"]
        assert (shown_as_tls(run) / "client_ca.pem").read_bytes() == made.ca.read_bytes()


def test_the_copied_key_is_the_containers_users_and_goes_with_it(
    on_cpu: Path, one_way: ServerTls, fake: Fake, temporary: Path
) -> None:
    docker = fake()
    with DockerServer(on_cpu, tls=one_way):
        folder = shown_as_tls(docker.runs[0])
        for path, mode in ((folder, 0o40700), (folder / "key.pem", 0o100600)):
            assert (path.stat().st_uid, path.stat().st_gid) == CONTAINERS_USER
            assert path.stat().st_mode == mode
        private = folder.parent
        assert private.parent == temporary
        assert private.stat().st_mode & 0o077 == 0, "only the owner can open the folder of the key"
        assert private.stat().st_uid == os.getuid()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("host", ["host.docker.internal", "collector.example"])
def test_traces(host: str, on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    url = f"http://{host}:4318/v1/traces"
    with DockerServer(on_cpu, trace=ServerTrace(url=url, rate=100)):
        (run,) = docker.runs
    options = [option.removeprefix("--trace-config=") for option in triton_options(run, "--trace-config")]
    assert {"mode=opentelemetry", f"opentelemetry,url={url}", "level=TIMESTAMPS", "rate=100"} <= set(options)
    is_added = "--add-host=host.docker.internal:host-gateway" in run[: run.index(CPU_IMAGE)]
    assert is_added == (host == "host.docker.internal")


def test_without_tls_nothing_is_copied(on_cpu: Path, fake: Fake, temporary: Path) -> None:
    docker = fake()
    with DockerServer(on_cpu):
        assert list(temporary.iterdir()) == []
        assert not [option for option in docker.runs[0] if "/tls" in option or "ssl" in option]


def test_no_copy_of_the_key_stays_when_it_does_not_start(
    on_cpu: Path, one_way: ServerTls, fake: Fake, temporary: Path
) -> None:
    fake(run_fails=("docker: exec: tritonserver: not found", 127))
    assert isinstance(failure_of(DockerServer(on_cpu, tls=one_way)), DockerError)
    assert list(temporary.iterdir()) == []
    server = DockerServer(on_cpu, tls=one_way)
    one_way.key.unlink()
    error = failure_of(server)
    assert type(error) is ServerError
    assert error.got == "no such file or directory"
    assert list(temporary.iterdir()) == []


def test_a_temporary_folder_that_docker_cannot_mount(
    on_cpu: Path, one_way: ServerTls, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    (tmp_path / "a, b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a, b"))
    assert "a comma" in str(failure_of(DockerServer(on_cpu, tls=one_way)))
    assert list((tmp_path / "a, b").iterdir()) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.2"])
def test_with_tls_only_grpc_leaves_loopback(
    address: str, on_cpu: Path, one_way: ServerTls, fake: Fake
) -> None:
    docker = fake()
    with DockerServer(on_cpu, tls=one_way, address=address) as server:
        assert published(docker.runs[0]) == {"8001": address, "8000": "127.0.0.1", "8002": "127.0.0.1"}
        host = "127.0.0.1" if address == "0.0.0.0" else address
        assert server.grpc_url.startswith(f"grpcs://{host}:")
        assert server.http_url.startswith("http://127.0.0.1:")
        assert server.metrics_url.startswith("http://127.0.0.1:")
    with DockerServer(on_cpu, address=address):
        assert published(docker.runs[1]) == dict.fromkeys(("8000", "8001", "8002"), address)


def test_a_port_is_taken_where_it_is_published(on_cpu: Path, one_way: ServerTls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        DockerServer(on_cpu, tls=one_way, address="127.0.0.2", grpc_port=taken)
        for name in ("http", "metrics"):
            with pytest.raises(PortTaken, match=f"{name} port {taken}"):
                DockerServer(on_cpu, tls=one_way, address="127.0.0.2", **{f"{name}_port": taken})


def test_shared_memory(on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    with DockerServer(on_cpu, shared_memory=True):
        (run,) = docker.runs
        assert "--ipc=host" in run
        assert not [option for option in run if option.startswith("--shm-size")]
        assert triton_options(run, "client-shm") == ["--allow-client-shm=true"]
        for lock in triton_options(run, "restricted"):
            assert lock.endswith("=model-repository,logging,trace:alexnet:closed=closed")
        assert len(triton_options(run, "restricted")) == 2


def test_its_backends_leave_nothing_in_this_machines_shared_memory(on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    another = SHARED_MEMORY / f"alexnet_{secrets.token_hex(8)}_another"
    another.touch()
    try:
        with DockerServer(on_cpu, shared_memory=True):
            (option,) = triton_options(docker.runs[0], "shm-region-prefix-name")
            prefix = option.removeprefix("--backend-config=python,shm-region-prefix-name=")
            assert len(prefix) > 16
            region = SHARED_MEMORY / f"{prefix}region"
            region.touch()
        assert not region.exists()
        assert another.exists()
    finally:
        another.unlink()


def test_without_it_the_container_has_its_own(on_cpu: Path, fake: Fake) -> None:
    docker = fake()
    with DockerServer(on_cpu):
        (run,) = docker.runs
        assert "--shm-size=1g" in run
        assert not [option for option in run if "ipc" in option or "client-shm" in option]
        assert all("=shared-memory," in lock for lock in triton_options(run, "restricted"))


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1"])
def test_shared_memory_is_for_this_machine(address: str, on_cpu: Path, one_way: ServerTls) -> None:
    with pytest.raises(UsageError, match=f"the address {re.escape(address)}") as caught:
        DockerServer(on_cpu, shared_memory=True, address=address, tls=one_way)
    assert "127.0.0.1" in caught.value.next_step
    DockerServer(on_cpu, shared_memory=True, address="127.0.0.2")
    DockerServer(on_cpu, shared_memory=True, address="localhost")
