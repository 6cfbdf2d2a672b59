"""The demo trains, exports, serves, classifies over gRPC and measures."""

from __future__ import annotations

from pathlib import Path

from ..conftest import Demo

PRECISIONS = ("fp32", "fp16", "int8")


def test_the_network_is_trained_and_every_precision_passes_the_gate(demo: Demo) -> None:
    summary = demo.summary
    assert summary["options"] == {"width": 0.125}, "the quick demo trains a narrower network"
    assert "AlexNet of width 0.125" in demo.screen
    assert summary["test_accuracy"] >= 0.95
    for precision in PRECISIONS:
        figures = summary["precisions"][precision]
        assert figures["accepted"]
        assert figures["signal_to_noise_db"] >= 30
        assert figures["agreement"] >= 0.99
    assert summary["precisions"]["int8"]["size_bytes"] < 0.3 * summary["precisions"]["fp32"]["size_bytes"]


def test_the_server_classifies_test_digits_as_measured_at_export(demo: Demo) -> None:
    for precision in PRECISIONS:
        served = demo.summary["served_over_grpc"][f"alexnet_{precision}"]
        assert served["images"] == len(list((demo.folder / "images").glob("*.png"))) == 360
        # Exactly the accuracy that was measured at export.
        assert served["correct"] / 360 == demo.summary["precisions"][precision]["top1"]
        assert served["request_bytes_per_image"] < 150_528 + 1024


def test_every_figure_names_its_precision_batch_runtime_and_device(demo: Demo) -> None:
    measured = demo.summary["measurements"]
    cases = {
        "in process": {(row["engine"]["precision"], row["batch"]) for row in measured["engines"]},
        "server": {
            (row["engine"]["precision"], row["batch"]) for row in measured["loads"] if row["concurrency"] == 1
        },
    }
    for precision in PRECISIONS:
        for through in ("in process", "server"):
            assert {(precision, batch) for batch in (1, 8, 32)} <= cases[through]
    for row in (*measured["engines"], *measured["loads"]):
        assert row["throughput"]["value"] > 0
        assert row["throughput"]["unit"] == "images/s"
        assert row["engine"]["runtime"].startswith("openvino")
        assert row["engine"]["device"] == "CPU"
        assert row["engine"]["computes_in"] == ("i8" if row["engine"]["precision"] == "int8" else "f32")
    assert [(row["name"], row["of"]) for row in measured["figures"]] == [
        ("fp16 / fp32", "fp16 in process, batch 32 / fp32 in process, batch 32"),
        ("int8 / fp32", "int8 in process, batch 32 / fp32 in process, batch 32"),
        ("served / in process", "int8 served, 2 at a time, batch 32 / in process, batch 32"),
        ("served / in process", "int8 served, 16 at a time, batch 1 / in process, batch 16"),
    ]
    assert "Verdict: " in demo.screen


def test_the_output_fits_80_columns_and_shared_memory_is_removed(demo: Demo) -> None:
    screen = demo.screen.replace(str(demo.folder), "demo")
    assert [line for line in screen.splitlines() if len(line.rstrip()) > 80] == []
    assert not list(Path("/dev/shm").glob(f"alexnet_{demo.process_id}_*"))
