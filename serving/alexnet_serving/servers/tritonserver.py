"""The command line of `tritonserver`, and the server inside the nvidia-pytriton wheel.

The wheel has Triton 2.51 (24.10), which has published security bulletins: it serves loopback only, loads no
model on request, and closes the interfaces that this project does not use. A server in a container gets the
same options (`server_options`), except for the address.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import alexnet_model
from alexnet_model.errors import RuntimeNotUsable, ServerError
from alexnet_model.extras import needs
from alexnet_model.files import link_or_copy
from alexnet_model.runtimes import Runtime, runtimes

from ..repositories.layout import DECODER
from .tls import ServerTls, tls_options
from .tracing import ServerTrace, trace_options

OUR_BACKENDS = Path(__file__).parents[1] / "backends"
# Interfaces that this project's clients do not use; they do read statistics and model configurations.
RESTRICTED = ("shared-memory", "model-repository", "logging", "trace")
SHARED_MEMORY = RESTRICTED[0]  # open if the user enables it
# Triton opens them to requests with a header of this name and value. A secret would be on the command line,
# which every user of the machine can read. No request can have this header: the name has a colon.
NO_HEADER = "alexnet:closed=closed"
EXIT_TIMEOUT_S = 15
# Keep freed memory instead of returning it and faulting it in again for every request of megabytes.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024 * 1024), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024)}


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The parts of the wheel's server that this Python version needs.

    Attributes:
        binary: The program `tritonserver`.
        libraries: The folder of its shared libraries.
        python_backend: The folder of Triton's Python backend.
        stub: The program that runs a Python-based backend with this Python version.
        libpython_folder: The folder of this Python's shared library.
    """

    binary: Path
    libraries: Path
    python_backend: Path
    stub: Path
    libpython_folder: Path


def wheel_of_this_python() -> Wheel:
    """Find the server inside the installed wheel.

    Raises:
        MissingExtra: the [embedded] extra is not installed.
        ServerError: the wheel has no stub for this Python, or this Python has no shared library.
    """
    with needs("embedded"):
        spec = importlib.util.find_spec("pytriton")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name="pytriton")
    package = Path(spec.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = Wheel(
        binary=package / "tritonserver" / "bin" / "tritonserver",
        libraries=package.parent / "nvidia_pytriton.libs",
        python_backend=package / "tritonserver" / "backends" / "python",
        stub=package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub",
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
    """Return the path where this Python's shared library would be, whether it exists or not."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Path(str(sysconfig.get_config_var("LIBDIR"))) / f"libpython{version}.so.1.0"


def assemble_backends(wheel: Wheel, folder: Path) -> None:
    """Fill a new backend directory: the wheel's Python backend, and every backend that runs on it.

    These are the Python-based backends of all registered runtimes, each with `batching.py` beside it, and the
    image decoder with this distribution's `alexnet_model` beside it.

    Args:
        wheel: The server.
        folder: The directory, which must not exist yet.

    Raises:
        RuntimeNotUsable: the backend package of a registered runtime cannot be imported.
        OSError: a file cannot be linked or copied.
    """
    python = folder / "python"
    python.mkdir(parents=True)
    for part in (*wheel.python_backend.glob("*.so"), *wheel.python_backend.glob("*.py"), wheel.stub):
        link_or_copy(part, python / part.name)  # Triton refuses a symbolic link as an escape
    for runtime in runtimes():
        source = _backend_folder(runtime)
        if runtime.backend is not None and source is not None:
            backend = folder / runtime.backend
            _link_backend(source, backend)
            if not (backend / "batching.py").exists():
                link_or_copy(OUR_BACKENDS / "batching.py", backend / "batching.py")
    _link_backend(OUR_BACKENDS / DECODER, folder / DECODER)
    package = folder / DECODER / alexnet_model.__name__
    package.mkdir()
    for module in Path(alexnet_model.__file__).parent.glob("*.py"):
        link_or_copy(module, package / module.name)


def _backend_folder(runtime: Runtime) -> Path | None:
    try:
        return runtime.backend_folder
    except ImportError as error:
        raise RuntimeNotUsable(
            f"runtime {runtime.name}",
            got=f"{type(error).__name__}: {error}",
            expected=f"a package {runtime.backend_package} with its backend",
            next_step="Repair or uninstall the distribution that registers it.",
        ) from error


def _link_backend(source: Path, backend: Path) -> None:
    """Link the Python files of a backend package into a new folder, where they are top-level modules."""
    backend.mkdir()
    for module in source.glob("*.py"):
        if module.name != "__init__.py":
            link_or_copy(module, backend / module.name)


def environment_of(wheel: Wheel) -> dict[str, str]:
    """Return this process's environment, changed so that the stub finds this Python and its packages."""
    environment = {**ALLOCATOR, **os.environ}
    libraries = [str(wheel.libraries), str(wheel.libpython_folder), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    return environment


def shm_prefix_option(prefix: str) -> str:
    """Return the option that starts the names of the backends' regions in /dev/shm with `prefix`."""
    return f"--backend-config=python,shm-region-prefix-name={prefix}"


def load_options(models: Iterable[str]) -> list[str]:
    """Return the options that load these models and nothing else.

    By itself Triton takes every folder for a model, also hidden ones and a volume's `lost+found`, and ends.
    """
    return [f"--load-model={name}" for name in models]


def shm_size_option(size_bytes: int) -> str:
    """Return the option that makes each of the backends' regions this large at the start."""
    return f"--backend-config=python,shm-default-byte-size={size_bytes}"


def server_options(
    repository: str | Path,
    *,
    tls: ServerTls | None = None,
    shared_memory: bool = False,
    trace: ServerTrace | None = None,
) -> list[str]:
    """Return the options of every server, embedded or in a container: its models load, or it ends.

    Args:
        repository: The path of the model repository as the server sees it.
        tls: Certificate and key of the gRPC port, or None.
        shared_memory: Whether clients may use Triton's shared-memory interface.
        trace: Where spans of requests are sent, or None.
    """
    locked = [name for name in RESTRICTED if not (shared_memory and name == SHARED_MEMORY)]
    lock = f"{','.join(locked)}:{NO_HEADER}"
    return [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",  # see `load_options`
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-restricted-protocol={lock}",
        f"--http-restricted-api={lock}",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        *(tls_options(tls) if tls is not None else []),
        *(trace_options(trace) if trace is not None else []),
    ]
