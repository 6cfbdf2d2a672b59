"""The doctor's checks of packages and the machine, and the commands that they stop."""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import tomllib
from email.message import Message
from importlib import metadata
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_cli.serve import serve_command
from alexnet_model.errors import ServerError
from alexnet_serving import Check, EmbeddedServer, memory_of_repository
from alexnet_serving.doctor import checks, report
from alexnet_serving.doctor.checks import (
    CLASSIFY,
    EXPORT,
    SERVE_EMBEDDED,
    SERVE_IN_DOCKER,
    TRAIN,
    fix_from,
    jobs,
)
from alexnet_serving.servers import backend_memory, tritonserver

from ..stand_ins.nvidia_smi import H100
from .machines import Machine, give_shared_memory, missed, named, versions

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """An H100, Docker, the images, and the packages of the development install."""
    machine = Machine(monkeypatch, tmp_path)
    machine.gpus(H100)
    machine.docker()
    return machine


# Extras without which every command runs.
NO_COMMANDS = {"bulk", "dev", "docs", "lecture", "ray", "telemetry", "tensorboard"}


def test_every_extra_of_the_project_is_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(checks.extras()) == set(project["optional-dependencies"]) - NO_COMMANDS


def test_the_requirements_of_the_base_install_and_of_an_extra() -> None:
    base = {requirement.name: str(requirement.specifier) for requirement in checks.requirements_of("")}
    embedded = {
        requirement.name: str(requirement.specifier) for requirement in checks.requirements_of("embedded")
    }
    assert base["tritonclient"] == ">=2.60"
    assert embedded["nvidia-pytriton"] == "==0.7.0"
    assert "tritonclient" not in embedded


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=1; python_version >= '3' and extra == 'export'",
        "numpy~=1.0; extra == 'export' or extra == 'train'",
        "numpy[a,b]>=1,!=1.5 ; (extra == 'export' and python_version > '3')",
        "numpy; extra == 'export'",
    ],
)
def test_requirements_with_markers_and_extras(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = Message()
    message["Requires-Dist"] = line
    message["Requires-Dist"] = "scipy; python_version < '3' and extra == 'export'"
    monkeypatch.setattr(checks, "_metadata", lambda: message)
    versions(monkeypatch, numpy="1.26.4")
    assert checks.check_extra("export").found == "numpy 1.26.4"


@pytest.mark.parametrize(
    ("version", "wanted", "does"),
    [
        ("1.26.4", "<2", True),
        ("2.0.0", "<2", False),
        ("2.13.0+cpu", ">=2.9", True),
        ("2.8.1", ">=2.9", False),
        ("2.9.0", ">=2.9", True),
        ("0.7.0", "==0.7.0", True),
        ("0.7", "==0.7.0", True),
        ("0.7.1", "==0.7.0", False),
        ("3.11.7", "<3.13,>=3.11", True),
        ("3.13.0", "<3.13,>=3.11", False),
        ("3.10.1", "<3.13,>=3.11", False),
        ("1.0", "", True),
        ("1.4.5", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.5", "!=1.5", False),
        ("1.6", ">=1,!=1.5.*", True),
        ("2.0rc1", ">=2.0", False),
        ("2.1rc1", ">=2.0", True),
        ("2.0.0.dev3", "<2", False),
    ],
)
def test_a_version_fits_or_not(version: str, wanted: str, does: bool) -> None:
    assert checks.fits(version, wanted) is does


def test_a_package_in_a_wrong_version_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, numpy="2.4.0", openvino=None)
    check = checks.check_extra("embedded")
    assert check.status == "missing"
    assert check.found == "numpy 2.4.0, needs <2; not installed: openvino"
    assert check.fix == "pip install 'alexnet-serving[embedded]'"
    assert check.needed_by == (SERVE_EMBEDDED,)


def test_an_extra_that_includes_another_is_checked_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch=None, tensorrt_rtx="1.7.1.116")
    assert checks.check_extra("rtx").found == "tensorrt-rtx 1.7.1.116"
    assert checks.check_extra("export").found == "not installed: torch"
    assert "torch" in checks.check_extra("train").found


def test_without_a_gpu_pytorchs_cuda_build_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch="2.13.0")
    monkeypatch.setattr(metadata, "requires", lambda name: ["jinja2", "nvidia-cudnn-cu13==9.13.0.50"])
    check = checks.check_pytorch(has_gpu=False)
    assert check.status == "warning"
    assert check.found == "2.13.0, a CUDA build, and this machine has no GPU"
    assert check.fix.endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu")
    assert checks.check_pytorch(has_gpu=True).status == "ok"
    monkeypatch.setattr(metadata, "requires", lambda name: ["jinja2"])
    assert checks.check_pytorch(has_gpu=False).status == "ok"


