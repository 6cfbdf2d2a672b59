"""The `docker` command line: the calls, and the errors made from Docker's messages."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from alexnet_model import docker
from alexnet_model.errors import DockerError, PortTaken
from alexnet_model.triton_image import (
    BUILD_CPU_IMAGE,
    CPU_IMAGE,
    MINIMUM_DRIVER,
    TRITON_IMAGE,
    TRITON_RELEASE,
    queue_timeout_decays,
)

from ..stand_ins.docker import (
    HELP,
    NO_ENGINE,
    NO_GPU_RUNTIME,
    NO_GPU_VENDOR,
    NO_PERMISSION,
    fake_docker,
    image_is_missing,
    no_docker,
    port_is_allocated,
)
from ..stand_ins.programs import install

OCI = (
    "docker: Error response from daemon: failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: unable to start container process: error during "
    "container init: error running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as "
    "'legacy'\n"
)
NETWORKING = (
    "docker: Error response from daemon: failed to set up container networking: driver failed programming "
    f"external connectivity on endpoint alexnet ({'3' * 64}): "
)
TOOLKIT = "a Docker engine that can give a container the GPU"
DRIVER = "a working NVIDIA driver"
USER = "a user who may use Docker"
ENGINE = "a running Docker engine"
IMAGE = "an image that is on this machine"

# (what Docker printed, what was expected, in the next step, what was got)
SAID = [
    (NO_PERMISSION[0], USER, "usermod -aG docker", "permission denied while trying"),
    (
        "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
        USER,
        "usermod -aG docker",
        "permission denied while trying",
    ),
    (NO_ENGINE[0], ENGINE, "systemctl start docker", "Cannot connect to the Docker daemon"),
    (
        "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct "
        "and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory",
        ENGINE,
        "systemctl start docker",
        "failed to connect to the docker API",
    ),
    (
        "docker: Error response from daemon: failed to create task for container: failed to create shim "
        "task: OCI runtime create failed: runc create failed: unable to start container process: error "
        "during container init: error setting rlimits for ready process: error setting rlimit type 8: "
        "operation not permitted" + HELP,
        "a Docker engine that may lift a container's limits",
        "use a rootful one",
        "failed to create task for container",
    ),
    (
        OCI
        + "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.3, please update your "
        "driver to a newer version, or use an earlier cuda container" + HELP,
        f"driver {MINIMUM_DRIVER} or newer",
        "alexnet doctor",
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.3",
    ),
    (
        OCI + "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot "
        "open shared object file: no such file or directory: unknown" + HELP,
        DRIVER,
        "nvidia-smi",
        "nvidia-container-cli: initialization error: load library failed",
    ),
    (
        OCI + "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown" + HELP,
        DRIVER,
        "nvidia-smi",
        "nvidia-container-cli: initialization error: nvml error",
    ),
    (
        OCI + "nvidia-container-cli: detection error: nvml error: unknown error: unknown" + HELP,
        DRIVER,
        "nvidia-smi",
        "nvidia-container-cli: detection error",
    ),
    (NO_GPU_RUNTIME[0], TOOLKIT, docker.INSTALL_TOOLKIT, "could not select device driver"),
    (
        'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu]]',
        TOOLKIT,
        docker.INSTALL_TOOLKIT,
        'could not select device driver "nvidia"',
    ),
    (NO_GPU_VENDOR[0], TOOLKIT, docker.INSTALL_TOOLKIT, "failed to discover GPU vendor from CDI"),
    (
        "docker: Error response from daemon: unknown or invalid runtime name: nvidia." + HELP,
        TOOLKIT,
        docker.INSTALL_TOOLKIT,
        "unknown or invalid runtime name: nvidia",
    ),
    (
        "docker: Error response from daemon: CDI device injection failed: unresolvable CDI devices "
        "nvidia.com/gpu=all" + HELP,
        TOOLKIT,
        docker.INSTALL_TOOLKIT,
        "CDI device injection failed",
    ),
    (
        OCI + "nvidia-container-cli: ldcache error: process /sbin/ldconfig failed with error code: 1" + HELP,
        TOOLKIT,
        docker.INSTALL_TOOLKIT,
        "nvidia-container-cli: ldcache error",
    ),
    (
        'docker: Error response from daemon: failed to create task for container: exec: "nvidia-container-'
        'runtime": executable file not found in $PATH' + HELP,
        TOOLKIT,
        docker.INSTALL_TOOLKIT,
        "failed to create task for container",
    ),
    (
        image_is_missing(CPU_IMAGE)[0],
        "the image with this project's backends",
        BUILD_CPU_IMAGE,
        f"No such image: {CPU_IMAGE}",
    ),
    (image_is_missing(TRITON_IMAGE)[0], IMAGE, f"docker pull {TRITON_IMAGE}", "No such image: nvcr.io"),
    (
        f"[]\nError response from daemon: No such image: {TRITON_IMAGE}",
        IMAGE,
        f"docker pull {TRITON_IMAGE}",
        "No such image: nvcr.io",
    ),
    (
        f"Unable to find image '{TRITON_IMAGE}' locally",
        IMAGE,
        f"docker pull {TRITON_IMAGE}",
        "Unable to find image",
    ),
    ("Error: No such object: mine:1", IMAGE, "docker pull mine:1", "No such object: mine:1"),
    ("Error: no such object: mine:1.", IMAGE, "docker pull mine:1", "no such object: mine:1"),
    (
        "docker: Error response from daemon: No such image: mine@sha256:" + "4" * 64 + "." + HELP,
        IMAGE,
        "docker pull mine@sha256:" + "4" * 64,
        "No such image: mine@",
    ),
    (
        'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not '
        "exist: /home/me/models." + HELP,
        "a folder of the machine that Docker's engine runs on",
        "docker context ls",
        "invalid mount config",
    ),
    (
        "docker: Error response from daemon: Mounts denied: \nThe path /home/me/models is not shared from "
        "the host and is not known to Docker." + HELP,
        "a folder of the machine that Docker's engine runs on",
        "docker context ls",
        "Mounts denied:",
    ),
    (
        NETWORKING
        + "Error starting userland proxy: listen tcp4 10.0.0.9:8001: bind: cannot assign requested "
        "address." + HELP,
        "an address of this machine",
        "ip -brief address",
        "failed to set up container networking",
    ),
    (
        'Failed to initialize: unable to resolve docker endpoint: context "far": context not found: open '
        "/home/me/.docker/contexts/meta/5/meta.json: no such file or directory",
        "an existing Docker context",
        "docker context ls",
        "Failed to initialize: unable to resolve docker endpoint",
    ),
    (
        "docker: Error response from daemon: mkdir /var/lib/docker/overlay2/6-init: no space left on device."
        + HELP,
        "space on Docker's disk",
        "docker system df",
        "mkdir /var/lib/docker",
    ),
]

PORTS = [
    port_is_allocated(8001)[0],
    "docker: Error response from daemon: driver failed programming external connectivity on endpoint alexnet "
    f"({'3' * 64}): Bind for 0.0.0.0:8001 failed: port is already allocated." + HELP,
    NETWORKING
    + "Error starting userland proxy: listen tcp4 127.0.0.1:8001: bind: address already in use."
    + HELP,
    NETWORKING + "Error starting userland proxy: listen tcp6 [::1]:8001: bind: address already in use" + HELP,
    NETWORKING
    + "failed to bind host port for 0.0.0.0:8001:172.17.0.2:8000/tcp: address already in use"
    + HELP,
    NETWORKING + "failed to bind host port 127.0.0.1:8001/tcp: address already in use" + HELP,
    NETWORKING + "failed to bind host port [::1]:8001/tcp: address already in use" + HELP,
]


@pytest.mark.parametrize(("said", "expected", "step", "got"), SAID)
def test_what_docker_says(said: str, expected: str, step: str, got: str) -> None:
    error = docker.error_from_output("docker run", said, 125)
    assert type(error) is DockerError
    # Without an engine, the error is about Docker and not about the command.
    subject = "Docker" if expected in (USER, ENGINE) else "docker run"
    assert (error.subject, error.expected) == (subject, expected)
    assert step in error.next_step
    assert error.got.startswith(got)
    assert "\n" not in str(error)


@pytest.mark.parametrize("said", PORTS)
def test_a_taken_port(said: str) -> None:
    error = docker.error_from_output("docker run", said, 125)
    assert type(error) is PortTaken
    assert error.next_step == "Stop the process on port 8001, or use another port."


def test_every_line_of_the_table_has_its_words() -> None:
    words = [*(said for said, *_ in SAID), *PORTS]
    known = [pattern for pattern, *_ in docker._KNOWN]
    first = [next(p for p in known if re.search(p, said, re.IGNORECASE)) for said in words]
    assert set(first) == set(known)


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ("", "nothing printed (exit code 125)"),
        ("docker: Error response from daemon: something new." + HELP, "something new (exit code 125)"),
        ("docker: something old.\nSee 'docker run --help'.\n", "something old (exit code 125)"),
        ("first\nlast", "last (exit code 125)"),
    ],
)
def test_what_is_not_known_is_shown(said: str, got: str) -> None:
    error = docker.error_from_output("docker run", said, 125)
    assert type(error) is DockerError
    assert error.got == got
    assert error.next_step == "Check this machine: alexnet doctor"


def test_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = fake_docker(monkeypatch, tmp_path, engine="29.1.3")
    assert docker.check_docker() == "29.1.3"
    assert docker.digest_of_image(TRITON_IMAGE) == f"nvcr.io/nvidia/tritonserver@sha256:{'1' * 64}"
    assert found.calls == [
        ["version", "--format", "{{.Server.Version}}"],
        ["image", "inspect", TRITON_IMAGE],
    ]


def test_an_image_that_was_built_here_has_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inspected = '[{"Id": "sha256:5", "RepoDigests": []}]'
    install(monkeypatch, tmp_path, "docker", f"echo '{inspected}'")
    assert docker.digest_of_image(CPU_IMAGE) == "sha256:5"


def test_tensorrt_of_an_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = partial(fake_docker, monkeypatch, tmp_path, images=[TRITON_IMAGE, "mine:1"])
    fake(tensorrt="11.4.0.106")  # followed by +cuda13.3.1.001 in the image
    assert docker.tensorrt_of_image(TRITON_IMAGE) == "11.4.0.106", "what an image says of itself counts"
    assert docker.tensorrt_of_image_here(TRITON_IMAGE) == "11.4.0.106"
    assert docker.tensorrt_of_image_here("absent:1") is None
    fake(tensorrt="")
    for image in (TRITON_IMAGE, "mine:1"):
        with pytest.raises(DockerError, match=f"no TRT_VERSION.*Use {re.escape(TRITON_IMAGE)}"):
            docker.tensorrt_of_image(image)
        assert docker.tensorrt_of_image_here(image) is None, "no version is assumed"
    with pytest.raises(DockerError, match=r"No such image: absent:1.*docker pull absent:1"):
        docker.tensorrt_of_image("absent:1")


def test_the_triton_release_of_an_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_docker(monkeypatch, tmp_path, images=["mine:26.11"], release="26.07")
    assert docker.release_of_image("mine:26.11") == "26.07", "what an image says of itself counts"
    assert docker.release_of_image("absent:26.05-py3") == "26.05"
    assert docker.release_of_image("localhost:5000/absent:1") is None
    fake_docker(monkeypatch, tmp_path, fails=NO_ENGINE)
    assert docker.release_of_image(TRITON_IMAGE) == TRITON_RELEASE
    assert docker.release_of_image(CPU_IMAGE) == TRITON_RELEASE


@pytest.mark.parametrize(
    ("release", "decays"), [("24.10", True), ("26.07", True), ("26.08", False), ("27.01", False)]
)
def test_releases_in_which_a_queue_timeout_lowers_throughput(release: str, decays: bool) -> None:
    assert queue_timeout_decays(release) is decays
    assert not queue_timeout_decays(TRITON_RELEASE), "or the image's own engines would get no timeout"


def test_an_engine_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_docker(monkeypatch, tmp_path, fails=NO_ENGINE)
    with pytest.raises(DockerError, match=r"Docker: got Cannot connect.*systemctl start docker"):
        docker.check_docker()


def test_what_was_printed_to_the_wrong_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "docker", "echo 'said to standard output'; exit 3")
    with pytest.raises(DockerError, match=r"got said to standard output \(exit code 3\)"):
        docker.check_docker()


def test_no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_docker(monkeypatch, tmp_path)
    with pytest.raises(DockerError, match=r"https://docs\.docker\.com/engine/install/"):
        docker.check_docker()


def test_a_docker_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_docker(monkeypatch, tmp_path)  # where one does not run, the next on PATH is tried
    install(monkeypatch, tmp_path, "docker", "").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(DockerError, match="exec format error"):
        docker.check_docker()


def test_a_docker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "docker", "exec sleep 600")
    with pytest.raises(DockerError, match=r"docker version: got no output in 0\.1 s.*docker info"):
        docker.ask("version", timeout_s=0.1)


def test_mount(tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    expected = f"--mount=type=bind,source={folder},target=/models"
    assert docker.mount(tmp_path / "link", "/models") == f"{expected},readonly"
    assert docker.mount(folder, "/models", read_only=False) == expected


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb"])
def test_a_path_that_mount_cannot_carry(name: str, tmp_path: Path) -> None:
    with pytest.raises(DockerError, match=r"a comma or a quote in its path.*Rename the folder\."):
        docker.mount(tmp_path / name, "/models")


def test_a_container_may_do_little() -> None:
    assert set(docker.CONFINED) == {
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--tmpfs=/tmp:rw,nosuid,nodev,size=1g",
    }
