"""The doctor's checks of Python, packages and the machine, and the commands that need them.

Packages are checked by their metadata: nothing is imported, so a base install can run these checks. What an
extra installs is read from this distribution's own metadata, which is built from pyproject.toml.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from alexnet_model.cxx_compiler import INSTALL as INSTALL_COMPILER
from alexnet_model.cxx_compiler import compiler_or_problem
from alexnet_model.errors import AlexnetError, MissingExtra, os_error_reason
from alexnet_model.records import Record
from alexnet_model.runtimes import BUILT_IN, Runtime, runtimes

from ..repositories.records import is_repository
from ..servers.backend_memory import SHM, free_shared_memory, memory_of_default_export, memory_of_repository
from ..servers.ports import resolve_ports
from ..servers.tritonserver import libpython_of_this_python, wheel_of_this_python

# The commands, as the user types them after `alexnet`.
TRAIN = "train"
EXPORT = "export"
BUILD_TENSORRT = "export --runtime tensorrt"
BUILD_IN_DOCKER = "export --runtime tensorrt --build docker"
SERVE_EMBEDDED = "serve --with embedded"
SERVE_IN_DOCKER = "serve --with docker"
CLASSIFY = "classify"
UI = "ui"
BENCH = "bench"
DOCKER_JOBS = (BUILD_IN_DOCKER, SERVE_IN_DOCKER)

DISTRIBUTION = "alexnet-serving"
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}  # the default ports of `serve`
ANY_PORTS = "alexnet serve --http-port 0 --grpc-port 0 --metrics-port 0"
# Three ONNX files of AlexNet and their engines; a new export is written completely before the old one is
# removed.
EXPORT_BYTES = 2_000_000_000
GLIBC_OF_THE_WHEEL = Version("2.35")  # nvidia-pytriton 0.7.0, manylinux_2_35_x86_64
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# A package that may be installed in the place of another one: it has the same modules.
INSTEAD_OF = {"onnxruntime": "onnxruntime-gpu"}
LEAD_WORDS = 4  # of a next step such as "Start it: sudo ..."

Status = Literal["ok", "missing", "warning"]


class Check(Record):
    """One thing that commands need.

    Attributes:
        name: What was checked.
        status: `missing` stops the commands in `needed_by`, `warning` does not. What cannot be checked before
            something else is fixed is a warning with an empty `fix`.
        found: What was found, in words.
        needed_by: The commands that need it.
        fix: The command that fixes it; empty if there is nothing to fix.
    """

    name: str
    status: Status
    found: str
    needed_by: tuple[str, ...]
    fix: str = ""


def judged(
    name: str,
    needed_by: tuple[str, ...],
    *,
    found: str = "",
    problem: str = "",
    fix: str = "",
    status: Status = "missing",
) -> Check:
    """Return a check: `ok` with `found`, or if there is a `problem`, `status` with it and the `fix`."""
    if not problem:
        return Check(name=name, status="ok", found=found, needed_by=needed_by)
    return Check(name=name, status=status, found=problem, needed_by=needed_by, fix=fix)


def jobs() -> tuple[str, ...]:
    """Return every command that the doctor judges."""
    return (TRAIN, *export_jobs(), SERVE_EMBEDDED, SERVE_IN_DOCKER, CLASSIFY, UI, BENCH)


def export_jobs() -> tuple[str, ...]:
    """Return the commands that export: ONNX files, and the engines of each registered runtime."""
    return (
        EXPORT,
        *(build_job(runtime) for runtime in runtimes() if runtime.bound_to_machine),
        BUILD_IN_DOCKER,
    )


def build_job(runtime: Runtime) -> str:
    """Return the command that builds engines of a runtime on this machine."""
    return f"export --runtime {runtime.name}"


def missing_checks(checks: Sequence[Check], *commands: str) -> list[Check]:
    """Return the failed checks that stop one of the commands."""
    return [
        check
        for check in checks
        if check.status == "missing" and not set(commands).isdisjoint(check.needed_by)
    ]


def extras() -> dict[str, tuple[str, ...]]:
    """Return each extra of this distribution with the commands that need it."""
    engines = {
        r.extra: (build_job(r),) for r in runtimes() if r.bound_to_machine and r.extra not in ("", "export")
    }
    return {
        "export": export_jobs(),
        "train": (TRAIN,),
        "embedded": (SERVE_EMBEDDED,),
        **engines,
        "bench": (BENCH,),
        "ui": (UI,),
    }


def fix_from(next_step: str) -> str:
    """Return the command in an error's next step, such as `sudo ...` in `Start it: sudo ...`."""
    lead, _, command = next_step.partition(": ")
    return command if command and len(lead.split()) <= LEAD_WORDS else next_step


