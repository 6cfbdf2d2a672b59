"""The C++ compiler of this machine, which PyTorch's AOTInductor starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from importlib.util import find_spec

from .files import temporary_folder

DEFAULT = "g++"  # PyTorch tries no other one
DEADLINE_S = 60.0
# What every compiled network needs: the standard library, OpenMP, and linking to a shared library.
PROGRAM = """#include <omp.h>
#include <vector>
extern "C" int threads() { return int(std::vector<int>(omp_get_max_threads()).size()); }
"""
INSTALL = "sudo apt-get install g++"


def compiler_or_problem() -> tuple[str, str]:
    """Return the path of the C++ compiler that PyTorch uses, or an empty text and why there is none.

    A program of three lines is compiled, since a compiler without its headers is on PATH too.
    """
    wanted = os.environ.get("CXX") or DEFAULT
    path = shutil.which(wanted)
    if path is None:
        return "", f"no {wanted}, which CXX names" if wanted != DEFAULT else f"no {wanted}"
    problem = _problem(path)
    return ("", f"{path} does not compile: {problem}") if problem else (path, "")


def advice_after_failure(otherwise: str) -> str:
    """Return what to do after PyTorch failed to compile: something else if there is a space in a path.

    PyTorch 2.13 does not quote the folder of its libraries (pytorch/pytorch#191010) and that of its sources,
    a temporary one, in the compiler's command.

    Args:
        otherwise: The advice if there is no space.
    """
    spec = find_spec("torch")
    package = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else ""
    if " " in package:
        return (
            f"PyTorch may fail to compile from a path with a space, {package}: install it in another folder."
        )
    if " " in (temporary := tempfile.gettempdir()):
        return (
            f"PyTorch may fail to compile in a path with a space, {temporary}: set TMPDIR to another folder."
        )
    return otherwise


@lru_cache
def _problem(path: str) -> str:
    """Return why a compiler does not compile the program, in one line; empty if it does."""
    with temporary_folder("alexnet-") as folder:
        source = folder / "threads.cpp"
        source.write_text(PROGRAM, encoding="utf-8")
        command = [path, "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(folder / "threads.so")]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=DEADLINE_S,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return f"not finished after {DEADLINE_S:g} s"
        except OSError as error:
            return error.strerror or type(error).__name__
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    fallback = f"exit code {done.returncode}"
    return next((line for line in lines if "error" in line.lower()), (lines or [fallback])[0])
