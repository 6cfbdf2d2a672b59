"""The demo really did what it says: trained, exported, served, and answered rightly over gRPC."""

from __future__ import annotations

from pathlib import Path

from ..conftest import Demo

PRECISIONS = ("fp32", "fp16", "int8")


def test_the_network_learned_and_every_precision_is_still_it(demo: Demo) -> None:
    summary = demo.summary
    assert summary["width"] == 0.25, "the quick demo says that it is one"
    assert "a quarter of AlexNet's width" in demo.screen
    assert summary["held_out_accuracy"] >= 0.95
    for precision in PRECISIONS:
        figures = summary["precisions"][precision]
        assert figures["accepted"]
        assert figures["signal_to_noise_db"] >= 30
        assert figures["agreement"] >= 0.99
    assert summary["precisions"]["int8"]["size_bytes"] < 0.3 * summary["precisions"]["fp32"]["size_bytes"]


def test_the_server_named_the_digits_it_never_saw(demo: Demo) -> None:
    for precision in PRECISIONS:
        served = demo.summary["served_over_grpc"][f"alexnet_{precision}"]
        assert served["images"] == len(list((demo.folder / "images").glob("*.png"))) == 360
        # What was measured at export is what is served, to the image.
        assert served["right"] / 360 == demo.summary["precisions"][precision]["top1"]
        assert served["request_bytes_per_image"] < 150_528 + 1024


def test_every_figure_names_what_it_was_measured_on(demo: Demo) -> None:
    rows = demo.summary["measurements"]["rows"]
    measured = {(row["case"]["precision"], row["case"]["through"], row["case"]["batch"]) for row in rows}
    for precision in PRECISIONS:
        for through in ("in process", "server"):
            assert {(precision, through, batch) for batch in (1, 8, 32)} <= measured
    for row in rows:
        assert row["throughput_per_s"] > 0
        assert row["case"]["runtime"] == "openvino"
        assert row["case"]["device"] == "CPU"
        assert row["case"]["computes_in"] == ("i8" if row["case"]["precision"] == "int8" else "f32")
    ratios = demo.summary["measurements"]["serving"]
    assert [(r["of"]["batch"], r["of"]["in_flight"], r["against"]["batch"]) for r in ratios] == [
        (32, 2, 32),
        (1, 16, 16),
    ]


def test_it_prints_within_80_columns_and_leaves_nothing_running(demo: Demo) -> None:
    screen = demo.screen.replace(str(demo.folder), "demo")
    assert [line for line in screen.splitlines() if len(line.rstrip()) > 80] == []
    assert not list(Path("/dev/shm").glob(f"alexnet_{demo.process_id}_*"))
