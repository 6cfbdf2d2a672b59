"""Engines of AOTInductor: what is refused before anything is loaded, built or compiled, and CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_export import EngineOptions, refuse_unbuildable
from alexnet_export.engines import aoti_builder, aoti_compiler, aoti_runner
from alexnet_export.engines.aoti_runner import AotiRunner, runner_from_source
from alexnet_export.runners import RunnerSource
from alexnet_model import Contract
from alexnet_model.environment import cpu_extensions, versions_of
from alexnet_model.errors import EngineError, ExportError, ManifestError, UsageError
from alexnet_model.files import sha256_of_file
from alexnet_model.passport import Passport, Profile, write_passport

from ..stand_ins.host_gpu import HostGpu
from ..stand_ins.nvidia_smi import H100, L4, fake_nvidia_smi, no_nvidia_smi

CONTRACT = Contract(size=32, resize=32)
TORCH = versions_of("torch")["torch"]
OPTIONS = EngineOptions(runtime="aoti")
FOR_H100 = {"cpu": None, "gpu_name": "NVIDIA H100", "compute_capability": "9.0"}


def passport_for(engine: Path, **changed: Any) -> Passport:
    """The passport of a made-up engine for this machine's CPU."""
    values: dict[str, Any] = {
        "runtime": "aoti",
        "runtime_version": TORCH,
        "precision": "fp32",
        "profile": Profile(min=1, opt=2, max=4),
        "onnx_sha256": "0" * 64,
        "engine_sha256": sha256_of_file(engine),
        "engine_size_bytes": engine.stat().st_size,
        "gpu_name": None,
        "compute_capability": None,
        "cpu": "this CPU",
        "cpu_extensions": cpu_extensions(),
        "layer_precisions": {"f32": 1},
        "build_seconds": 1.0,
        "built_at": "2026-01-01T00:00:00+00:00",
    }
    return Passport.model_validate({**values, **changed})


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "alexnet_fp32.aoti-cpu.pt2"
    path.write_bytes(b"no archive")
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that PyTorch's loader was given."""
    given: list[str] = []

    def loader(path: str, *_: object) -> FakeLoader:
        given.append(path)
        return FakeLoader()

    monkeypatch.setattr(aoti_runner, "AOTIModelPackageLoader", loader)
    return given


