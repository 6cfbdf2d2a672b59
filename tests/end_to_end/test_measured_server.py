"""The comparison of engines with a real server, as short as possible: its labels, not its speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_bench import ComparisonOptions, compare_with_server
from alexnet_bench.figures.percentiles import NEEDED
from alexnet_bench.schema import EngineRow, LoadRow, Report
from alexnet_model.errors import ManifestError
from alexnet_serving import EmbeddedServer

from .conftest import Exported

BRIEF = ComparisonOptions(batches=(1, 8), rounds=2, call_seconds=0.02, load_seconds=0.3, burn_in_s=0)


def test_every_precision_is_measured_in_process_and_on_the_server(
    exported: Exported, server: EmbeddedServer
) -> None:
    stages: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        stages[stage] = (done, total)

    report = compare_with_server(
        exported.manifest, exported.folder, server.grpc_url, options=BRIEF, progress=progress
    )
    precisions = ("fp32", "fp16", "int8")
    calls = {(row.engine.precision, row.batch) for row in report.engines}
    assert calls == {*((precision, batch) for precision in precisions for batch in (1, 8, 16))}
    loads = {(row.engine.precision, row.batch, row.concurrency) for row in report.loads}
    one_at_a_time = {(precision, batch, 1) for precision in precisions for batch in (1, 8)}
    assert loads == {*one_at_a_time, ("int8", 16, 2), ("int8", 1, 16)}
    served_by = {artifact.precision: artifact.served_by for artifact in exported.manifest.accepted}
    rows: tuple[EngineRow | LoadRow, ...] = (*report.engines, *report.loads)
    for row in rows:
        assert row.engine.precision is not None
        assert row.engine.device == "CPU"
        assert row.engine.computes_in == served_by[row.engine.precision].computes_in
        assert row.throughput.value > 0
        assert (row.latencies.p50_ms is None) == (row.latencies.samples < NEEDED["p50"])
        assert "wrong answers" not in [reason.rule for reason in row.verdict.reasons]
    assert {row.engine.runtime for row in report.engines} == {"openvino"}
    assert [row.name for row in report.figures] == [
        *("fp16 / fp32", "int8 / fp32"),
        *("served / in process", "served / in process"),
    ]
    assert all(done == total for done, total in stages.values())
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_file_that_is_not_the_exported_one_is_not_measured(
    exported: Exported, server: EmbeddedServer, tmp_path: Path
) -> None:
    for artifact in exported.manifest.accepted:
        (tmp_path / artifact.file).write_bytes(b"another")
    with pytest.raises(ManifestError, match="SHA-256"):
        compare_with_server(exported.manifest, tmp_path, server.grpc_url, options=BRIEF)
