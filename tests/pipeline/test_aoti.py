"""AOTInductor from a network to a served model, compiled once for the CPU of this machine."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_bench.engines import benchmark
from alexnet_cli.main import run
from alexnet_clients import Client
from alexnet_export import RunnerSource, open_runner
from alexnet_export.engines import aoti_compiler
from alexnet_model import Contract
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import EngineError, EngineRefused, ManifestError
from alexnet_model.manifest import manifest_from_folder, verify_engine
from alexnet_model.passport import passport_path
from alexnet_pipeline import ExportOptions, ExportResult, export_model
from alexnet_serving import (
    DockerServer,
    EmbeddedServer,
    choice_of_server,
    diagnose,
    engine_compatibility,
    lint,
)

from ..bench.sweep_fakes import fixed_ceilings
from ..stand_ins.nvidia_smi import no_nvidia_smi

pytestmark = pytest.mark.slow  # a C++ compiler runs for half a minute

MAX_BATCH = 4
ENGINE = "small_fp32.aoti-cpu.pt2"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportResult]:
    """A small network that was exported and compiled. Tests must not change its folders."""
    folder = tmp_path_factory.mktemp("aoti") / "in a path with spaces"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        no_nvidia_smi(patch, folder)
        options = ExportOptions(
            runtime="aoti",
            name="small",
            contract=Contract(size=32, resize=32),
            max_batch=MAX_BATCH,
            out=folder / "export",
            repository=folder / "models",
        )
        layers = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        yield export_model(nn.Sequential(*layers, nn.Linear(8, 10)).eval(), options)


@pytest.fixture
def repository(compiled: ExportResult, tmp_path: Path) -> Path:
    """A copy, which a test may break."""
    return Path(shutil.copytree(compiled.repository, tmp_path / "models"))


def images(count: int = MAX_BATCH) -> Uint8Array:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def source_of(compiled: ExportResult, file: Path | None = None) -> RunnerSource:
    assert compiled.folder is not None
    return RunnerSource(
        file=file or compiled.folder / ENGINE,
        precision="fp32",
        contract=compiled.manifest.contract,
        classes=10,
        max_batch=MAX_BATCH,
    )


def test_the_gate_judges_the_compiled_network(compiled: ExportResult) -> None:
    fp32, fp16 = compiled.manifest.artifacts
    (engine,) = fp32.engines
    assert engine.file == ENGINE
    assert engine.accepted
    assert engine.report is not None
    assert [row.batch for row in engine.report.parity] == [1, 2, 3, 4]
    assert all(row.finite and row.same_top1 for row in engine.report.parity)
    assert engine.report.signal_to_noise_db > 80
    assert engine.report.runtime.name == "aoti"
    assert engine.report.runtime.computes_in == "f32"
    assert fp16.engines == ()
    assert compiled.notes[1:] == (
        "No engine in FP16: PyTorch has no fast half-precision convolutions on most CPUs.",
    )


def test_the_passport_says_what_compiled_it_and_for_what(compiled: ExportResult) -> None:
    assert compiled.folder is not None
    engine = compiled.manifest.artifacts[0].engines[0]
    verify_engine(engine, compiled.folder / ENGINE)
    passport = engine.passport
    assert passport.runtime_version == torch.__version__
    assert passport.cpu
    assert "sse2" in passport.cpu_extensions or "asimd" in passport.cpu_extensions
    assert (passport.gpu_name, passport.compute_capability, passport.autotuned) == (None, None, False)
    assert passport.layer_precisions == {"f32": 2}
    assert passport.built_for == f"AOTInductor {torch.__version__} on {passport.cpu}"


def test_nothing_else_is_left_in_the_folder(compiled: ExportResult) -> None:
    assert compiled.folder is not None
    assert sorted(path.name for path in compiled.folder.iterdir()) == [
        "export.json",
        "reference.safetensors",
        "small_fp16.onnx",
        "small_fp32.aoti-cpu.passport.json",
        "small_fp32.aoti-cpu.pt2",
        "small_fp32.onnx",
    ]


def test_the_repository_passes_lint_and_computes_on_the_cpu(compiled: ExportResult) -> None:
    assert compiled.models == ("small", "small_decode", "small_fp32")
    assert lint(compiled.repository) == ()
    config = (compiled.repository / "small_fp32" / "config.pbtxt").read_text()
    assert 'backend: "aoti"' in config
    assert "kind: KIND_CPU" in config
    assert "cuda" not in config
    assert choice_of_server(compiled.repository).kind == "embedded"


def test_the_embedded_server_computes_what_the_runner_does(compiled: ExportResult) -> None:
    with open_runner("aoti", source_of(compiled)) as runner:
        expected = runner.infer(images()).probabilities
    with EmbeddedServer(compiled.repository) as server, Client(server.grpc_url) as client:
        predictions = client.classify(list(images()), model="small_fp32", top=1)
    for prediction, probabilities in zip(predictions, expected, strict=True):
        assert prediction.best.index == probabilities.argmax()
        assert prediction.best.probability == pytest.approx(probabilities.max(), abs=1e-5)


def test_another_pytorch_is_refused_before_a_server_starts(
    compiled: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_compatibility, "versions_of", lambda _: {"torch": "2.99.0"})
    with pytest.raises(EngineRefused, match=r"PyTorch 2\.99\.0 loads only its own engines") as caught:
        EmbeddedServer(compiled.repository)
    path = shlex.quote(str(compiled.repository))
    words = f"Build it: alexnet export {path} --runtime aoti --repository {path}"
    assert words in str(caught.value)


def test_another_cpu_is_refused_before_a_server_starts(
    compiled: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    extensions = compiled.manifest.artifacts[0].engines[0].passport.cpu_extensions
    monkeypatch.setattr(engine_compatibility, "cpu_extensions", lambda: extensions[1:])
    with pytest.raises(EngineRefused, match=f"this CPU has no {extensions[0]}"):
        EmbeddedServer(compiled.repository)
    assert compiled.folder is not None
    found = diagnose(compiled.repository, compiled.folder)
    (engine,) = found.engines
    assert not engine.results[0].loads
    assert engine.fix.startswith("alexnet export")


def test_no_image_of_triton_is_started(compiled: ExportResult) -> None:
    with pytest.raises(EngineRefused, match=r"this machine's PyTorch.*alexnet serve --with embedded"):
        DockerServer(compiled.repository)


def test_a_truncated_engine_is_found_by_lint_and_never_loaded(
    compiled: ExportResult, repository: Path
) -> None:
    engine = repository / "small_fp32" / "1" / "model.pt2"
    content = engine.read_bytes()
    engine.unlink()
    engine.write_bytes(content[: len(content) // 2])
    (finding,) = lint(repository)
    assert finding.file == "small_fp32/1/model.pt2"
    assert finding.about_engine
    with (
        pytest.raises(EngineError, match="another file than its passport"),
        open_runner("aoti", source_of(compiled, engine)),
    ):
        pytest.fail("loaded")


def test_a_repository_alone_is_compiled_again(
    compiled: ExportResult, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its ONNX files. The compiling process is replaced: the first export has run it."""
    assert compiled.folder is not None
    first = compiled.folder / ENGINE
    compiled_again: list[str] = []

    def compile_again(job: aoti_compiler.CompileJob, *_: object) -> bool:
        shutil.copyfile(first, job.engine)
        Path(job.facts).write_text('{"layer_precisions": {"f32": 2}}')
        compiled_again.append(Path(job.onnx).name)
        return False

    monkeypatch.setattr(aoti_compiler, "_compile", compile_again)
    passport = passport_path(repository / "small_fp32" / "1" / "model.pt2")
    passport.write_text(passport.read_text().replace('"aoti"', '"tensorrt"'))
    with pytest.raises(ManifestError):
        verify_engine(
            manifest_from_folder(repository, "small.1.export.json").artifacts[0].engines[0],
            repository / "small_fp32" / "1" / "model.pt2",
        )
    no_nvidia_smi(monkeypatch, repository.parent)
    result = export_model(repository, ExportOptions(runtime="aoti", repository=repository))
    assert len(result.left_out) == 1, "the engine with the edited passport"
    assert compiled_again == ["small_fp32.onnx"]
    assert lint(repository) == ()


def test_the_engine_benchmark_measures_it(
    compiled: ExportResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "device_process", fixed_ceilings)
    arguments = ["bench", "engine", str(compiled.folder), "--runtime", "aoti", "--batch", "1"]
    assert run([*arguments, "--seconds", "0.2", "--repeats", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["engines"]
    assert row["engine"]["runtime"] == "aoti"
    assert row["engine"]["computes_in"] == "f32"
