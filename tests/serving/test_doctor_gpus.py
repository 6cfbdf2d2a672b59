"""The doctor's checks of GPUs, Docker and engines: where engines load, and what prevents it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_model import docker, gpus
from alexnet_model.triton_image import BUILD_CPU_IMAGE, CPU_IMAGE, TRITON_IMAGE
from alexnet_serving import DoctorReport, GpuRuntime, write_repository
from alexnet_serving.doctor import gpus as gpu_checks
from alexnet_serving.doctor.checks import (
    BUILD_IN_DOCKER,
    BUILD_TENSORRT,
    CLASSIFY,
    EXPORT,
    SERVE_EMBEDDED,
    SERVE_IN_DOCKER,
    TRAIN,
)
from alexnet_serving.repositories.layout import RepositoryOptions

from ..stand_ins.nvidia_smi import (
    H100,
    L4,
    NO_DRIVER_LOADED,
    failing_nvidia_smi,
    hanging_nvidia_smi,
    install_nvidia_smi,
)
from .conftest import Artifacts
from .machines import CDI_DEVICE, NO_RUNTIME, NVIDIA_RUNTIME, Machine, missed, named, versions
from .recorded_engines import H200, TENSORRT, with_engines
from .recorded_engines import L4 as L4_GPU


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """An H100, Docker, the images, and the packages of the development install."""
    machine = Machine(monkeypatch, tmp_path)
    machine.gpus(H100)
    machine.docker()
    return machine


def test_a_machine_with_everything(machine: Machine) -> None:
    versions(machine.monkeypatch, tensorrt=TENSORRT)
    found = machine.diagnose()
    assert [job.command for job in found.jobs if not job.runs] == []
    assert found.main_job.runs
    assert named(found, "NVIDIA GPU").found == "NVIDIA H100 80GB HBM3 (9.0)"
    assert named(found, "NVIDIA driver").found == "580.95.05, CUDA 13.0"
    assert named(found, "NVIDIA toolkit").found == "a Docker runtime"
    assert named(found, "Triton image").found == TRITON_IMAGE
    assert "Triton image for CPUs" not in [check.name for check in found.checks]
    assert [check.name for check in found.checks] == [
        *("Python", "base install", "[export]", "[train]", "[embedded]", "[tensorrt]", "[rtx]"),
        *("[bench]", "[ui]", "PyTorch"),
        *("glibc", "libpython", "Triton for this Python", "/dev/shm"),
        *("ports 8000-8002", "space for --repository", "space for --out"),
        *("record of --repository", "record of --out"),
        *("NVIDIA GPU", "NVIDIA driver", "TensorRT", "C++ compiler"),
        *("Docker client", "Docker Engine", "NVIDIA toolkit", "Triton image"),
    ]
    notes = {check.name for check in found.checks if check.status != "ok"}
    # Nothing was exported yet, and whether something listens here is not this test's matter.
    assert notes - {"ports 8000-8002"} == {"record of --repository", "record of --out"}


def runtime_of(found: DoctorReport, name: str) -> GpuRuntime:
    (runtime,) = (runtime for runtime in found.gpu_runtimes if runtime.runtime == name)
    return runtime


def test_with_docker_the_image_runs_tensorrt_and_onnx_runtime(machine: Machine) -> None:
    versions(machine.monkeypatch, torch="2.13.0")
    found = machine.diagnose()
    assert [(runtime.runtime, runtime.runs) for runtime in found.gpu_runtimes] == [
        ("onnxruntime", True),
        ("tensorrt", True),
        ("tensorrt-rtx", False),
        ("aoti", True),
    ]
    export = "alexnet export CHECKPOINT --runtime"
    assert runtime_of(found, "tensorrt").command == f"{export} tensorrt --build docker"
    assert runtime_of(found, "onnxruntime").command == f"{export} onnxruntime"
    rtx = runtime_of(found, "tensorrt-rtx")  # which does not build for an H100
    assert (rtx.missing, rtx.fix) == (("a GPU of compute capability 8.0, 8.6, 8.9, 12.0, 12.1",), "")
    assert not rtx.served
    machine.gpus(L4)
    assert runtime_of(machine.diagnose(), "tensorrt-rtx").runs


@pytest.mark.parametrize(
    ("packages", "missing"),
    [
        ({"onnxruntime_gpu": "1.31.1", "onnxruntime": None}, ()),
        ({}, ("onnxruntime-gpu",)),
        (
            {"onnxruntime_gpu": "1.31.1"},
            ("onnxruntime-gpu alone: onnxruntime has the same files and no CUDA",),
        ),
    ],
)
def test_without_docker_onnx_runtime_needs_its_build_for_cuda(
    machine: Machine, packages: dict[str, str | None], missing: tuple[str, ...]
) -> None:
    machine.without("docker")
    versions(machine.monkeypatch, **packages)
    found = machine.diagnose()
    runtime = runtime_of(found, "onnxruntime")
    assert (runtime.runs, runtime.missing) == (not missing, missing)
    uninstall = "pip uninstall --yes onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    assert runtime.fix == (uninstall if missing else "")
    tensorrt = runtime_of(found, "tensorrt")
    assert tensorrt.missing == ("Docker client",)
    assert tensorrt.fix == "https://docs.docker.com/engine/install/"
    assert missed(found, EXPORT) == missed(found, SERVE_EMBEDDED) == (), "it has the modules of onnxruntime"


def test_aoti_needs_pytorch_with_cuda(machine: Machine) -> None:
    versions(machine.monkeypatch, torch="2.13.0+cpu")
    runtime = runtime_of(machine.diagnose(), "aoti")
    assert runtime.missing == ("PyTorch with CUDA",)
    assert runtime.fix == "pip install --force-reinstall torch torchvision"


def test_an_old_driver_stops_every_runtime_on_the_gpu(machine: Machine) -> None:
    machine.without("docker")
    versions(machine.monkeypatch, onnxruntime_gpu="1.31.1", onnxruntime=None)
    machine.gpus((0, "NVIDIA A10", "8.6", "550.54.15", 23028))
    found = machine.diagnose()
    assert not any(runtime.runs for runtime in found.gpu_runtimes)
    assert runtime_of(found, "onnxruntime").missing == ("NVIDIA driver",)


def test_without_a_gpu_no_runtime_for_gpus_is_listed(machine: Machine) -> None:
    machine.gpus()
    assert machine.diagnose().gpu_runtimes == ()


def test_several_gpus(machine: Machine) -> None:
    machine.gpus(H100, (1, *H100[1:]), (2, *L4[1:]))
    found = machine.diagnose()
    assert named(found, "NVIDIA GPU").found == "2 × NVIDIA H100 80GB HBM3 (9.0), NVIDIA L4 (8.9)"


def test_a_driver_that_is_too_old(machine: Machine) -> None:
    machine.gpus((0, "NVIDIA A10", "8.6", "550.54.15", 23028))
    found = machine.diagnose()
    assert named(found, "NVIDIA driver").found == "550.54.15, CUDA 13.0, needs 580 or newer"
    assert named(found, "NVIDIA driver").fix.startswith("sudo apt-get install nvidia-driver-580")
    assert "NVIDIA driver" in missed(found, BUILD_TENSORRT)
    assert missed(found, BUILD_IN_DOCKER) == missed(found, SERVE_IN_DOCKER) == ("NVIDIA driver",)


@pytest.mark.parametrize(("hardware", "fix"), [(True, "nvidia-driver-580"), (False, "Use a machine with")])
def test_a_broken_driver_says_why(machine: Machine, hardware: bool, fix: str) -> None:
    device = machine.folder / "pci" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n" if hardware else "0x020000\n")  # or a network card
    machine.monkeypatch.setattr(gpu_checks, "PCI_DEVICES", device.parent)
    failing_nvidia_smi(machine.monkeypatch, machine.folder)
    found = machine.diagnose()
    assert named(found, "NVIDIA GPU").found == NO_DRIVER_LOADED[0]
    assert fix in named(found, "NVIDIA GPU").fix
    assert missed(found, BUILD_IN_DOCKER) == ("NVIDIA GPU",)


def test_one_broken_gpu_is_a_note(machine: Machine) -> None:
    script = "echo '0, NVIDIA L4, 8.9, 580.95.05, 23034'; echo '1, [GPU is lost]'"
    install_nvidia_smi(machine.monkeypatch, machine.folder, script)
    check = named(machine.diagnose(), "NVIDIA GPU")
    assert check.status == "warning"
    assert check.found == "NVIDIA L4 (8.9); nvidia-smi printed '1, [GPU is lost]'"


def test_without_a_gpu_docker_serves_on_the_cpu(machine: Machine) -> None:
    machine.gpus()
    found = machine.diagnose()
    assert missed(found, SERVE_IN_DOCKER) == ()
    assert named(found, "Triton image for CPUs").found == CPU_IMAGE
    assert named(found, "NVIDIA toolkit").found == "not checked: no GPU was found"
    assert named(found, "Triton image").found == "not checked: no GPU was found"
    assert missed(found, BUILD_IN_DOCKER) == ("NVIDIA GPU",)
    assert (
        missed(found, "export --runtime tensorrt-rtx") == missed(found, EXPORT) == missed(found, TRAIN) == ()
    )


def test_no_docker(machine: Machine) -> None:
    machine.without("docker")
    found = machine.diagnose()
    assert missed(found, SERVE_IN_DOCKER) == missed(found, BUILD_IN_DOCKER) == ("Docker client",)
    assert named(found, "Docker Engine").found == "not checked: no Docker client"
    assert named(found, "Docker client").fix == "https://docs.docker.com/engine/install/"
    assert found.main_job.commands == (EXPORT, SERVE_EMBEDDED, CLASSIFY)


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///x",
            "sudo usermod -aG docker $USER, and log in again.",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            "sudo systemctl start docker",
        ),
        ("something new", "alexnet doctor"),
    ],
)
def test_an_engine_that_does_not_answer(machine: Machine, said: str, fix: str) -> None:
    machine.program("docker", f"echo '{said}' >&2; exit 1")
    found = machine.diagnose()
    assert said.partition(".")[0] in named(found, "Docker Engine").found
    if fix == "alexnet doctor":  # which is what the user is running
        fix = "docker info"
    assert named(found, "Docker Engine").fix == fix
    assert missed(found, SERVE_IN_DOCKER) == ("Docker Engine",)
    assert named(found, "NVIDIA GPU").status == "ok", "one failure hides nothing else"


def test_what_hangs_is_given_up_and_hides_nothing(machine: Machine) -> None:
    machine.monkeypatch.setattr(gpus, "DEADLINE_S", 0.2)
    machine.monkeypatch.setattr(docker.ask, "__kwdefaults__", {"timeout_s": 0.2})
    hanging_nvidia_smi(machine.monkeypatch, machine.folder)
    machine.program("docker", "exec sleep 600")
    found = machine.diagnose()
    assert named(found, "NVIDIA GPU").found == "nvidia-smi did not end in 0.2 s"
    assert named(found, "Docker Engine").found == "no output in 0.2 s"
    assert named(found, "Docker Engine").fix == "docker info"
    assert missed(found, SERVE_EMBEDDED) == missed(found, EXPORT) == ()


@pytest.mark.parametrize(
    ("info", "toolkit", "status", "found"),
    [
        (NVIDIA_RUNTIME, "exit 127", "ok", "a Docker runtime"),
        (CDI_DEVICE, "exit 127", "ok", "a device that Docker knows"),
        (NO_RUNTIME, "exit 127", "missing", "Docker knows neither its runtime nor its devices"),
        (
            NO_RUNTIME,
            "echo NVIDIA Container Toolkit CLI version 1.18.0; echo commit: x",
            "warning",
            "NVIDIA Container Toolkit CLI version 1.18.0, but Docker is not configured for it",
        ),
        (NO_RUNTIME, "exec sleep 600", "missing", "Docker knows neither its runtime nor its devices"),
    ],
)
def test_the_toolkit_that_gives_containers_the_gpu(
    machine: Machine, info: object, toolkit: str, status: str, found: str
) -> None:
    machine.monkeypatch.setattr(gpu_checks, "TOOLKIT_DEADLINE_S", 0.5)
    machine.docker(info=info)
    machine.program("nvidia-ctk", toolkit)
    report = machine.diagnose()
    check = named(report, "NVIDIA toolkit")
    assert (check.status, check.found) == (status, found)
    assert check.fix == ("" if status == "ok" else docker.INSTALL_TOOLKIT)
    assert missed(report, SERVE_IN_DOCKER) == (("NVIDIA toolkit",) if status == "missing" else ())


@pytest.mark.parametrize("said", ["", "not JSON", "[]"])
def test_a_docker_that_talks_nonsense_hides_nothing(machine: Machine, said: str) -> None:
    machine.program("nvidia-ctk", "exit 127")
    machine.program("docker", f"echo '{said}'")
    found = machine.diagnose()
    assert {"NVIDIA toolkit", "Triton image"} <= set(missed(found, SERVE_IN_DOCKER))
    assert missed(found, SERVE_EMBEDDED) == ()


def test_images_that_are_not_here(machine: Machine) -> None:
    machine.docker(images=())
    found = machine.diagnose()
    assert missed(found, SERVE_IN_DOCKER) == missed(found, BUILD_IN_DOCKER) == ("Triton image",)
    assert named(found, "Triton image").fix == f"docker pull {TRITON_IMAGE}"
    machine.gpus()
    found = machine.diagnose()
    assert missed(found, SERVE_IN_DOCKER) == ("Triton image for CPUs",)
    assert named(found, "Triton image for CPUs").fix.startswith(BUILD_CPU_IMAGE)


def test_the_image_here_says_which_tensorrt_it_has(machine: Machine) -> None:
    versions(machine.monkeypatch, tensorrt="11.1.0.106")
    machine.docker(tensorrt="11.4.0.106")
    check = named(machine.diagnose(), "TensorRT")
    assert (check.status, check.fix) == ("warning", "pip install tensorrt==11.4.0.106")


def test_without_the_image_nothing_is_known_of_its_tensorrt(machine: Machine, artifacts: Artifacts) -> None:
    with_engines(artifacts, machine.out, H200)
    versions(machine.monkeypatch, tensorrt="11.4.0.106")
    machine.gpus((0, "NVIDIA H200", "9.0", "580.95.05", 143771))
    machine.docker(images=())
    found = machine.diagnose()
    check = named(found, "TensorRT")
    assert (check.status, check.fix) == ("warning", "")
    assert "an unknown version, because it is not here" in check.found
    (first, _) = found.engines
    assert first.results[0].target.startswith("TensorRT (version unknown) on NVIDIA H200")
    assert first.results[0].loads


def test_engines_load_here_or_have_a_reason_and_a_fix(machine: Machine, artifacts: Artifacts) -> None:
    exported = with_engines(artifacts, machine.out, H200)
    write_repository(
        exported.manifest, exported.folder, machine.repository, RepositoryOptions(runtime="tensorrt")
    )
    machine.gpus((0, "NVIDIA H200", "9.0", "580.95.05", 143771), (1, *L4[1:]))
    found = machine.diagnose()
    # Once, though the export and the repository both record them.
    assert [(engine.folder, engine.precision) for engine in found.engines] == [
        (str(machine.repository), "fp32"),
        (str(machine.repository), "int8"),
    ]
    for engine in found.engines:
        assert engine.built_for == "TensorRT 11.1.0.106 on NVIDIA H200 (9.0)"
        on_h200, on_l4 = engine.results
        assert (on_h200.loads, on_h200.reason) == (True, "")
        assert (on_l4.loads, on_l4.reason) == (False, "it runs on NVIDIA H200 only")
        command = f"alexnet export {machine.repository} --runtime tensorrt --build docker "
        command += f"--repository {machine.repository}"
        assert engine.fix == f"{command} --profile 1,8,8"
    assert named(found, "record of --repository").found.endswith("engines: 2")


def repository_of_engines(machine: Machine, artifacts: Artifacts) -> None:
    exported = with_engines(artifacts, machine.out, H200)
    options = RepositoryOptions(runtime="tensorrt")
    write_repository(exported.manifest, exported.folder, machine.repository, options)


def test_engines_without_a_gpu_are_served_by_nothing_here(machine: Machine, artifacts: Artifacts) -> None:
    repository_of_engines(machine, artifacts)
    machine.gpus()
    found = machine.diagnose()
    assert missed(found, "serve --with embedded") == ("models of --repository",)
    assert not found.main_job.runs
    beside = machine.repository.with_name("model_repository_onnx")
    assert found.main_job.first_fix == f"alexnet export {machine.repository} --repository {beside}"
    assert "engines of --repository" not in {check.name for check in found.checks}, "no GPU is enough said"


def test_what_is_served_now_does_not_stop_another_runtime(machine: Machine, artifacts: Artifacts) -> None:
    repository_of_engines(machine, artifacts)
    machine.without("docker")
    versions(machine.monkeypatch, onnxruntime_gpu="1.31.1", onnxruntime=None)
    found = machine.diagnose()
    assert missed(found, SERVE_EMBEDDED) == ("models of --repository",)
    assert runtime_of(found, "onnxruntime").runs


def test_engines_for_another_gpu_are_not_served_here(machine: Machine, artifacts: Artifacts) -> None:
    repository_of_engines(machine, artifacts)
    machine.gpus(L4)
    machine.docker()
    found = machine.diagnose()
    assert missed(found, "serve --with docker") == ("engines of --repository",)
    check = named(found, "engines of --repository")
    assert "NVIDIA H200" in check.found
    assert "NVIDIA L4" in check.found
    assert check.fix.startswith(f"alexnet export {machine.repository} --runtime tensorrt --build docker")
    assert not found.main_job.runs


def test_engines_for_this_gpu_are_served(machine: Machine, artifacts: Artifacts) -> None:
    repository_of_engines(machine, artifacts)
    machine.gpus((0, "NVIDIA H200", "9.0", "580.95.05", 143771))
    machine.docker()
    found = machine.diagnose()
    assert missed(found, "serve --with docker") == ()
    assert "serve --with docker" in found.main_job.commands
    assert found.main_job.runs


def test_two_gpu_models_of_one_compute_capability_are_two_targets(
    machine: Machine, artifacts: Artifacts
) -> None:
    with_engines(artifacts, machine.out, H200)
    machine.gpus(H100, (1, "NVIDIA H200", "9.0", "580.95.05", 143771))
    (first, _) = machine.diagnose().engines
    assert [loading.loads for loading in first.results] == [False, True]
    command = (
        f"alexnet export {machine.out} --runtime tensorrt --build docker --repository {machine.repository}"
    )
    assert first.fix == f"{command} --profile 1,8,8"


def test_engines_of_another_tensorrt_than_the_image_here(machine: Machine, artifacts: Artifacts) -> None:
    with_engines(artifacts, machine.out, H200)
    machine.gpus((0, "NVIDIA H200", "9.0", "580.95.05", 143771))
    machine.docker(tensorrt="11.4.0.106")
    (first, _) = machine.diagnose().engines
    assert first.results[0].target.startswith("TensorRT 11.4.0.106 on NVIDIA H200")
    assert first.results[0].reason == "TensorRT 11.4.0.106 loads only its own engines"


@pytest.mark.parametrize(
    ("passport", "needs"),
    [
        ({}, "TensorRT 11.1.0.106 on NVIDIA L4 (8.9)"),
        (
            {"hardware_compatibility": "same-compute-capability"},
            "TensorRT 11.1.0.106 on a GPU of compute capability 8.9",
        ),
        (
            {"hardware_compatibility": "ampere-plus", "version_compatible": True},
            "TensorRT 11.1.0.106 or newer on an Ampere GPU or newer",
        ),
    ],
)
def test_without_a_gpu_an_engine_says_what_it_needs(
    machine: Machine, artifacts: Artifacts, passport: dict[str, Any], needs: str
) -> None:
    machine.gpus()
    with_engines(artifacts, machine.out, L4_GPU, **passport)
    for engine in machine.diagnose().engines:
        assert (engine.needs, engine.results, engine.fix) == (needs, (), "")


def test_an_rtx_engine_is_not_for_triton_and_has_no_fix(machine: Machine, artifacts: Artifacts) -> None:
    with_engines(
        artifacts,
        machine.out,
        runtime="tensorrt-rtx",
        runtime_version="1.7.1.116",
        targets=("sm89", "sm120"),
        gpu_name=None,
        compute_capability=None,
    )
    for engine in machine.diagnose().engines:
        assert engine.needs == "TensorRT-RTX 1.7.1.116 on a GPU of sm89, sm120"
        assert [loading.loads for loading in engine.results] == [False]
        assert engine.fix == ""


def test_every_export_of_a_repository_is_looked_at(machine: Machine, artifacts: Artifacts) -> None:
    repository_of_engines(machine, artifacts)
    model = artifacts.manifest.model.model_copy(update={"name": "flowers"})
    flowers = artifacts.manifest.model_copy(update={"model": model, "model_version": 2})
    write_repository(flowers, artifacts.folder, machine.repository, replace="version")
    machine.gpus(L4)
    found = machine.diagnose()
    record = named(found, "record of --repository").found
    words = "alexnet: fp32, int8; flowers version 2: fp32, int8"
    assert record == f"{words} in {machine.repository}, engines: 2"
    assert [engine.file for engine in found.engines] == ["alexnet_fp32.sm90.plan", "alexnet_int8.sm90.plan"]
    assert all("--name alexnet" in engine.fix for engine in found.engines)
    fix = named(found, "models of --repository").fix
    assert [command.split("--name ")[1] for command in fix.split(" && ")] == ["alexnet", "flowers --add"]


def test_an_rtx_engine_for_the_gpu_it_was_built_on(machine: Machine, artifacts: Artifacts) -> None:
    """Without named targets it is that GPU's."""
    with_engines(artifacts, machine.out, L4_GPU, runtime="tensorrt-rtx", runtime_version="1.7.1.116")
    for engine in machine.diagnose().engines:
        assert engine.built_for == "TensorRT-RTX 1.7.1.116 on NVIDIA L4 (8.9)"
        assert engine.needs == "TensorRT-RTX 1.7.1.116 on a GPU of compute capability 8.9"


