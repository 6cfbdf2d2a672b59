"""Build this project's distributions, and run the command from a new environment that has one of them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent


def built(folder: Path, target: str) -> Path:
    """Build a `wheel` or an `sdist` of the source tree into a folder.

    It needs no package index: hatchling is installed here.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (distribution,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return distribution


def new_environment(folder: Path, distribution: Path, *, with_packages_here: bool) -> Path:
    """Make a virtual environment with the distribution, and return its folder of commands.

    Args:
        folder: Where to make it.
        distribution: A wheel or an sdist.
        with_packages_here: See the packages of this environment instead of installing the dependencies.
            This project's own editable installation is not seen.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    if with_packages_here:
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # A folder that a .pth file names is searched, but its own .pth files are not read.
        paths = folder / "lib" / python / "site-packages" / "packages_here.pth"
        paths.write_text(sysconfig.get_path("purelib"))
        pip.append("--no-deps")
    subprocess.run([*pip, str(distribution)], check=True, capture_output=True)
    return folder / "bin"


def run(commands: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `alexnet` of an environment, in a folder outside of the source tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(commands / "alexnet"), *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
