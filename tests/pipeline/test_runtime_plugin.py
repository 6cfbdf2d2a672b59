"""A runtime of another distribution, from its registration to a served model and a benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_bench.engines import benchmark
from alexnet_cli.main import run
from alexnet_clients import Client
from alexnet_export import runner_from_artifact
from alexnet_model import runtimes
from alexnet_model.errors import ManifestError
from alexnet_model.runtimes import runtime_named
from alexnet_pipeline import ExportOptions, ExportResult, export_model
from alexnet_serving import EmbeddedServer, lint, packed_export

from ..bench.sweep_fakes import fixed_ceilings
from ..networks import SMALL, random_checkpoint

PLUGIN = Path(__file__).parent.parent / "stand_ins" / "runtime_plugin"


@pytest.fixture(scope="module")
def plugin() -> Iterator[None]:
    """Install the distribution: for this process and for those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        patch.setenv("PYTHONPATH", str(PLUGIN))
        runtimes._table.cache_clear()
        yield
    runtimes._table.cache_clear()


@pytest.fixture(scope="module")
def plain_export(plugin: None, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    folder = tmp_path_factory.mktemp("plugin")
    options = ExportOptions(
        runtime="plain",
        precisions=("fp32",),
        max_batch=2,
        out=folder / "export",
        repository=folder / "models",
    )
    return export_model(random_checkpoint(contract=SMALL), options)


def test_the_runtime_is_in_the_table(plugin: None) -> None:
    runtime = runtime_named("plain")
    assert runtime.served
    assert not runtime.bound_to_machine
    assert runtime.backend_folder == PLUGIN / "plain_runtime"


def test_the_gate_checks_the_runtime_that_will_serve(plain_export: ExportResult) -> None:
    (artifact,) = plain_export.manifest.accepted
    assert artifact.served_by.name == "plain"
    assert [report.runtime.name for report in artifact.reports] == ["plain", "openvino", "onnxruntime"]
    assert plain_export.refused == ()


def test_the_repository_names_its_backend_and_passes_lint(plain_export: ExportResult) -> None:
    assert "alexnet_fp32" in plain_export.models
    assert 'backend: "plain"' in (plain_export.repository / "alexnet_fp32" / "config.pbtxt").read_text()
    assert lint(plain_export.repository) == ()


def test_a_record_that_names_it_is_refused_where_it_is_not_installed(
    plain_export: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "entry_points", lambda group: ())
    runtimes._table.cache_clear()
    try:
        with pytest.raises(ManifestError, match="no such runtime 'plain'; it is one of openvino"):
            packed_export(plain_export.repository)
    finally:
        monkeypatch.undo()
        runtimes._table.cache_clear()


@pytest.mark.slow
def test_the_embedded_server_computes_what_the_runner_does(plain_export: ExportResult) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    (artifact,) = plain_export.manifest.accepted
    assert plain_export.folder is not None
    with runner_from_artifact(artifact, plain_export.folder) as runner:
        expected = runner.infer(images).probabilities
    with EmbeddedServer(plain_export.repository) as server, Client(server.grpc_url) as client:
        predictions = client.classify(list(images), model="alexnet_fp32", top=1)
    for prediction, probabilities in zip(predictions, expected, strict=True):
        assert prediction.best.index == probabilities.argmax()
        assert prediction.best.probability == pytest.approx(probabilities.max(), abs=1e-5)


@pytest.mark.slow
def test_the_engine_benchmark_measures_it(
    plain_export: ExportResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "device_process", fixed_ceilings)
    arguments = ["bench", "engine", str(plain_export.folder), "--runtime", "plain", "--batch", "1"]
    assert run([*arguments, "--seconds", "0.2", "--repeats", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "plain" in json.dumps(report)
