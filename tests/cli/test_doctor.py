"""`alexnet doctor` as its user runs it: on a full install, and on one with the base packages alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from alexnet_cli.doctor_output import print_report
from alexnet_serving import Check, DoctorReport, GpuRuntime
from alexnet_serving.doctor.engines import EngineFound, LoadResult
from alexnet_serving.doctor.report import MainJob

from ..stand_ins.nvidia_smi import H100, fake_nvidia_smi

ROOT = Path(__file__).parent.parent.parent
OURS = ("model", "training", "export", "serving", "clients", "bench", "cli")
WITHOUT_CUDA = " --extra-index-url https://download.pytorch.org/whl/cpu"  # PyTorch on a machine without a GPU
# Runs the command line, and says on standard error's last line which of the heavy modules it imported.
SCRIPT = """
import sys
sys.path[:0] = sys.argv[1].split(":") if sys.argv[1] else []
from alexnet_cli.main import run
code = run(sys.argv[2:])
heavy = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pytriton", "sklearn",
         "kornia", "safetensors"}
sys.stderr.write("heavy: " + " ".join(sorted(heavy & set(sys.modules))) + "\\n")
sys.exit(code)
"""


class Machine:
    """One whose Docker engine does not answer and which has no GPU, unless a test gives it one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, site: str = "") -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._site = site
        programs = folder / "programs"
        programs.mkdir()
        docker = programs / "docker"
        docker.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon. >&2\nexit 1\n")
        docker.chmod(0o755)
        for program in ("sh", "cat"):
            (programs / program).symlink_to(f"/bin/{program}")
        monkeypatch.setenv("PATH", str(programs))
        monkeypatch.setenv("COLUMNS", "80")

    def doctor(self, *arguments: str) -> tuple[int, str, list[str]]:
        """Exit code, standard output and lines of standard error."""
        isolated = ["-S"] if self._site else []  # without this environment's packages
        done = subprocess.run(
            [sys.executable, *isolated, "-c", SCRIPT, self._site, "doctor", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=120,
        )
        *errors, heavy = done.stderr.splitlines()
        assert heavy == "heavy: ", done.stderr
        assert not list(self.folder.iterdir()), "it only looks"
        return done.returncode, done.stdout, errors


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Python sees what a base install brings, and nothing else that is in this environment."""
    site = tmp_path / "site"
    site.mkdir()
    for name in _base_packages():
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            found = Path(str(distribution.locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(found)
    return Machine(monkeypatch, tmp_path, ":".join([str(site), *(str(ROOT / folder) for folder in OURS)]))


def _base_packages() -> set[str]:
    """The closure of our own requirements, with only the requested extras."""
    found: set[str] = set()
    waiting = [("alexnet-serving", frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
        found.add(name)
        for line in lines:
            package = re.match(r"([\w.-]+)\s*(?:\[([\w,. -]*)\])?", line)
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
            assert package is not None
            if (extra is None or extra[1] in extras) and package[1] not in found:
                waiting.append((package[1], frozenset(filter(None, (package[2] or "").split(",")))))
    return found


def test_a_full_install_is_ready(machine: Machine) -> None:
    code, screen, errors = machine.doctor()
    assert (code, errors) == (0, [])
    lines = screen.splitlines()
    assert lines[-1] == "The main path (export, serve --with embedded, classify): runs here."
    assert re.search(r"^ok +\[export\] +onnx ", screen, re.MULTILINE)
    assert re.search(r"^MISSING +NVIDIA GPU +no NVIDIA driver", screen, re.MULTILINE)
    assert re.search(r"^note +NVIDIA driver +not checked: no GPU was found", screen, re.MULTILINE)
    assert "  runs     serve --with embedded" in lines
    assert lines[lines.index("  MISSING  serve --with docker") + 1].strip() == "Docker Engine"


def test_a_base_install_gets_the_commands_that_install_extras(bare_machine: Machine) -> None:
    code, screen, errors = bare_machine.doctor()
    assert code == 1
    assert errors == [
        "The main path (export, serve --with embedded, classify): does not run here yet. "
        f"First fix: pip install 'alexnet-serving[export]'{WITHOUT_CUDA}"
    ]
    lines = screen.splitlines()
    for extra in ("export", "train", "embedded", "tensorrt", "rtx", "bench", "ui"):
        command = f"    pip install 'alexnet-serving[{extra}]'"
        assert any(line in lines for line in (command, command + WITHOUT_CUDA)), extra
    assert re.search(r"^ok +base install +aiohttp ", screen, re.MULTILINE)
    assert "  runs     classify" in lines
    assert "  MISSING  train" in lines


def test_json_of_a_base_install(bare_machine: Machine) -> None:
    code, screen, errors = bare_machine.doctor("--json")
    found = json.loads(screen)
    assert (code, len(errors)) == (1, 1)
    assert set(found) == {
        "schema_version",
        "machine",
        "checks",
        "gpu_runtimes",
        "engines",
        "jobs",
        "main_job",
    }
    assert found["schema_version"] == 3
    assert found["gpu_runtimes"] == []
    assert [job["command"] for job in found["jobs"] if job["runs"]] == ["classify"]
    statuses = {check["name"]: check["status"] for check in found["checks"]}
    assert {name for name, status in statuses.items() if status == "missing"} == {
        *("[export]", "[train]", "[embedded]", "[tensorrt]", "[rtx]", "[bench]", "[ui]"),
        *("NVIDIA GPU", "Docker Engine", "C++ compiler"),
    }
    assert found["main_job"]["first_fix"] == f"pip install 'alexnet-serving[export]'{WITHOUT_CUDA}"


def test_json_of_a_full_install(machine: Machine) -> None:
    code, screen, errors = machine.doctor("--json")
    assert (code, errors) == (0, [])
    assert json.loads(screen)["main_job"] == {
        "commands": ["export", "serve --with embedded", "classify"],
        "runs": True,
        "first_fix": "",
    }


def test_everything_except_fixes_fits_80_columns(bare_machine: Machine) -> None:
    _, screen, _ = bare_machine.doctor("--json")
    fixes = {check["fix"] for check in json.loads(screen)["checks"]}
    _, screen, _ = bare_machine.doctor()
    assert {line.strip() for line in screen.splitlines() if len(line) > 80} <= fixes


def test_fixes_are_never_wrapped_or_cut(bare_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    _, screen, _ = bare_machine.doctor("--json")
    fixes = {check["fix"] for check in json.loads(screen)["checks"] if check["fix"]}
    monkeypatch.setenv("COLUMNS", "40")
    _, narrow, _ = bare_machine.doctor()
    assert fixes <= {line.strip() for line in narrow.splitlines()}
    assert any(len(fix) > 40 for fix in fixes)


def test_the_options_name_the_folders(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, gpus=[H100])
    out = tmp_path / "elsewhere"
    out.mkdir()
    (out / "export.json").write_text("{}")
    code, screen, _ = machine.doctor("--out", str(out), "--repository", str(tmp_path / "models"), "--json")
    checks = {check["name"]: check for check in json.loads(screen)["checks"]}
    assert code == 0
    assert checks["record of --out"]["found"].startswith(str(out / "export.json"))
    assert str(tmp_path / "models") in checks["record of --repository"]["found"]
    assert checks["NVIDIA GPU"]["found"] == "NVIDIA H100 80GB HBM3 (9.0)"


def test_runtimes_for_the_gpu_are_listed_with_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    runs = GpuRuntime(
        runtime="tensorrt",
        title="TensorRT",
        served=True,
        command="alexnet export CHECKPOINT --runtime tensorrt --build docker",
        runs=True,
        missing=(),
        fix="",
    )
    lacks = {"title": "TensorRT-RTX", "served": False, "runs": False, "missing": ("[rtx]",), "fix": "pip x"}
    found = DoctorReport(
        machine="a machine",
        checks=(Check(name="a", status="ok", found="b", needed_by=()),),
        gpu_runtimes=(runs, runs.model_copy(update=lacks)),
        engines=(),
        jobs=(),
        main_job=MainJob(commands=("export",), runs=True, first_fix=""),
    )
    print_report(found)
    assert capsys.readouterr().out.splitlines()[3:9] == [
        "Runtimes for the GPU here:",
        "  runs     TensorRT",
        "    alexnet export CHECKPOINT --runtime tensorrt --build docker",
        "  MISSING  TensorRT-RTX (not served by Triton)",
        "           needs [rtx]",
        "    pip x",
    ]


def test_engines_are_listed_with_where_they_load(capsys: pytest.CaptureFixture[str]) -> None:
    engine = EngineFound(
        folder="model_repository",
        file="alexnet_int8.sm90.plan",
        precision="int8",
        accepted=True,
        built_for="TensorRT 11.1.0.106 on NVIDIA H200 (9.0)",
        needs="TensorRT 11.1.0.106 on NVIDIA H200 (9.0)",
        results=(
            LoadResult(target="TensorRT 11.1.0.106 on NVIDIA H200 (9.0, driver 580)", loads=True, reason=""),
            LoadResult(target="TensorRT 11.1.0.106 on NVIDIA L4 (8.9, driver 580)", loads=False, reason="no"),
        ),
        fix="alexnet export model_repository --runtime tensorrt --build docker --repository model_repository",
    )
    found = DoctorReport(
        machine="a machine",
        checks=(Check(name="a", status="ok", found="b", needed_by=()),),
        engines=(engine, engine.model_copy(update={"results": (), "fix": ""})),
        jobs=(),
        main_job=MainJob(commands=("export",), runs=True, first_fix=""),
    )
    print_report(found)
    assert capsys.readouterr().out.splitlines() == [
        "a machine:",
        "ok       a  b",
        "",
        "Engines:",
        "  model_repository: alexnet_int8.sm90.plan, built for TensorRT 11.1.0.106 on",
        "  NVIDIA H200 (9.0)",
        "    loads with TensorRT 11.1.0.106 on NVIDIA H200 (9.0, driver 580)",
        "    DOES NOT LOAD with TensorRT 11.1.0.106 on NVIDIA L4 (8.9, driver 580)",
        "      no",
        "    alexnet export model_repository --runtime tensorrt --build docker --repository model_repository",
        "  model_repository: alexnet_int8.sm90.plan, built for TensorRT 11.1.0.106 on",
        "  NVIDIA H200 (9.0)",
        "    needs TensorRT 11.1.0.106 on NVIDIA H200 (9.0)",
        "",
        "Commands:",
        "",
        "The main path (export): runs here.",
    ]
