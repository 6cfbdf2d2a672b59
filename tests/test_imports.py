"""Which package may import which, what imports without the extras, and the public names of each package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# cli -> bench -> pipeline -> export, serving -> model; bench -> clients, training -> model.
MAY_IMPORT: dict[str, set[str]] = {
    "alexnet_model": set(),
    "alexnet_training": {"alexnet_model"},
    "alexnet_export": {"alexnet_model"},
    "alexnet_serving": {"alexnet_model"},
    "alexnet_clients": {"alexnet_model"},
    "alexnet_pipeline": {"alexnet_model", "alexnet_export", "alexnet_serving"},
    "alexnet_bench": {
        *("alexnet_model", "alexnet_training", "alexnet_export", "alexnet_serving", "alexnet_clients"),
        "alexnet_pipeline",
    },
}
MAY_IMPORT["alexnet_cli"] = set(MAY_IMPORT)
PACKAGES = {name: ROOT / name.removeprefix("alexnet_") / name for name in MAY_IMPORT}
# The table of runtimes names modules of other packages, and imports them only when a runtime is used.
RUNTIME_TABLE = ROOT / "model" / "alexnet_model" / "runtimes.py"
HEAVY = (
    "fsspec",
    "gradio",
    "kornia",
    "onnx",
    "onnxconverter_common",
    "onnxruntime",
    "onnxscript",
    "opentelemetry",
    "openvino",
    "prometheus_client",
    "pyarrow",
    "pytriton",
    "ray",
    "safetensors",
    "sklearn",
    "tensorrt",
    "torch",
)


def test_the_tensorrt_extra_takes_the_versions_that_the_code_takes() -> None:
    from alexnet_export.engines.tensorrt_api import MINIMUM_VERSION

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"tensorrt>={MINIMUM_VERSION}" in extras["tensorrt"]


def imported_by(source: str) -> Iterator[str]:
    """Every absolute module name in an import statement, and every string, which could be one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def packages_imported_by(source: str) -> set[str]:
    return {name.partition(".")[0] for name in imported_by(source)} & PACKAGES.keys()


def test_imports_are_found_anywhere_in_a_file() -> None:
    source = """
from alexnet_model import Contract
def later():
    import alexnet_export.gate
    import_module("alexnet_serving.repositories.layout")
"""
    assert packages_imported_by(source) == {"alexnet_model", "alexnet_export", "alexnet_serving"}


def test_every_package_of_the_wheel_is_checked_here() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {ROOT / path for path in wheel["packages"]} == set(PACKAGES.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    files = set(PACKAGES[package].rglob("*.py")) - {RUNTIME_TABLE}
    assert files
    wrong_imports = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for path in sorted(files)
        if (wrong := packages_imported_by(path.read_text()) - MAY_IMPORT[package] - {package})
    }
    assert wrong_imports == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_shadows_a_package_that_it_would_import(package: str) -> None:
    names = {path.stem for path in PACKAGES[package].rglob("*.py")}
    assert not names & {"http", "grpc", *HEAVY}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_names_are_sorted_and_exist(package: str) -> None:
    module = import_module(package)
    names: list[str] = getattr(module, "__all__", [])
    constants = [name for name in names if name.isupper()]
    classes = [name for name in names if name[0].isupper() and not name.isupper()]
    functions = [name for name in names if name[0].islower()]
    assert names == sorted(constants) + sorted(classes) + sorted(functions)
    for name in names:
        assert getattr(module, name) is not None
    assert not hasattr(module, "no_such_name")


def module_names() -> list[str]:
    """Every module but those in `backends`, which run inside Triton and import what it brings."""
    names = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[0] != "backends" and parts[-1] != "__main__":
                names.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return names


IMPORT_WITHOUT = """
import importlib, json, sys
from importlib.abc import MetaPathFinder

heavy, modules = json.loads(sys.argv[1])

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in heavy:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
outcomes = {}
for module in modules:
    try:
        importlib.import_module(module)
        outcomes[module] = "light"
    except Exception as error:
        outcomes[module] = f"{type(error).__name__}: {error}"
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Import each module with only the base install: `light`, or the error."""
    arguments = json.dumps([HEAVY, module_names()])
    command = [sys.executable, "-c", IMPORT_WITHOUT, arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_without_extras_a_module_imports_or_names_the_extra(outcomes: dict[str, str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    helpful = tuple(f"Run: pip install 'alexnet-serving[{extra}]'" for extra in extras)
    unhelpful = {
        module: outcome
        for module, outcome in outcomes.items()
        if outcome != "light" and not (outcome.startswith("MissingExtra: ") and outcome.endswith(helpful))
    }
    assert unhelpful == {}


def test_without_extras_every_package_and_the_command_line_import(outcomes: dict[str, str]) -> None:
    light = {module for module, outcome in outcomes.items() if outcome == "light"}
    assert {*PACKAGES, "alexnet_cli.main", "alexnet_clients.client", "alexnet_model.manifest"} <= light
    assert "alexnet_model.architectures" not in light  # PyTorch was hidden


def test_without_extras_training_names_its_own_extra() -> None:
    code = IMPORT_WITHOUT.replace("importlib.import_module(module)", "importlib.import_module(module).train")
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([HEAVY, ["alexnet_training"]])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "[train]" in json.loads(done.stdout)["alexnet_training"]
