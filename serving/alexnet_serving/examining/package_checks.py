"""Which packages are here, by their metadata alone: nothing is imported, so that a base install can ask.

What each extra brings is read from this distribution's own metadata, which pyproject.toml was built into.
"""

from __future__ import annotations

import operator
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from alexnet_model.errors import AlexnetError
from alexnet_model.gpus import version_tuple

from .checks import (
    BENCH,
    BUILD_RTX,
    BUILD_TENSORRT,
    EXPORTS,
    JOBS,
    SERVE_EMBEDDED,
    SERVE_IN_DOCKER,
    TRAIN,
    UI,
    Check,
)

DISTRIBUTION = "alexnet-serving"
# Each extra, and the jobs that do not run without it.
EXTRAS: dict[str, tuple[str, ...]] = {
    "export": EXPORTS,
    "train": (TRAIN,),
    "embedded": (SERVE_EMBEDDED,),
    "tensorrt": (BUILD_TENSORRT,),
    "rtx": (BUILD_RTX,),
    "bench": (BENCH,),
    "ui": (UI,),
}
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A line of metadata, such as `numpy<2; extra == 'embedded'`."""

    package: str
    versions: str  # such as `>=1.26`; several are joined by commas
    extra: str  # empty for the base install


def check_python() -> Check:
    """Whether this Python is one that the package is tested with."""
    version, wanted = platform.python_version(), _metadata()["Requires-Python"]
    return Check(
        name="Python",
        status="ok" if fits(version, wanted) else "missing",
        found=version if fits(version, wanted) else f"{version}, needs {wanted}",
        needed_by=JOBS,
        mend="" if fits(version, wanted) else "sudo apt-get install python3.11 python3.11-venv",
    )


def check_base() -> Check:
    """What every install brings, if nobody took it away or changed its version."""
    return _check_packages("base install", _packages_of(""), JOBS, f"pip install {DISTRIBUTION}")


def check_extra(extra: str) -> Check:
    """One of `EXTRAS`: every package that it brings, in a version that fits.

    Those that bring all of [export] too, whose packages have a check of their own, are asked for the rest.
    """
    wanted, of_export = _packages_of(extra), _packages_of("export")
    if extra != "export" and set(of_export) <= set(wanted):
        wanted = [package for package in wanted if package not in of_export]
    return _check_packages(f"[{extra}]", wanted, EXTRAS[extra], f"pip install '{DISTRIBUTION}[{extra}]'")


def check_tensorrt(image_version: str) -> Check:
    """Which TensorRT flavours are installed, and whether Triton's image would load what they build."""
    here = {name: found for name in ("tensorrt", "tensorrt-rtx") if (found := version_of(name))}
    found = ", ".join(f"{name} {version}" for name, version in here.items()) or "none installed"
    found += f"; Triton's image has {image_version}"
    builder = here.get("tensorrt")
    fitting = builder is None or version_tuple(builder) == version_tuple(image_version)
    return Check(
        name="TensorRT",
        status="ok" if fitting else "warning",
        found=found if fitting else f"{found} and loads no other's engines",
        needed_by=(BUILD_TENSORRT, SERVE_IN_DOCKER),
        mend="" if fitting else f"pip install tensorrt=={image_version}",
    )


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> Iterator[Requirement]:
    """What this distribution's metadata asks for.

    Raises:
        AlexnetError: it is not installed, only its files are there.
    """
    for line in _metadata().get_all("Requires-Dist") or []:
        found = re.fullmatch(
            r"(?P<package>[\w.-]+)\s*(?:\[[\w,. -]*\])?\s*(?P<versions>[^;]*?)\s*"
            r"(?:;\s*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?",
            line,
        )
        assert found is not None, line
        yield Requirement(
            package=found["package"], versions=found["versions"].strip("() "), extra=found["extra"] or ""
        )


def fits(version: str, versions: str) -> bool:
    """Whether `1.26.4` fits `>=1.26,<2`; a local part such as `+cpu` does not count."""
    for part in filter(None, versions.split(",")):
        found = re.fullmatch(r"\s*(>=|<=|==|!=|<|>)\s*([\w.]+)\s*", part)
        assert found is not None, versions
        if not _COMPARE[found[1]](_without_zeros(version), _without_zeros(found[2])):
            return False
    return True


def _packages_of(extra: str) -> list[tuple[str, str]]:
    """Each package with the versions that fit."""
    return [(wanted.package, wanted.versions) for wanted in requirements() if wanted.extra == extra]


def _check_packages(
    name: str, packages: list[tuple[str, str]], needed_by: tuple[str, ...], mend: str
) -> Check:
    here: list[str] = []
    misfits: list[str] = []
    absent: list[str] = []
    for package, versions in packages:
        version = version_of(package)
        if version is None:
            absent.append(package)
        elif fits(version, versions):
            here.append(f"{package} {version.partition('+')[0]}")
        else:
            misfits.append(f"{package} {version}, needs {versions}")
    lacking = [*misfits, f"not installed: {', '.join(absent)}"] if absent else misfits
    return Check(
        name=name,
        status="missing" if lacking else "ok",
        found="; ".join(lacking) or ", ".join(here),
        needed_by=needed_by,
        mend=mend if lacking else "",
    )


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


def _without_zeros(version: str) -> tuple[int, ...]:
    """`2.0.0` is `2`."""
    numbers = version_tuple(version)
    while numbers and not numbers[-1]:
        numbers = numbers[:-1]
    return numbers
