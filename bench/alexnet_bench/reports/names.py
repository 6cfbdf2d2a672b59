"""Names of rows and short forms of figures, the same in every table, plot and message."""

from __future__ import annotations

from ..schema import ColdStart, EngineRow, LoadRow


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