def check_python() -> Check:
    """Check that this Python is one that the distribution supports."""
    version, supported = platform.python_version(), _metadata()["Requires-Python"]
    problem = "" if fits(version, supported) else f"{version}, needs {supported}"
    fix = "sudo apt-get install python3.11 python3.11-venv"
    return judged("Python", jobs(), found=version, problem=problem, fix=fix)


def check_base() -> Check:
    """Check the packages of the base install."""
    return _check_packages("base install", requirements_of(""), jobs(), f"pip install {DISTRIBUTION}")


def check_extra(extra: str, *, has_gpu: bool = True) -> Check:
    """Check the packages of an extra.

    An extra that includes [export] is checked for its other packages only: [export] has a check of its own.
    Without a GPU, the fix takes PyTorch from the index of its builds without CUDA: several GB less.
    """
    required = requirements_of(extra)
    of_export = {requirement.name for requirement in requirements_of("export")}
    if extra != "export" and of_export <= {requirement.name for requirement in required}:
        required = [requirement for requirement in required if requirement.name not in of_export]
    fix = f"pip install '{DISTRIBUTION}[{extra}]'"
    if not has_gpu and any(requirement.name == "torch" for requirement in required):
        fix += f" --extra-index-url {PYTORCH_CPU_INDEX}"
    return _check_packages(f"[{extra}]", required, extras()[extra], fix)


def check_other_runtimes() -> tuple[Check, ...]:
    """List the runtimes that other distributions register; empty if there are none.

    Raises:
        RuntimeNotUsable: one of them does not load.
    """
    names = [runtime.name for runtime in runtimes() if runtime not in BUILT_IN]
    return (judged("other runtimes", export_jobs(), found=", ".join(names)),) if names else ()


def check_tensorrt(image_version: str | None) -> Check:
    """Check whether Triton's image would load the engines that the installed TensorRT builds.

    Args:
        image_version: The TensorRT version of Triton's image; None if that is unknown.
    """
    libraries = [r.name for r in BUILT_IN if r.bound_to_machine and not r.loads_in_python]
    installed = {name: version for name in libraries if (version := version_of(name))}
    found = ", ".join(f"{name} {version}" for name, version in installed.items()) or "none installed"
    found += f"; Triton's image has {image_version or 'an unknown version, because it is not here'}"
    builder = installed.get("tensorrt")
    problem, fix = "", ""
    if builder is not None and image_version is None:
        problem = f"{found}, so engines built here may not load"
    elif builder is not None and Version(builder) != Version(str(image_version)):
        problem = f"{found} and loads no engine of another version"
        fix = f"pip install tensorrt=={image_version}"
    needed_by = (BUILD_TENSORRT, SERVE_IN_DOCKER)
    return judged("TensorRT", needed_by, found=found, problem=problem, fix=fix, status="warning")


def missing_onnxruntime_gpu() -> str:
    """Return which package ONNX Runtime lacks to compute on a GPU; empty if it lacks none."""
    if version_of("onnxruntime-gpu") is None:
        return "onnxruntime-gpu"
    if version_of("onnxruntime") is not None:
        return "onnxruntime-gpu alone: onnxruntime has the same files and no CUDA"
    return ""


