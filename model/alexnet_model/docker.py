"""Run the `docker` command line without a shell, and translate its errors.

Engine builds and servers both use Docker through this module. It uses the command line and no SDK, because
that finds the Docker engine as the user's terminal does. Rootless and remote engines are not supported
(docs/decisions/docker.md).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import DockerError, PortTaken, UsageError, os_error_reason
from .triton_image import BUILD_CPU_IMAGE, CPU_IMAGE, MINIMUM_DRIVER, TRITON_IMAGE, release_of_tag

PROGRAM = "docker"
QUERY_TIMEOUT_S = 30.0
# The restrictions of every container of this project.
CONFINED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:rw,nosuid,nodev,size=1g",
)
INSTALL_TOOLKIT = (
    "sudo apt-get install nvidia-container-toolkit && "
    "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
)


def ask(*arguments: str, timeout_s: float = QUERY_TIMEOUT_S) -> str:
    """Run `docker ARGUMENTS` and return its standard output.

    Args:
        arguments: The command and its options.
        timeout_s: How long it may take.

    Raises:
        DockerError: Docker is not installed, did not end in time, or failed.
        PortTaken: a port to publish is taken.
    """
    try:
        done = subprocess.run(
            [PROGRAM, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise no_docker() from error
    except OSError as error:
        raise DockerError(PROGRAM, got=os_error_reason(error), expected="a program that runs") from error
    except subprocess.TimeoutExpired as error:
        raise DockerError(
            f"docker {arguments[0]}",
            got=f"no output in {timeout_s:g} s",
            expected="a running Docker engine",
            next_step="See what hangs: docker info",
        ) from error
    if done.returncode:
        raise error_from_output(f"docker {arguments[0]}", done.stderr or done.stdout, done.returncode)
    return done.stdout


def check_docker() -> str:
    """Return the version of the Docker engine.

    Raises:
        DockerError: this user reaches no engine.
    """
    return ask("version", "--format", "{{.Server.Version}}").strip()


def digest_of_image(image: str) -> str | None:
    """Return an image's digest, such as `nvcr.io/nvidia/tritonserver@sha256:...`; its id if it was built
    here.

    Raises:
        DockerError: there is no engine, or the image is not on this machine.
    """
    found = _inspected(image)
    digests = found.get("RepoDigests") or [found.get("Id")]
    return str(digests[0]) if digests[0] else None


def tensorrt_of_image(image: str) -> str:
    """Return the TensorRT version that an image declares.

    Raises:
        DockerError: there is no engine, the image is not on this machine, or it declares no version.
    """
    found = re.match(r"\d+(\.\d+)+", _variables_of(image).get("TRT_VERSION", ""))
    if found:
        return found[0]
    raise DockerError(
        f"image {image}",
        got="no TRT_VERSION among its variables",
        expected="one of NVIDIA's Triton images",
        next_step=f"Use {TRITON_IMAGE}.",
    )


def tensorrt_of_image_here(image: str) -> str | None:
    """Return the TensorRT version of an image on this machine; None if no engine or image here tells it."""
    try:
        return tensorrt_of_image(image)
    except DockerError:
        return None


def release_of_image(image: str) -> str | None:
    """Return the Triton release of an image, such as `26.11`: the one it declares, or that of its tag.

    None if it is not on this machine or declares none, and its tag has none either.
    """
    try:
        declared = _variables_of(image).get("NVIDIA_TRITON_SERVER_VERSION", "")
    except DockerError:
        declared = ""
    found = re.match(r"\d\d\.\d\d", declared)
    return found[0] if found else release_of_tag(image)


def known_release_of_image(image: str) -> str:
    """Return the Triton release of an image that a user named, such as `26.07`.

    Raises:
        UsageError: it is not known here.
    """
    release = release_of_image(image)
    if release is None:
        raise UsageError(
            "image",
            got=f"{image}, whose Triton release is not known here",
            expected="a release in its tag, such as 26.11-py3, or an image on this machine that declares it",
            next_step=f"Pull it: docker pull {image}",
        )
    return release


def mount(source: Path, target: str, *, read_only: bool = True) -> str:
    """Return the `docker run` option that mounts a folder of this machine.

    Args:
        source: The folder.
        target: Its path inside the container.
        read_only: Whether the container may not write to it.

    Raises:
        DockerError: the path has a comma or a quote, which `--mount` does not support.
    """
    path = str(source.resolve())
    if re.search(r"[,\"\n]", path):
        raise DockerError(
            str(source),
            got="a comma or a quote in its path",
            expected="a path that Docker can mount",
            next_step="Rename the folder.",
        )
    return f"--mount=type=bind,source={path},target={target}{',readonly' if read_only else ''}"


def no_docker() -> DockerError:
    """Return the error for a machine without the `docker` program."""
    return DockerError(
        PROGRAM,
        got="no such program",
        expected="Docker Engine",
        next_step="Install it: https://docs.docker.com/engine/install/",
    )


def error_from_output(subject: str, output: str, code: int) -> DockerError | PortTaken:
    """Return what Docker printed as an error with the command that fixes it.

    Args:
        subject: The command that failed, such as `docker run`.
        output: What it printed.
        code: Its exit code.
    """
    for known in _KNOWN:
        pattern, expected, next_step = known
        if found := re.search(pattern, output, re.IGNORECASE):
            subject = "Docker" if known in _NO_ENGINE else subject
            groups = found.groupdict()
            next_step = next_step.format(**{name: value or "" for name, value in groups.items()})
            kind = PortTaken if "port" in groups else DockerError
            return kind(
                subject, got=_line_with(output, found.start()), expected=expected, next_step=next_step
            )
    said = [line for line in output.splitlines() if line.strip() and not _TO_HELP.search(line)]
    return DockerError(
        subject,
        got=(_plain(said[-1]) if said else "nothing printed") + f" (exit code {code})",
        expected="success",
        next_step="Check this machine: alexnet doctor",
    )


# The last line that Docker prints, which says nothing about the problem.
_TO_HELP = re.compile(r"^(?:See|Run) 'docker .*--help'")
# (pattern of Docker's message, what was expected, the next step)
_NO_ENGINE: Sequence[tuple[str, str, str]] = (  # for every command
    (
        r"permission denied while trying to connect|dial unix .*permission denied",
        "a user who may use Docker",
        "Run: sudo usermod -aG docker $USER, and log in again.",
    ),
    (
        r"cannot connect to the docker daemon|is the docker daemon running"
        r"|failed to connect to the docker api",
        "a running Docker engine",
        "Start it: sudo systemctl start docker",
    ),
)
# The first pattern that matches counts.
_KNOWN: Sequence[tuple[str, str, str]] = (
    *_NO_ENGINE,
    (
        r"error setting rlimit",
        "a Docker engine that may lift a container's limits",
        "A rootless engine cannot; use a rootful one: docker context use default",
    ),
    (
        r"nvidia-container-cli: requirement error|unsatisfied condition: cuda",
        f"driver {MINIMUM_DRIVER} or newer",
        "See the driver's version: alexnet doctor",
    ),
    (
        # The toolkit is installed and found no working driver.
        r"nvidia-container-cli: (?:initialization|detection) error|nvml error: driver",
        "a working NVIDIA driver",
        "See its error: nvidia-smi",
    ),
    (
        r"could not select device driver|unknown or invalid runtime name: nvidia|nvidia-container-cli"
        r"|nvidia-container-runtime|unresolvable CDI devices|failed to discover GPU vendor",
        "a Docker engine that can give a container the GPU",
        f"Install NVIDIA's toolkit: {INSTALL_TOOLKIT}",
    ),
    (
        rf"(?:no such image|unable to find image|image not found).*?{re.escape(CPU_IMAGE)}",
        "the image with this project's backends",
        f"Build it, in the source tree: {BUILD_CPU_IMAGE}",
    ),
    (
        r"(?:no such image|unable to find image|no such object):? *'?(?P<image>[\w./:@-]*[\w])",
        "an image that is on this machine",
        "Pull it: docker pull {image}",
    ),
    (
        r"(?:Bind for |listen tcp\d? |failed to bind host port (?:for )?)"
        r"(?:\[[^\]]*\]|[\d.]+):(?P<port>\d+)\b"
        r".*(?:port is already allocated|address already in use)",
        "a free port",
        "Stop the process on port {port}, or use another port.",
    ),
    (
        r"cannot assign requested address",
        "an address of this machine",
        "List its addresses: ip -brief address",
    ),
    (
        r"bind source path does not exist|mounts denied",
        "a folder of the machine that Docker's engine runs on",
        "See which engine is used: docker context ls",
    ),
    (
        r"context not found",
        "an existing Docker context",
        "List the contexts: docker context ls",
    ),
    (
        r"no space left on device",
        "space on Docker's disk",
        "See what uses it: docker system df",
    ),
)


def _line_with(output: str, position: int) -> str:
    start = output.rfind("\n", 0, position) + 1
    return _plain(output[start:].partition("\n")[0])


def _plain(line: str) -> str:
    said = line.strip().removeprefix("docker: ")
    return said.removeprefix("Error response from daemon: ").removeprefix("Error: ").rstrip(".")


def _variables_of(image: str) -> dict[str, str]:
    """Return the environment variables that an image declares."""
    entries = (_inspected(image).get("Config") or {}).get("Env") or []
    return dict(str(entry).partition("=")[::2] for entry in entries)


def _inspected(image: str) -> dict[str, Any]:
    output = ask("image", "inspect", image)
    try:
        (found,) = json.loads(output)
        return dict(found)
    except (TypeError, ValueError) as error:
        raise DockerError(
            f"image {image}", got=f"{output[:60]!r} from docker image inspect", expected="one image in JSON"
        ) from error