def test_without_a_gpu_the_missing_pytorch_comes_from_the_index_without_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions(monkeypatch, torch=None)
    assert checks.check_pytorch(has_gpu=False).found == "not installed"
    assert checks.check_extra("export", has_gpu=True).fix == "pip install 'alexnet-serving[export]'"
    fix = "pip install 'alexnet-serving[export]' --extra-index-url https://download.pytorch.org/whl/cpu"
    assert checks.check_extra("export", has_gpu=False).fix == fix
    assert "index" not in checks.check_extra("bench", has_gpu=False).fix


def test_an_unsupported_python_stops_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_python().status == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
    check = checks.check_python()
    assert (check.status, check.needed_by) == ("missing", jobs())
    assert check.found.startswith("3.13.1, needs ")


@pytest.mark.parametrize(
    ("tensorrt", "status", "fix"),
    [
        (None, "ok", ""),
        ("11.1.0.106", "ok", ""),
        ("11.4.0.106", "warning", "pip install tensorrt==11.1.0.106"),
    ],
)
def test_the_tensorrt_that_builds_is_the_one_that_serves(
    monkeypatch: pytest.MonkeyPatch, tensorrt: str | None, status: str, fix: str
) -> None:
    versions(monkeypatch, tensorrt=tensorrt, tensorrt_rtx="1.7.1.116")
    check = checks.check_tensorrt("11.1.0.106")
    assert (check.status, check.fix) == (status, fix)
    assert "tensorrt-rtx 1.7.1.116" in check.found
    assert "11.1.0.106" in check.found
    assert tensorrt is None or f"tensorrt {tensorrt}" in check.found


@pytest.mark.parametrize(("tensorrt", "status"), [(None, "ok"), ("11.4.0.106", "warning")])
def test_no_version_of_the_image_is_assumed(
    monkeypatch: pytest.MonkeyPatch, tensorrt: str | None, status: str
) -> None:
    versions(monkeypatch, tensorrt=tensorrt)
    check = checks.check_tensorrt(None)
    assert (check.status, check.fix) == (status, "")
    assert "unknown version" in check.found


@pytest.mark.parametrize(
    ("library", "version", "processor", "status"),
    [
        ("glibc", "2.35", "x86_64", "ok"),
        ("glibc", "2.41", "x86_64", "ok"),
        ("glibc", "2.34", "x86_64", "missing"),
        ("glibc", "2.41", "aarch64", "missing"),
        ("", "", "x86_64", "missing"),
        ("libc", "6.0", "x86_64", "missing"),
    ],
)
def test_the_embedded_servers_wheel_needs_a_c_library(
    monkeypatch: pytest.MonkeyPatch, library: str, version: str, processor: str, status: str
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, version))
    monkeypatch.setattr(platform, "machine", lambda: processor)
    check = checks.check_glibc()
    assert (check.status, check.needed_by) == (status, (SERVE_EMBEDDED,))
    assert status == "ok" or "needs 2.35 on x86_64" in check.found


def test_the_c_library_that_is_needed_without_the_wheel_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with_wheel = checks._glibc_of_the_wheel()
    monkeypatch.setattr(metadata, "distribution", _not_installed)
    assert checks._glibc_of_the_wheel() == with_wheel == checks.GLIBC_OF_THE_WHEEL


def _not_installed(name: str) -> metadata.Distribution:
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("library", "fix"),
    [
        ("/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "sudo apt-get install libpython3.11"),
        (
            "/home/a/.pyenv/versions/x/lib/libpython3.11.so.1.0",
            f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {platform.python_version()}",
        ),
        ("/opt/python/lib/libpython3.11.so.1.0", "--enable-shared"),
    ],
)
def test_a_python_without_its_shared_library(machine: Machine, library: str, fix: str) -> None:
    exists = Path.exists
    for module in (checks, tritonserver):
        machine.monkeypatch.setattr(module, "libpython_of_this_python", lambda: Path(library))
    machine.monkeypatch.setattr(Path, "exists", lambda path: str(path) != library and exists(path))
    found = machine.diagnose()
    assert fix in named(found, "libpython").fix
    assert named(found, "Triton for this Python").found == "not checked: libpython is missing"
    assert missed(found, SERVE_EMBEDDED) == ("libpython",)


def test_triton_without_a_stub_for_this_python(machine: Machine) -> None:
    wheel = machine.folder / "pytriton" / "__init__.py"
    binary = wheel.parent / "tritonserver" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.touch()
    machine.monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(wheel)))
    found = machine.diagnose()
    assert "triton_python_backend_stub" in named(found, "Triton for this Python").found
    assert missed(found, SERVE_EMBEDDED) == ("Triton for this Python",)


def test_without_the_wheel_its_server_is_not_checked(machine: Machine) -> None:
    versions(machine.monkeypatch, nvidia_pytriton=None)
    machine.monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    found = machine.diagnose()
    assert named(found, "Triton for this Python").found == "not checked: [embedded] is not installed"
    assert missed(found, SERVE_EMBEDDED) == ("[embedded]",)