def pytorch_lacks_cuda() -> bool:
    """Return whether the installed PyTorch is a build for CPUs, by its version's suffix."""
    return (version_of("torch") or "").endswith("+cpu")


def check_pytorch(*, has_gpu: bool) -> Check:
    """Check that PyTorch is no CUDA build on a machine without a GPU, where 6 GB of it are never used."""
    version = version_of("torch")
    required = metadata.requires("torch") or [] if version else []
    problem, fix = "", ""
    if not has_gpu and any(name.startswith(("nvidia-", "cuda-")) for name in required):
        problem = f"{version}, a CUDA build, and this machine has no GPU"
        fix = f"pip install --force-reinstall torch=={version} --index-url {PYTORCH_CPU_INDEX}"
    return judged(
        "PyTorch",
        (TRAIN, EXPORT),
        found=version or "not installed",
        problem=problem,
        fix=fix,
        status="warning",
    )


def check_compiler() -> Check:
    """Check that a C++ compiler compiles a small program, since AOTInductor compiles with it."""
    needed_by = tuple(build_job(r) for r in runtimes() if r.loads_in_python)
    found, problem = compiler_or_problem()
    return judged("C++ compiler", needed_by, found=found, problem=problem, fix=INSTALL_COMPILER)


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements_of(extra: str) -> list[Requirement]:
    """Return the packages that an extra adds to the base install; those of the base install for an empty
    name.

    Raises:
        AlexnetError: this distribution's files are here and its metadata is not.
    """
    required = [Requirement(line) for line in _metadata().get_all("Requires-Dist") or []]
    base = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return base
    return [r for r in required if r not in base and r.marker and r.marker.evaluate({"extra": extra})]


def fits(version: str, versions: str) -> bool:
    """Return whether a version such as `1.26.4` is in a set such as `>=1.26,<2`."""
    return SpecifierSet(versions).contains(version, prereleases=True)


def check_glibc() -> Check:
    """Check the C library: the embedded server is built for x86-64 and a minimum version of glibc."""
    library, version = platform.libc_ver()
    needed = _glibc_of_the_wheel()
    is_new_enough = library == "glibc" and Version(version) >= needed
    runs = is_new_enough and platform.machine() == "x86_64"
    found = f"{library or 'no glibc'} {version}".strip() + f" on {platform.machine()}"
    fix = "alexnet serve --with docker  # or Ubuntu 22.04, Debian 12 or later on x86-64"
    problem = "" if runs else f"{found}, needs {needed} on x86_64"
    return judged("glibc", (SERVE_EMBEDDED,), found=found, problem=problem, fix=fix)


def check_libpython() -> Check:
    """Check this Python's shared library: the embedded server runs its Python backends with it."""
    library = libpython_of_this_python()
    problem = "" if library.exists() else f"no {library}"
    fix = _libpython_fix(library)
    return judged("libpython", (SERVE_EMBEDDED,), found=str(library), problem=problem, fix=fix)


def check_embedded_triton() -> Check:
    """Check the embedded server's program and its stub for this version of Python."""
    status: Status = "warning"
    problem, fix = "", ""
    try:
        wheel_of_this_python()
    except MissingExtra:
        problem = "not checked: [embedded] is not installed"
    except AlexnetError as error:
        if error.subject == str(libpython_of_this_python()):
            problem = "not checked: libpython is missing"
        else:
            status, problem = "missing", f"no {error.subject}"
            fix = "pip install --force-reinstall 'alexnet-serving[embedded]'"
    found = f"its server, with a stub for Python {sys.version_info.major}.{sys.version_info.minor}"
    name = "Triton for this Python"
    return judged(name, (SERVE_EMBEDDED,), found=found, problem=problem, fix=fix, status=status)