def test_a_record_that_cannot_be_read_is_a_note(machine: Machine) -> None:
    machine.out.mkdir()
    (machine.out / "export.json").write_text("{}")
    check = named(machine.diagnose(), "record of --out")
    assert check.status == "warning"
    assert check.found.startswith(f"{machine.out}/export.json")
    assert check.fix == "alexnet export CHECKPOINT"


@pytest.mark.parametrize(
    ("backend", "gpu", "image", "needs_gpu"),
    [
        ("tensorrt", False, "Triton image", True),
        ("onnxruntime", False, "Triton image", False),
        ("onnxruntime", True, "Triton image", True),
        ("openvino_dynamic", True, "Triton image for CPUs", False),
        ("another", True, "Triton image", False),
    ],
)
def test_what_docker_needs_follows_from_the_repository(
    machine: Machine, backend: str, gpu: bool, image: str, needs_gpu: bool
) -> None:
    model = machine.repository / "alexnet_fp32"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text(f'name: "alexnet_fp32"\nbackend: "{backend}"\n')
    if not gpu:
        machine.gpus()
    found = machine.diagnose()
    assert SERVE_IN_DOCKER in named(found, image).needed_by
    assert (SERVE_IN_DOCKER in named(found, "NVIDIA GPU").needed_by) is needs_gpu