@pytest.mark.parametrize(("free_mb", "status"), [(64, "missing"), (95, "missing"), (97, "ok")])
def test_shared_memory_must_hold_a_default_export(
    monkeypatch: pytest.MonkeyPatch, free_mb: int, status: str, tmp_path: Path
) -> None:
    give_shared_memory(monkeypatch, free_mb)
    check = checks.check_shared_memory(tmp_path)
    assert check.status == status
    assert f"{free_mb} MB free" in check.found
    assert ("--shm-size=128m" in check.fix) == (status != "ok")


def test_doctor_and_server_need_the_same_shared_memory(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    needed = memory_of_repository(repository).total_bytes // 1_000_000
    give_shared_memory(monkeypatch, needed + 1)
    assert checks.check_shared_memory(repository).status == "ok"
    EmbeddedServer(repository)
    give_shared_memory(monkeypatch, needed)
    check = checks.check_shared_memory(repository)
    assert check.status == "missing"
    with pytest.raises(ServerError) as caught:
        EmbeddedServer(repository)
    assert caught.value.expected in check.found
    assert check.fix in caught.value.next_step


def test_no_shared_memory_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backend_memory, "SHM", tmp_path / "none")
    assert checks.check_shared_memory(tmp_path).status == "missing"


def test_a_taken_port_is_named_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(checks, "PORTS", {"grpc": port})
        check = checks.check_ports()
    assert (check.status, check.found) == ("warning", f"taken: {port} (grpc)")
    assert check.fix == "alexnet serve --http-port 0 --grpc-port 0 --metrics-port 0"
    assert checks.check_ports().status == "ok"


def test_the_ports_are_those_of_serve() -> None:
    parameters = signature(serve_command).parameters
    assert {name: parameters[f"{name}_port"].default for name in ("http", "grpc", "metrics")} == checks.PORTS


def test_disk_space_is_checked_at_the_nearest_existing_folder(tmp_path: Path) -> None:
    check = checks.check_disk_space("--out", tmp_path / "a" / "b")
    assert (check.status, check.name) == ("ok", "space for --out")
    assert not list(tmp_path.iterdir())


def test_no_disk_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "EXPORT_BYTES", 10**18)
    check = checks.check_disk_space("--out", tmp_path)
    assert check.status == "missing"
    assert "needs 1,000,000,000.0 GB" in check.found
    assert "--out DIR" in check.fix


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    check = checks.check_disk_space("--out", tmp_path / "deep")
    assert (check.status, check.found) == ("missing", f"{tmp_path} may not be written")


def test_a_repository_of_no_possible_name_hides_nothing_else(machine: Machine) -> None:
    machine.repository = machine.folder / ("x" * 300)
    found = machine.diagnose()
    assert "file name too long" in named(found, "record of --repository").found
    assert missed(found, EXPORT) == ("space for --repository",)


def test_a_file_in_the_way_hides_nothing_else(machine: Machine) -> None:
    machine.repository.write_text("a file")
    machine.out = machine.folder / ("x" * 300)
    found = machine.diagnose()
    assert named(found, "space for --repository").found == f"{machine.repository} is a file"
    assert "file name too long" in named(found, "space for --out").found
    assert "file name too long" in named(found, "record of --out").found
    assert missed(found, EXPORT) == ("space for --repository", "space for --out")
    assert missed(found, CLASSIFY) == ()


def missing(name: str, *needed_by: str) -> Check:
    return Check(name=name, status="missing", found="none", needed_by=needed_by, fix=f"fix {name}")


def test_a_warning_stops_no_job() -> None:
    note = Check(name="a", status="warning", found="x", needed_by=jobs(), fix="y")
    assert report.job_from_checks(TRAIN, [note]).runs
    assert report.main_job_from_checks([note]).runs


def test_the_main_path_uses_the_server_with_fewer_missing_checks() -> None:
    embedded, engine = missing("embedded", SERVE_EMBEDDED), missing("engine", SERVE_IN_DOCKER)
    by_docker = report.main_job_from_checks([embedded])
    assert (by_docker.commands, by_docker.runs) == ((EXPORT, SERVE_IN_DOCKER, CLASSIFY), True)
    neither = report.main_job_from_checks([engine, embedded])
    assert (neither.commands[1], neither.first_fix) == (SERVE_EMBEDDED, "fix embedded")
    export = missing("export", EXPORT)
    assert report.main_job_from_checks([export, embedded, engine]).first_fix == "fix export"
    assert not report.main_job_from_checks([missing("client", CLASSIFY)]).runs


@pytest.mark.parametrize(
    ("next_step", "fix"),
    [
        ("Start it: sudo systemctl start docker", "sudo systemctl start docker"),
        ("Export again with this version.", "Export again with this version."),
        ("It was edited or is another engine's: build it again.",) * 2,
    ],
)
def test_a_fix_is_the_command_of_the_next_step(next_step: str, fix: str) -> None:
    assert fix_from(next_step) == fix
