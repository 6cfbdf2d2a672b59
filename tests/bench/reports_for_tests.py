"""A report with every part, made of plausible figures that were not measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from alexnet_bench.environment import Environment, GpuState
from alexnet_bench.figures.intervals import Figure, figure_from_repeats
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.figures.verdicts import calibration_reason, late_reason, saturation_reason, verdict_from
from alexnet_bench.schema import (
    ColdStart,
    EngineLabel,
    EngineRow,
    FigureRow,
    HeldRate,
    LatencyStep,
    LeftOut,
    LoadRow,
    RateProbe,
    Report,
    Roof,
    Tuning,
    TuningStep,
)
from alexnet_model.records import Precision

H200 = "NVIDIA H200"
MACHINE = "AMD EPYC 9B14, 2 cores"


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "machine": MACHINE,
        "cpu": {"CPU clock": "2600 MHz", "CPU vectors": "avx2, avx512f, avx512_vnni"},
        "memory_gb": 16.4,
        "kernel": "6.1.0-18",
        "gpus": (),
        "versions": {"python": "3.11.7", "numpy": "1.26.4", "openvino": "2026.4.1", "tritonclient": "2.73.0"},
        "load_1_min": 0.12,
        "commit": "0123456789ab",
        "date": "2026-11-23T10:00:00+00:00",
    }
    return Environment.model_validate(values | changes)


def gpu() -> GpuState:
    readings = {"clocks.sm": "1980 MHz", "power.limit": "700.00 W"}
    return GpuState(name=H200, compute_capability="9.0", driver="580.95.05", readings=readings)


def engine(precision: Precision | None = "int8", runtime: str = "openvino", **changes: Any) -> EngineLabel:
    computes_in = {"fp32": "f32", "fp16": "f16", "int8": "i8", None: "f32"}[precision]
    values = {"runtime": runtime, "device": "CPU", "computes_in": computes_in, "precision": precision}
    return EngineLabel.model_validate(values | changes)


@cache
def histogram(median_ms: float, samples: int, *, spread: float = 0.15, seed: int = 0) -> LatencyHistogram:
    """Lognormal latencies, of which 2% are 2.5 times as long."""
    random = np.random.default_rng(seed)
    latencies = median_ms * random.lognormal(0, spread, samples)
    latencies[random.random(samples) < 0.02] *= 2.5
    found = LatencyHistogram()
    found.record_all(latencies.tolist())
    return found


def repeats(value: float, *, noise: float = 0.01, count: int = 5, seed: int = 0) -> list[float]:
    return [float(value * (1 + noise * z)) for z in np.random.default_rng(seed).standard_normal(count)]


def engine_row(
    per_s: float = 472.0, batch: int = 32, *, of: EngineLabel | None = None, **changes: Any
) -> EngineRow:
    values: dict[str, Any] = {
        "engine": of or engine(),
        "batch": batch,
        "throughput": figure_from_repeats(repeats(per_s, seed=batch), "images/s"),
        "latencies": histogram(1e3 * batch / per_s, 800, spread=0.02, seed=batch).latencies(),
        "first_call_ms": 2.2e3 * batch / per_s,
        "load_ms": 310.0,
        "size_bytes": 61_500_000,
        "peak_memory_bytes": 420_000_000,
        "limit_ms": 4.3 if batch == 1 else batch / 0.577,
        "bound_by": "memory" if batch < 8 else "compute",
    }
    return EngineRow.model_validate(values | changes)


def load_row(
    per_s: float = 340.0,
    concurrency: int | None = 16,
    *,
    median_ms: float | None = None,
    samples: int = 700,
    seed: int = 0,
    **changes: Any,
) -> LoadRow:
    """A closed loop; an open loop if a rate and no concurrency is given."""
    batch = changes.get("batch", 1)
    if median_ms is None:
        median_ms = 1e3 * batch * (concurrency or 4) / per_s
    latencies = histogram(median_ms, samples, seed=seed)
    executed = min(concurrency or 4, 64)
    values: dict[str, Any] = {
        "model": "alexnet_int8",
        "engine": engine(),
        "url_scheme": "grpc",
        "loop": "closed" if concurrency else "open",
        "batch": batch,
        "concurrency": concurrency,
        "rate_per_s": None,
        "throughput": figure_from_repeats(repeats(per_s, seed=seed), "images/s"),
        "latencies": latencies.latencies(),
        "histogram": latencies.encoded().decode(),
        "requests": samples,
        "failed": 0,
        "late_p99_ms": None if concurrency else 0.21,
        "client_cpu_share": 0.31,
        "client_away_share": 0.004,
        "request_bytes": 150_741 * batch,
        "executions_by_batch": {
            1: samples // 10,
            max(executed // 2, 1): samples // 4,
            executed: samples // 20,
        },
        "batching": "Requests were batched."
        if executed > 1
        else "No: one request at a time leaves nothing to batch with.",
        "verdict": verdict_from(),
    }
    return LoadRow.model_validate(values | changes)


@cache
def engine_rows() -> tuple[EngineRow, ...]:
    """Seven engines at batches 1 to 64, at the speed of two cores."""
    sweep: Sequence[tuple[EngineLabel, tuple[float, ...], float]] = (
        (engine("fp32", "torch", options="eager"), (55, 72, 88, 101, 109, 114, 116), 244.4e6),
        (engine("fp32", "torch", options="torch.compile"), (61, 80, 97, 114, 122, 127, 128), 244.4e6),
        (engine("fp32", "onnxruntime"), (75, 98, 117, 130, 134, 136, 137), 244.5e6),
        (engine("fp32"), (61, 89, 112, 135, 149, 157, 160), 244.5e6),
        (engine("fp16", computes_in="bf16"), (114, 166, 221, 262, 280, 287, 291), 122.3e6),
        (engine("int8"), (204, 289, 361, 413, 452, 472, 481), 61.6e6),
        (engine("int8", "onnxruntime"), (31, 40, 48, 53, 57, 59, 60), 61.6e6),
    )
    limits = {"f32": (15.0, 6.2), "bf16": (8.2, 3.1), "i8": (4.3, 1.74)}
    rows = []
    for of, rates, size in sweep:
        memory_ms, compute_ms = limits[of.computes_in]
        for step, rate in enumerate(rates):
            batch = 2**step
            limit_ms = max(0.8 * memory_ms, batch * compute_ms)
            bound_by = "memory" if 0.8 * memory_ms > batch * compute_ms else "compute"
            changes: dict[str, Any] = {"limit_ms": limit_ms, "bound_by": bound_by, "size_bytes": int(size)}
            if batch == 64:  # few calls: the tail is not known
                changes["latencies"] = histogram(1e3 * batch / rate, 40, spread=0.02).latencies()
            rows.append(engine_row(rate, batch, of=of, **changes))
    return tuple(rows)


@cache
def load_rows() -> tuple[LoadRow, ...]:
    """Sweeps over concurrencies and rates; the highest loads of two sweeps are INVALID."""
    sweeps: Sequence[tuple[Precision, str, tuple[float, ...]]] = (
        ("fp32", "grpc", (52, 78, 101, 121, 133, 138)),
        ("fp16", "grpc", (92, 135, 187, 231, 252, 262)),
        ("int8", "grpc", (135, 198, 262, 310, 346, 352)),
        ("int8", "http", (118, 171, 224, 270, 301, 305)),
        ("int8", "shared memory", (151, 222, 288, 340, 371, 380)),
    )
    rows = []
    for precision, scheme, rates in sweeps:
        for step, rate in enumerate(rates):
            of: dict[str, Any] = {
                "model": f"alexnet_{precision}",
                "engine": engine(precision),
                "url_scheme": scheme,
                "request_bytes": 412 if scheme == "shared memory" else 150_741,
                "samples": {"fp32": 500, "fp16": 700, "int8": 7000 if scheme == "grpc" else 700}[precision],
            }
            if (scheme, step) == ("http", 5):
                of |= {"verdict": verdict_from(saturation_reason(0.97)), "client_cpu_share": 0.97}
            rows.append(load_row(rate, 2**step, seed=step, **of))
    for rate, median_ms, late_ms in ((50, 7.3, 0.12), (150, 8.1, 0.2), (250, 10.4, 0.31), (330, 31.0, 2.4)):
        of = {"rate_per_s": rate, "late_p99_ms": late_ms, "verdict": verdict_from(late_reason(late_ms))}
        rows.append(load_row(rate, None, median_ms=median_ms, seed=rate, **of))
    return tuple(rows)


def breakdown(of_engine: EngineLabel | None = None) -> tuple[LatencyStep, ...]:
    """Two models, each over three transports."""
    steps = (
        ("engine", 1.0, 0, "in process"),
        ("copies", 0.15, 0, "server"),
        ("Triton", 0.35, 0, "server"),
        ("queue", 0.2, 0, "server"),
    )
    wires = (("shared memory", 0.3, 412), ("gRPC", 1.1, 150_741), ("HTTP", 1.6, 150_902))
    found = []
    for precision, engine_ms in (("fp32", 15.3), ("int8", 4.9)):
        of = f"{precision}, batch 1"
        total = 0.0
        for name, share_or_ms, sent, source in steps:
            added = engine_ms * share_or_ms if name == "engine" else share_or_ms
            total += added
            found.append((name, of, precision, total, added, sent, source))
        found += [(name, of, precision, total + ms, ms, sent, "client") for name, ms, sent in wires]
        found.append(("decode", of, precision, total + 1.1 + 3.9, 3.9, 47_700, "client"))
    return tuple(
        LatencyStep(
            name=name,
            of=of,
            engine=of_engine or engine("fp32" if precision == "fp32" else "int8"),
            total=figure_from_repeats([total_ms], "ms"),
            added_ms=added_ms,
            request_bytes=sent,
            source=source,
        )
        for name, of, precision, total_ms, added_ms, sent, source in found
    )


def held_rate(per_s: float | None = 268.0, **changes: Any) -> HeldRate:
    tried = (
        (100, 18.2, True),
        (200, 21.7, True),
        (400, 412.0, False),
        (268, 24.6, True),
        (280, 27.1, False),
    )
    values: dict[str, Any] = {
        "model": "alexnet_int8",
        "engine": engine(),
        "url_scheme": "grpc",
        "batch": 1,
        "limit_p99_ms": 25.0,
        "rate_per_s": per_s,
        "throughput": None if per_s is None else figure_from_repeats(repeats(per_s), "images/s"),
        "p99_ms": 24.6,
        "probes": tuple(RateProbe(rate_per_s=rate, p99_ms=p99, held=held) for rate, p99, held in tried),
        "words": "268 requests/s are held; at 280 the p99 is 27.1 ms.",
    }
    return HeldRate.model_validate(values | changes)


def tuning() -> Tuning:
    tried = (
        ("fp32", 1, 0, 8, 92.0, 24.1, "the start"),
        ("int8", 1, 0, 8, 281.0, 23.8, "the precision that the engine ladder put first"),
        ("int8", 2, 0, 8, 262.0, 24.4, "two instances share the same two cores"),
        ("int8", 1, 2000, 32, 312.0, 22.9, "waits for a fuller batch"),
        ("int8", 1, 5000, 32, None, 31.2, "waits too long"),
    )
    steps = tuple(
        TuningStep.model_validate(dict(zip(TuningStep.model_fields, values, strict=True))) for values in tried
    )
    return Tuning(
        device="CPU",
        limit_p99_ms=25.0,
        steps=steps,
        winner=3,
        why="One instance already uses both cores; 2 ms of delay fill batches to 7 on average.",
    )


def cold_starts() -> tuple[ColdStart, ...]:
    def of_batches(*values_ms: float) -> dict[int, Figure]:
        return {batch: milliseconds(value) for batch, value in zip((1, 8, 32), values_ms, strict=True)}

    def milliseconds(value: float) -> Figure:
        return figure_from_repeats(repeats(value, count=3), "ms")

    return tuple(
        ColdStart(
            model="alexnet_int8",
            engine=engine(),
            warmed_up=warmed_up,
            ready_ms=milliseconds(2900.0 if warmed_up else 2100.0),
            first_ms=of_batches(8.1, 27.0, 81.0) if warmed_up else of_batches(96.0, 131.0, 240.0),
            second_ms=of_batches(7.4, 25.0, 79.0),
        )
        for warmed_up in (False, True)
    )


def figure_rows() -> tuple[FigureRow, ...]:
    """A client's ratio that reaches its target, a time that does not, and one without a target."""
    ratio = figure_from_repeats(repeats(0.95), "times")
    call = figure_from_repeats(repeats(180.0), "us")
    of = "alexnet_int8 over grpc"
    return (
        FigureRow(
            name="folder / served alone", of=of, figure=ratio, engine=engine(), at_least=0.9, better="higher"
        ),
        FigureRow(name="a call", of="batch 1, no server", figure=call, at_most=150, better="lower"),
        FigureRow(name="import", of="alexnet_clients", figure=figure_from_repeats([90.0], "ms")),
    )


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "title": "AlexNet on two cores",
        "command": "alexnet bench server --model alexnet_int8 --concurrency 1,2,4,8,16,32",
        "environment": environment(),
        "seconds": 412.0,
        "calibration_before": 1.021e11,
        "calibration_after": 1.007e11,
        "roofs": (
            Roof(device="CPU", computes_in="f32", operations_per_s=2.3e11, bytes_per_s=4.1e10),
            Roof(device="CPU", computes_in="i8", operations_per_s=8.2e11, bytes_per_s=4.1e10),
        ),
        "engines": engine_rows(),
        "loads": load_rows(),
        "held_rates": (held_rate(),),
        "breakdown": breakdown(),
        "tuning": tuning(),
        "cold_starts": cold_starts(),
        "left_out": (LeftOut(what="TensorRT", why="no NVIDIA GPU is here"),),
    }
    return Report.model_validate(values | changes)


