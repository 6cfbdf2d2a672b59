"""Rows, figures and environments in words, the same in every table, plot and message."""

from __future__ import annotations

from collections.abc import Sequence

from ..environment import Environment
from ..schema import ColdStart, EngineRow, LoadRow, Report

_CPU_VECTORS = "CPU vectors"  # as `environment.cpu_facts` calls them


def load_in_words(row: LoadRow) -> str:
    """Return such as `16 at a time` or `250 requests/s`."""
    if row.concurrency is not None:
        return f"{row.concurrency} at a time"
    return "no load" if row.rate_per_s is None else f"{_rate(row.rate_per_s)} requests/s"


def name_of_series(row: LoadRow) -> str:
    """Return what the loads of one sweep over concurrencies or rates have in common."""
    return f"{row.model} over {row.url_scheme}, {row.loop} loop, batch {row.batch}"


def name_of_load(row: LoadRow) -> str:
    """Return the full label of a load row, with its engine."""
    return f"{name_of_series(row)}, {load_in_words(row)}; {row.engine}"


def name_of_engine_row(row: EngineRow) -> str:
    """Return the full label of an engine row."""
    return f"{row.engine}, batch {row.batch}"


def name_of_cold_start(row: ColdStart) -> str:
    """Return the full label of a cold start."""
    return f"{row.model}, {'with' if row.warmed_up else 'without'} warm-up; {row.engine}"


def in_short(value: float) -> str:
    """Return three significant digits without an exponent: 12,346, 472, 47.2, 4.72, 0.472, 0.0047."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.1 or not size else f"{value:.4f}"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s == round(per_s) else in_short(per_s)


def in_megabytes(size_bytes: int | None) -> str:
    """Return megabytes of 10^6 bytes, or a dash for None."""
    return "-" if size_bytes is None else in_short(size_bytes / 1e6)


def day_in_words(date: str) -> str:
    """Return a run's date to the minute."""
    return f"{date[:16].replace('T', ' ')} UTC"


def facts_of(environment: Environment) -> dict[str, str]:
    """Return by name, in words, what a figure may depend on."""
    facts = {
        "machine": environment.machine,
        **environment.cpu,
        "memory": f"{environment.memory_gb:g} GB",
        "kernel": environment.kernel,
    }
    for index, gpu in enumerate(environment.gpus):
        facts[f"GPU {index}"] = f"{gpu.name}, compute capability {gpu.compute_capability}"
        facts[f"GPU {index} driver"] = gpu.driver
        facts |= {f"GPU {index} {name}": reading for name, reading in gpu.readings.items()}
    facts |= {"load before": f"{environment.load_1_min:g} (1 min)", "commit": environment.commit or "none"}
    return facts | dict(environment.versions)


def environment_rows(reports: Sequence[Report]) -> tuple[tuple[str, str], ...]:
    """Return every fact once; if the reports differ, with the value of each."""
    facts = [(report.title, facts_of(report.environment)) for report in reports]
    rows = []
    for name in dict.fromkeys(name for _, found in facts for name in found):
        values = [(title, found.get(name, "none")) for title, found in facts]
        if len({value for _, value in values}) == 1:
            rows.append((name, values[0][1]))
        else:
            rows.append((name, "; ".join(f"{title}: {value}" for title, value in values)))
    return tuple(rows)


def calibration_in_words(report: Report) -> str:
    """Return the calibration before and after: what else the machine, and its GPU, did in between."""
    words = _change_in_words(report.calibration_before, report.calibration_after)
    if report.gpu_calibration_before is None:
        return words
    return (
        f"{words}; on the GPU {_change_in_words(report.gpu_calibration_before, report.gpu_calibration_after)}"
    )


def _change_in_words(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "not measured"
    change = f" ({after / before - 1:+.1%})" if before else ""
    return f"{before / 1e9:.4g} x 10^9 operations/s before, {after / 1e9:.4g} x 10^9 after{change}"


def devices_in_words(before: Environment, after: Environment) -> tuple[str, str]:
    """Return the devices of both, in equal words if their figures may be compared.

    Clouds give many CPUs one name, such as `Intel Xeon Processor`: CPUs with different vector instructions
    are different devices.
    """
    first, second = (" + ".join(environment.devices) for environment in (before, after))
    vectors = [environment.cpu.get(_CPU_VECTORS, "") for environment in (before, after)]
    if all(vectors) and vectors[0] != vectors[1]:
        return f"{first} (with {vectors[0]})", f"{second} (with {vectors[1]})"
    return first, second