class FakeLoader:
    """Gives the mean of each image as logits, and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.runs += 1
        logits = inputs[0].float().mean(dim=(1, 2))
        return [torch.softmax(logits, 1), logits]


def runner_of(engine: Path, passport: Passport, **options: Any) -> AotiRunner:
    return AotiRunner(engine, passport, classes=3, contract=CONTRACT, **options)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"engine_sha256": "1" * 64}, "got another file than its passport describes"),
        ({"runtime_version": "2.9.0"}, rf"got PyTorch {TORCH.replace('+', '.')}, expected 2\.9\.0"),
        ({"cpu_extensions": ("avx2", "avx9000")}, "got a CPU without avx9000"),
        (
            {"compute_capability": "9.0", "gpu_name": "NVIDIA H100", "cpu": None},
            "got the CPU, expected NVIDIA",
        ),
    ],
)
def test_what_was_built_for_another_machine_is_never_loaded(
    changed: dict[str, Any], words: str, engine: Path, loads: list[str]
) -> None:
    with (
        pytest.raises(EngineError, match=words) as caught,
        runner_of(engine, passport_for(engine, **changed)),
    ):
        pytest.fail("loaded")
    assert "Build it here" in str(caught.value)
    assert loads == []


def test_a_cpu_engine_is_not_run_on_a_gpu(engine: Path, loads: list[str]) -> None:
    runner = runner_of(engine, passport_for(engine), device=HostGpu())
    with pytest.raises(EngineError, match=r"got NVIDIA H100 \(9\.0\), expected this CPU"), runner:
        pytest.fail("loaded")
    assert loads == []


def test_an_engine_for_another_gpu_is_not_run(engine: Path, loads: list[str]) -> None:
    passport = passport_for(engine, **{**FOR_H100, "gpu_name": "NVIDIA L4", "compute_capability": "8.9"})
    words = r"got NVIDIA H100 \(9\.0\), expected NVIDIA L4 \(8\.9\), for which it was compiled"
    with pytest.raises(EngineError, match=words), runner_of(engine, passport, device=HostGpu()):
        pytest.fail("loaded")
    assert loads == []


def test_a_file_that_is_no_archive_is_one_line(engine: Path) -> None:
    with pytest.raises(EngineError, match="expected an engine that loads here") as caught:
        runner_of(engine, passport_for(engine)).__enter__()
    assert "\n" not in str(caught.value)


def test_an_engine_without_a_passport(engine: Path) -> None:
    source = RunnerSource(file=engine, precision="fp32", contract=CONTRACT, classes=3, max_batch=4)
    with pytest.raises(ManifestError, match=r"passport of alexnet_fp32\.aoti-cpu\.pt2"):
        runner_from_source(source)
    passport = passport_for(engine)
    assert write_passport(passport, engine).name == "alexnet_fp32.aoti-cpu.passport.json"
    assert runner_from_source(source).runtime.computes_in == "f32"


def test_batches_above_the_profile_are_refused(engine: Path, loads: list[str]) -> None:
    with runner_of(engine, passport_for(engine)) as runner, pytest.raises(EngineError, match="at most 4"):
        runner.infer(np.zeros((5, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_each_batch_size_has_a_graph_with_outputs_of_its_own(
    cuda_graphs: bool, engine: Path, loads: list[str]
) -> None:
    gpu = HostGpu()
    passport = passport_for(engine, **FOR_H100)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    with runner_of(engine, passport, device=gpu, cuda_graphs=cuda_graphs) as runner:
        for batch in (1, 3, 1, 4, 3):
            outputs = runner.infer(images[:batch])
            np.testing.assert_allclose(outputs.logits, images[:batch].mean(axis=(1, 2)), rtol=1e-4)
        placed = runner.place(images[:2])
        runner.take(placed)
        runner.launch()
        assert gpu.captures == (4 if cuda_graphs else 0)
        assert runner.runtime.device == "NVIDIA H100"


def test_a_full_gpu_is_one_line(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

    monkeypatch.setattr(aoti_runner, "AOTIModelPackageLoader", full)
    passport = passport_for(engine, **FOR_H100)
    with pytest.raises(EngineError, match=r"got 5 MB free on NVIDIA H100, expected more than.*nvidia-smi"):
        runner_of(engine, passport, device=HostGpu()).__enter__()


def test_a_network_that_cannot_be_captured_is_one_line(engine: Path, loads: list[str]) -> None:
    class Gpu(HostGpu):
        def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    passport = passport_for(engine, **FOR_H100)
    words = r"stream is capturing \(5 MB free\), at a batch of 2 with CUDA graphs, expected a network"
    with (
        runner_of(engine, passport, device=Gpu(), cuda_graphs=True) as runner,
        pytest.raises(EngineError, match=words) as caught,
    ):
        runner.infer(np.zeros((2, 32, 32, 3), np.uint8))
    assert "\n" not in str(caught.value)


class TestBuilders:
    def test_one_for_the_cpu_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        no_nvidia_smi(monkeypatch, tmp_path)
        (builder,) = aoti_builder.builders_from(OPTIONS)
        assert (builder.label, builder.suffix) == ("aoti-cpu", ".pt2")
        assert set(builder.not_built) == {"fp16", "int8"}
        refuse_unbuildable([builder], ())
        refuse_unbuildable([builder], ("fp32", "fp16"))
        with pytest.raises(ExportError, match="fp16,int8 as aoti-cpu engine: got PyTorch has no fast half"):
            refuse_unbuildable([builder], ("fp16", "int8"))

    def test_one_for_each_kind_of_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fake_nvidia_smi(monkeypatch, tmp_path, [H100, L4])
        monkeypatch.setattr(aoti_builder, "CudaDevice", lambda _: HostGpu())
        builders = aoti_builder.builders_from(OPTIONS)
        assert [builder.label for builder in builders] == ["aoti-sm90", "aoti-sm89"]
        assert [set(builder.not_built) for builder in builders] == [{"int8"}] * 2

    def test_a_gpu_that_pytorch_cannot_use(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        if torch.cuda.is_available():
            pytest.skip("PyTorch can use this GPU")
        fake_nvidia_smi(monkeypatch, tmp_path, [H100])
        with pytest.raises(EngineError, match="PyTorch: got"):
            aoti_builder.builders_from(OPTIONS)

    @pytest.mark.parametrize("hidden", ["", "-1"])
    def test_a_hidden_gpu_or_an_old_driver_is_one_line_without_a_warning(
        self, hidden: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def unavailable() -> bool:
            warnings.warn("CUDA initialization: The NVIDIA driver is too old", UserWarning, stacklevel=1)
            return False

        fake_nvidia_smi(monkeypatch, tmp_path, [H100])
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", unavailable)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(
                EngineError, match=r"CUDA 13\.0 can use with driver 580\.95\.05, expected NVIDIA H100"
            ) as caught:
                aoti_builder.builders_from(OPTIONS)
        assert str(caught.value).endswith("Update the driver, or check CUDA_VISIBLE_DEVICES.")
        assert "\n" not in str(caught.value)

    def test_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        no_nvidia_smi(monkeypatch, tmp_path)
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(
            EngineError, match=r"C\+\+ compiler: got no no-such-compiler.*apt-get install g\+\+"
        ) as error:
            aoti_builder.builders_from(OPTIONS)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "options", [{"targets": ("sm89",)}, {"version_compatible": True}, {"build": "docker"}]
    )
    def test_options_of_other_runtimes(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="--runtime aoti"):
            EngineOptions(runtime="aoti", **options)


class TestCompilingProcess:
    """The process of its own, with a program in place of the compiler."""

    @pytest.fixture
    def program(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
        def install(script: str) -> None:
            path = tmp_path / "python"
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
            monkeypatch.setattr("sys.executable", str(path))

        return install

    def job(self, folder: Path) -> aoti_compiler.CompileJob:
        return aoti_compiler.CompileJob(
            onnx="x.onnx",
            engine=str(folder / "x.pt2"),
            facts=str(folder / "facts.json"),
            image_shape=(32, 32, 3),
            opt_batch=2,
            max_batch=4,
            gpu=0,
            autotune=True,
        )

    def test_its_last_error_is_the_reason(self, program: Callable[[str], None], tmp_path: Path) -> None:
        program(
            "echo 'torch._inductor.exc.InductorError: RuntimeError: no kernel'; echo 'Set TORCH_LOGS'; exit 1"
        )
        with pytest.raises(EngineError, match=r"x\.onnx: got .*RuntimeError: no kernel, expected"):
            aoti_compiler._run(self.job(tmp_path), tmp_path, 10, lambda _: None)

    def test_tuning_ends_at_its_time_limit_and_leaves_no_process(
        self, program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(aoti_compiler, "AUTOTUNE_LIMIT_S", 0.3)
        monkeypatch.setattr(aoti_compiler, "POLL_S", 0.1)
        pid = tmp_path / "pid"
        program(
            f'case "$*" in *\'"autotune": true\'*) sleep 60 & echo $! > {pid}; wait ;;'
            f" *) echo '{{}}' > {tmp_path}/facts.json ;; esac"
        )
        seen: list[str] = []
        tuned = aoti_compiler._compile(
            self.job(tmp_path), tmp_path, "building", lambda _, done, total, note="": seen.append(note)
        )
        assert not tuned
        assert "measuring kernels" in seen
        status = Path(f"/proc/{pid.read_text().strip()}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    def test_an_interrupt_ends_it(self, program: Callable[[str], None], tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        program(f"echo $$ > {pid}; sleep 60")

        def interrupt(_: int) -> None:
            if pid.exists() and pid.read_text():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            aoti_compiler._run(self.job(tmp_path), tmp_path, 30, interrupt)
        status = Path(f"/proc/{pid.read_text().strip()}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    def test_an_interrupt_leaves_nothing_half_written(
        self, program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "export"
        folder.mkdir()
        started = tmp_path / "started"
        program(
            """engine=$(echo "$*" | sed -n 's/.*"engine": "\\([^"]*\\)".*/\\1/p'); echo half > "$engine" """
            f'&& ls "$engine" > {started}; sleep 60'
        )
        monkeypatch.setattr(aoti_compiler, "torch_from_onnx", lambda _: None)

        def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
            if started.exists() and started.read_text():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            aoti_compiler.engine_from_onnx(
                folder / "x.onnx",
                folder / "x.pt2",
                OPTIONS,
                precision="fp32",
                profile=Profile(min=1, opt=2, max=4),
                contract=CONTRACT,
                progress=interrupt,
            )
        assert started.read_text().strip().endswith("/x.pt2"), "it had begun to write"
        assert list(folder.iterdir()) == []

    def test_a_full_gpu_is_named_with_what_is_free_and_needed(
        self, program: Callable[[str], None], tmp_path: Path
    ) -> None:
        reason = (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. "
            "GPU 0 has a total capacity of 79.19 GiB of which 5.00 MiB is free."
        )
        program(f"echo 'Traceback (most recent call last):'; echo '{reason}'; exit 1")
        with pytest.raises(EngineError, match=r"allocate 2\.00 GiB.*5\.00 MiB is free") as caught:
            aoti_compiler._run(self.job(tmp_path), tmp_path, 10, lambda _: None)
        assert "\n" not in str(caught.value)