def report_of_two_devices() -> Report:
    """A machine with a GPU whose CPU was measured too, in an INVALID run."""
    rates = {"tensorrt": (9800, 18100, 33000, 58000, 97000, 131000, 152000, 163000, 168000)}
    rates["onnxruntime"] = (5100, 9700, 18000, 31000, 52000, 74000, 88000, 94000, 97000)
    on_gpu = [
        engine_row(
            rate, 2**step, of=engine("fp16", runtime, device=H200), limit_ms=0.6 * 1e3 * 2**step / rate
        )
        for runtime, sweep in rates.items()
        for step, rate in enumerate(sweep)
    ]
    served = [
        load_row(rate, 2**step, model="alexnet_fp16", engine=engine("fp16", "tensorrt", device=H200))
        for step, rate in enumerate((1400, 2600, 4300, 6100, 7200))
    ]
    on_gpu_engine = engine("fp16", "tensorrt", device=H200)
    reason = calibration_reason(1.0e11, 0.82e11)
    assert reason is not None
    return report(
        title="AlexNet on an H200",
        environment=environment(gpus=(gpu(),)),
        engines=(*on_gpu, *engine_rows()[-14:]),
        loads=(*served, *load_rows()[:6]),
        held_rates=(held_rate(6100, engine=on_gpu_engine), held_rate()),
        breakdown=(*breakdown(on_gpu_engine), *breakdown()),
        cold_starts=(
            *(start.model_copy(update={"engine": on_gpu_engine}) for start in cold_starts()),
            *cold_starts(),
        ),
        roofs=(Roof(device=H200, computes_in="f16", operations_per_s=7.8e14, bytes_per_s=4.3e12),),
        reasons=(reason,),
        calibration_before=1.0e11,
        calibration_after=0.82e11,
    )
