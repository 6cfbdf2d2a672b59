"""The Triton server inside the nvidia-pytriton wheel: where its parts are, and how it is called.

It is Triton 2.51 (24.10), with security bulletins open: it serves loopback only, loads nothing on request,
and keeps the interfaces that this project does not use behind a key that nobody is told. A server in a
container is told the same (`server_options`), but for the address.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import alexnet_model
from alexnet_model.errors import ServerError
from alexnet_model.extras import needs
from alexnet_model.files import link_or_copy

from ..repositories.model_entries import DECODER
from .tls import ServerTls, tls_options

OUR_BACKENDS = Path(__file__).parents[1] / "backends"
# What no client of ours needs. Statistics are for benchmarks, model configuration for the contract.
RESTRICTED = ("shared-memory", "model-repository", "logging", "trace")
SHARED_MEMORY = RESTRICTED[0]  # what is open where it was asked for
EXIT_TIMEOUT_S = 15
SHM_BYTES = 16 * 1024 * 1024  # a model
SHM_OPTION = f"--backend-config=python,shm-default-byte-size={SHM_BYTES}"
# Keep freed memory instead of handing it back and faulting it in again for every request of megabytes.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024 * 1024), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024)}


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The parts of the wheel's server that one Python version needs."""

    binary: Path
    libraries: Path
    python_backend: Path
    stub: Path
    libpython_folder: Path


def wheel_of_this_python() -> Wheel:
    """Find the server.

    Raises:
        MissingExtra: the [embedded] extra is not installed.
        ServerError: the wheel has no stub for this Python, or this Python has no shared library.
    """
    with needs("embedded"):
        spec = importlib.util.find_spec("pytriton")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name="pytriton")
    entry = Path(spec.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = Wheel(
        binary=entry / "tritonserver" / "bin" / "tritonserver",
        libraries=entry.parent / "nvidia_pytriton.libs",
        python_backend=entry / "tritonserver" / "backends" / "python",
        stub=entry / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub",
        libpython_folder=libpython_of_this_python().parent,
    )
    for part in (wheel.binary, wheel.stub, libpython_of_this_python()):
        if not part.exists():
            raise ServerError(
                str(part),
                got="no such file",
                expected=f"a part of the embedded server for Python {version}",
                next_step=f"Install Python's shared library (Debian and Ubuntu: libpython{version}), "
                "or use a Python that was built with --enable-shared.",
            )
    return wheel


def libpython_of_this_python() -> Path:
    """Where this Python's shared library is, if it has one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Path(str(sysconfig.get_config_var("LIBDIR"))) / f"libpython{version}.so.1.0"


def assemble_backends(wheel: Wheel, folder: Path) -> None:
    """Fill a backend directory: the wheel's python backend with its stub, and ours, which run on it.

    The one that decodes gets this distribution's own decoding beside it, whatever Python runs the stub.
    """
    python = folder / "python"
    python.mkdir(parents=True)
    for part in (*wheel.python_backend.glob("*.so"), *wheel.python_backend.glob("*.py"), wheel.stub):
        link_or_copy(part, python / part.name)  # Triton refuses a symbolic link as an escape
    for model in OUR_BACKENDS.glob("*/model.py"):
        backend = folder / model.parent.name
        backend.mkdir()
        link_or_copy(model, backend / model.name)
        if backend.name != DECODER:
            link_or_copy(OUR_BACKENDS / "batching.py", backend / "batching.py")
            continue
        entry = backend / alexnet_model.__name__
        entry.mkdir()
        for module in Path(alexnet_model.__file__).parent.glob("*.py"):
            link_or_copy(module, entry / module.name)


def environment_of(wheel: Wheel) -> dict[str, str]:
    """This process's environment, in which the stub finds this Python and its entries."""
    environment = {**ALLOCATOR, **os.environ}
    libraries = [str(wheel.libraries), str(wheel.libpython_folder), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    return environment


def command_of(
    wheel: Wheel,
    *,
    backends: Path,
    repository: Path,
    address: str,
    ports: dict[str, int],
    shm_prefix: str,
    tls: ServerTls | None = None,
    shared_memory: bool = False,
) -> list[str]:
    """The server's command line. Its two folders go through a shell inside Triton, so they must be plain.

    Raises:
        ServerError: a path holds what a shell could read otherwise.
    """
    for path in (backends, repository):
        if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(path)):
            raise ServerError(
                f"temporary folder {path.parent}",
                got="a name that is unsafe to pass to Triton",
                expected="letters, digits, '_', '.', '-' and '/' only",
                next_step="Set TMPDIR to another folder.",
            )
    return [
        str(wheel.binary),
        *server_options(str(repository), tls=tls, shared_memory=shared_memory),
        f"--backend-directory={backends}",
        shm_prefix_option(shm_prefix),
        SHM_OPTION,
        f"--grpc-address={address}",
        f"--grpc-port={ports['grpc']}",
        f"--http-address={address}",
        f"--http-port={ports['http']}",
        f"--metrics-address={address}",
        f"--metrics-port={ports['metrics']}",
        "--allow-gpu-metrics=false",
        "--allow-cpu-metrics=false",  # whoever stops the server would wait for their thread's next look
    ]


def shm_prefix_option(prefix: str) -> str:
    """By which the shared memory of a server's backends is told from everybody else's."""
    return f"--backend-config=python,shm-region-prefix-name={prefix}"


def server_options(
    repository: str, *, tls: ServerTls | None = None, shared_memory: bool = False
) -> list[str]:
    """What every server of ours is told, here or in a container: all models or none, and no spare doors."""
    locked = [name for name in RESTRICTED if not (shared_memory and name == SHARED_MEMORY)]
    lock = f"{','.join(locked)}:alexnet={secrets.token_hex(16)}"
    return [
        f"--model-repository={repository}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-restricted-protocol={lock}",
        f"--http-restricted-api={lock}",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        *(tls_options(tls) if tls is not None else []),
    ]
