"""What `nvidia-smi` says, as found on real machines: healthy, absent, broken, hanging, old and new."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from alexnet_model import gpus
from alexnet_model.gpus import Gpu, GpuSurvey, gpus_here, version_from_text

from ..stand_ins.nvidia_smi import (
    H100,
    L4,
    NO_DRIVER_LOADED,
    VERSION_MISMATCH,
    failing_nvidia_smi,
    fake_nvidia_smi,
    hanging_nvidia_smi,
    install_nvidia_smi,
    no_nvidia_smi,
)


def test_one_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, gpus=[H100], cuda="13.0")
    gpu = Gpu(
        index=0,
        name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        driver="580.95.05",
        memory_mib=81559,
    )
    assert gpus_here() == GpuSurvey(gpus=(gpu,), cuda="13.0")
    assert gpu.target == "sm90"
    assert str(gpu) == "NVIDIA H100 80GB HBM3 (9.0, driver 580.95.05)"


def test_several_gpus_and_their_kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [H100, (1, *H100[1:]), (2, *L4[1:])]
    fake_nvidia_smi(monkeypatch, tmp_path, gpus=rows)
    survey = gpus_here()
    assert [gpu.index for gpu in survey.gpus] == [0, 1, 2]
    assert [(gpu.index, gpu.target) for gpu in survey.kinds] == [(0, "sm90"), (2, "sm89")]
    assert survey.problem == ""


def test_a_gpu_that_shares_the_processors_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, gpus=[(0, "NVIDIA GB10", "12.1", "580.95.05", None)])
    (gpu,) = gpus_here().gpus
    assert (gpu.memory_mib, gpu.target) == (None, "sm121")


@pytest.mark.parametrize(
    ("head", "cuda"),
    [
        ("| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |", "12.4"),
        ("| NVIDIA-SMI 590.44.01    KMD Version: 590.44.01    CUDA UMD Version: 13.1     |", "13.1"),
        ("| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: N/A      |", None),
        ("", None),
    ],
)
def test_the_newest_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: str, cuda: str | None
) -> None:
    script = f'case "$1" in --query-gpu=*) echo "0, L4, 8.9, 580.95.05, 23034";; *) echo "{head}";; esac'
    install_nvidia_smi(monkeypatch, tmp_path, script)
    survey = gpus_here()
    assert survey.cuda == cuda
    assert [gpu.name for gpu in survey.gpus] == ["L4"]


def test_a_head_that_fails_costs_only_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = 'case "$1" in --query-gpu=*) echo "0, L4, 8.9, 580.95.05, 23034";; *) exit 1;; esac'
    install_nvidia_smi(monkeypatch, tmp_path, script)
    survey = gpus_here()
    assert (len(survey.gpus), survey.cuda, survey.problem) == (1, None, "")


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    assert gpus_here() == GpuSurvey(problem="no NVIDIA driver (nvidia-smi is not installed)")


@pytest.mark.parametrize(("said", "code"), [NO_DRIVER_LOADED, VERSION_MISMATCH])
def test_a_broken_driver_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, code: int
) -> None:
    failing_nvidia_smi(monkeypatch, tmp_path, said, code)
    assert gpus_here() == GpuSurvey(problem=said)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 0", "nvidia-smi lists no GPU"),
        ("exit 3", "nvidia-smi ended with 3"),
        ("echo; echo said here >&2; exit 6", "said here"),
        ("echo No devices were found; exit 6", "No devices were found"),
        ("echo '<html>'; echo '</html>'", "nvidia-smi printed '<html>'"),
        ("printf '\\377\\376 \\001'", "nvidia-smi printed '\ufffd\ufffd \\x01'"),
        ("echo '0, K80, [N/A], 470.256.02, 11441'", "nvidia-smi printed '0, K80, [N/A], 470.256.02, 11441'"),
        ("echo 'x, L4, 8.9, 580.95.05, 23034'", "nvidia-smi printed 'x, L4, 8.9, 580.95.05, 23034'"),
    ],
)
def test_what_lists_no_gpu_is_the_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, problem: str
) -> None:
    install_nvidia_smi(monkeypatch, tmp_path, script)
    assert gpus_here() == GpuSurvey(problem=problem)


def test_one_broken_gpu_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = "1, [Unknown Error], [GPU is lost], [GPU is lost], [GPU is lost]"
    install_nvidia_smi(monkeypatch, tmp_path, f"echo '0, L4, 8.9, 580.95.05, 23034'; echo '{lost}'")
    survey = gpus_here()
    assert [gpu.index for gpu in survey.gpus] == [0]
    assert survey.problem == f"nvidia-smi printed {lost!r}"


def test_a_program_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_nvidia_smi(monkeypatch, tmp_path, "").write_bytes(b"\x7fELF of another machine")
    assert gpus_here() == GpuSurvey(problem="nvidia-smi does not run (exec format error)")


def test_a_hanging_driver_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "DEADLINE_S", 0.2)
    hanging_nvidia_smi(monkeypatch, tmp_path)
    assert gpus_here() == GpuSurvey(problem="nvidia-smi did not end in 0.2 s")


def test_a_driver_that_cannot_even_be_killed_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that is held inside the kernel: no signal reaches it, so its end must not be waited for."""
    unkillable: list[subprocess.Popen[str]] = []
    with monkeypatch.context() as deaf:
        deaf.setattr(subprocess.Popen, "kill", lambda process: unkillable.append(process))
        deaf.setattr(gpus, "DEADLINE_S", 0.2)
        deaf.setattr(gpus, "KILLING_S", 0.2)
        install_nvidia_smi(deaf, tmp_path, "exec sleep 20")
        assert gpus_here() == GpuSurvey(problem="nvidia-smi did not end in 0.2 s")
    (process,) = unkillable
    left = process.poll() is None
    process.kill()
    process.wait()
    assert left, "the call did not wait for the process"


@pytest.mark.parametrize(
    ("text", "version"),
    [("580.95.05", "580.95.5"), ("13.0", "13"), ("2.13.0+cpu", "2.13"), ("none", "0"), ("", "0")],
)
def test_version_from_text(text: str, version: str) -> None:
    assert version_from_text(text) == Version(version)