def check_shared_memory(repository: Path) -> Check:
    """Check the free shared memory, through which the embedded server passes images to its models.

    Args:
        repository: The repository. Before it is written, an export with the default options is assumed.
    """
    memory = memory_of_default_export()
    # An unreadable repository and a missing client are found by other checks.
    with contextlib.suppress(OSError, ImportError):
        memory = memory_of_repository(repository) if is_repository(repository) else memory
    found = f"{_size_text(free_shared_memory())} free"
    problem = "" if memory.fits else f"{found}, needs {memory.text}"
    return judged(str(SHM), (SERVE_EMBEDDED,), found=found, problem=problem, fix=memory.fix)


def check_ports() -> Check:
    """Check the default ports. A taken one is a warning: any other port can be used."""
    taken: list[str] = []
    for name, port in PORTS.items():
        try:
            resolve_ports({name: "127.0.0.1"}, {name: port})
        except AlexnetError:
            taken.append(f"{port} ({name})")
    name = f"ports {min(PORTS.values())}-{max(PORTS.values())}"
    problem = f"taken: {', '.join(taken)}" if taken else ""
    needed_by = (SERVE_EMBEDDED, SERVE_IN_DOCKER)
    return judged(name, needed_by, found="free", problem=problem, fix=ANY_PORTS, status="warning")


def check_disk_space(option: str, folder: Path) -> Check:
    """Check that the folder of an option can be written and its disk has space for an export.

    Args:
        option: The option, such as `--out`.
        folder: Its value; the nearest existing parent is checked.
    """
    free, lead, problem = 0, "Choose another folder: ", ""
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            problem = f"{existing} is a file"
        elif not os.access(existing, os.W_OK | os.X_OK):
            problem = f"{existing} may not be written"
        elif (free := shutil.disk_usage(existing).free) < EXPORT_BYTES:
            problem = f"{_size_text(free)} free, needs {_size_text(EXPORT_BYTES)}"
            lead = "Free some space, or choose another folder: "
    except OSError as error:
        problem = f"{folder}: {os_error_reason(error)}"
    found = f"{_size_text(free)} free for {folder}"
    return judged(
        f"space for {option}", export_jobs(), found=found, problem=problem, fix=f"{lead}{option} DIR"
    )


def _check_packages(name: str, required: list[Requirement], needed_by: tuple[str, ...], fix: str) -> Check:
    installed: list[str] = []
    misfits: list[str] = []
    absent: list[str] = []
    for requirement in required:
        other = INSTEAD_OF.get(requirement.name)
        package = requirement.name if other is None or version_of(other) is None else other
        version = version_of(package)
        if version is None:
            absent.append(package)
        elif requirement.specifier.contains(version, prereleases=True):
            installed.append(f"{package} {version.partition('+')[0]}")
        else:
            misfits.append(f"{package} {version}, needs {requirement.specifier}")
    missing = [*misfits, f"not installed: {', '.join(absent)}"] if absent else misfits
    return judged(name, needed_by, found=", ".join(installed), problem="; ".join(missing), fix=fix)


def _metadata() -> metadata.PackageMetadata:
    try:
        return metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise AlexnetError(
            DISTRIBUTION,
            got="its files without its metadata",
            expected="an installed package",
            next_step="Run, in the source tree: pip install --editable .",
        ) from error


def _glibc_of_the_wheel() -> Version:
    try:
        tags = metadata.distribution("nvidia-pytriton").read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        tags = ""
    found = re.search(r"manylinux_(\d+)_(\d+)", tags)
    return Version(f"{found[1]}.{found[2]}") if found else GLIBC_OF_THE_WHEEL


def _libpython_fix(library: Path) -> str:
    if ".pyenv" in library.parts:
        return f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {platform.python_version()}"
    if library.is_relative_to("/usr/lib"):
        return f"sudo apt-get install {library.name.partition('.so')[0]}"
    return "Use a Python that was built with --enable-shared, such as Debian's or Ubuntu's."


def _size_text(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.0f} MB"
