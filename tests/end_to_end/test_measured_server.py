"""The benchmark on a real server, as briefly as can be: what it says of itself, not how fast it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_bench import Measurements, MeasureOptions, Plan, measure
from alexnet_model.errors import ManifestError
from alexnet_serving import EmbeddedServer

BRIEF = MeasureOptions(
    batches=(1, 8),
    sweep=Plan(rounds=1, slice_s=0.02, burn_in_s=0),
    ratios=Plan(rounds=2, slice_s=0.02, burn_in_s=0),
)


def test_every_case_is_measured_and_says_what_it_is(exported: Any, server: EmbeddedServer) -> None:
    stages: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        stages[stage] = (done, total)

    measured = measure(exported.manifest, exported.folder, server.grpc_url, options=BRIEF, progress=progress)
    cases = [row.case for row in measured.rows]
    assert len(cases) == len(set(cases))
    for precision in ("fp32", "fp16", "int8"):
        for batch in (1, 8):
            for through in ("in process", "server"):
                found = [
                    case
                    for case in cases
                    if (case.precision, case.batch, case.through) == (precision, batch, through)
                ]
                assert found, (precision, batch, through)
    served_by = {artifact.precision: artifact.served_by for artifact in exported.manifest.accepted}
    for row in measured.rows:
        assert (row.case.runtime, row.case.device) == ("openvino", "CPU")
        assert row.case.computes_in == served_by[row.case.precision].computes_in
        assert 0 < row.throughput_low_per_s <= row.throughput_per_s <= row.throughput_high_per_s
        assert row.latency_p50_ms > 0
        assert (row.client_cpu_share is not None) == (row.case.through == "server")
    assert [ratio.of.precision for ratio in measured.precisions] == ["fp16", "int8"]
    assert [(ratio.of.batch, ratio.of.in_flight) for ratio in measured.serving] == [(16, 2), (1, 16)]
    assert all(done == total for done, total in stages.values())
    assert Measurements.model_validate_json(measured.model_dump_json()) == measured


def test_a_file_that_is_not_the_exported_one_is_not_measured(
    exported: Any, server: EmbeddedServer, tmp_path: Path
) -> None:
    for artifact in exported.manifest.accepted:
        (tmp_path / artifact.file).write_bytes(b"another")
    with pytest.raises(ManifestError, match="SHA-256"):
        measure(exported.manifest, tmp_path, server.grpc_url, options=BRIEF)
