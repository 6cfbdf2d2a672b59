"""The summary tables of the engine benchmark: one device each, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from alexnet_bench import EngineLabel, EngineRow
from alexnet_bench.reports.names import in_megabytes, in_short

LIMITS_IN_WORDS = (
    "The limit is the shortest possible call: for each layer the longer of computing its multiply-adds and "
    "moving its weights and activations once, at the ceilings below. Normalisation, pooling and softmax are "
    "not counted."
)
_MOST_BATCHES = 5


def side_by_side_table(rows: Sequence[EngineRow]) -> Table:
    """Return the throughput of each engine by batch."""
    batches = _some_batches(sorted({row.batch for row in rows}))
    table = _table("engine", "computes in", *map(str, batches))
    for engine in dict.fromkeys(row.engine for row in rows):
        found = {row.batch: in_short(row.throughput.value) for row in rows if row.engine == engine}
        table.add_row(*_names(engine), *(found.get(batch, "-") for batch in batches))
    return table


def costs_table(rows: Sequence[EngineRow]) -> Table:
    """Return load time, first call at the smallest batch, file size and peak memory of each engine.

    Memory is of all batches together: a runtime keeps what it allocated for smaller ones.
    """
    table = _table("engine", "computes in", "load ms", "first ms", "file MB", "memory MB")
    for engine in dict.fromkeys(row.engine for row in rows):
        found = [row for row in rows if row.engine == engine]
        first, last = found[0], found[-1]
        table.add_row(
            *_names(engine),
            in_short(first.load_ms),
            in_short(first.first_call_ms),
            in_megabytes(first.size_bytes),
            in_megabytes(last.peak_memory_bytes),
        )
    return table


def _names(engine: EngineLabel) -> tuple[str, str]:
    """Return names for the first two columns; PyTorch's compiler is named without its runtime."""
    runtime = engine.options or engine.runtime
    if engine.options and engine.options != "torch.compile":
        runtime = f"{engine.runtime}, {engine.options}"
    return f"{engine.precision or 'model'} {runtime}", engine.computes_in


def _some_batches(batches: Sequence[int]) -> list[int]:
    """Return the smallest and the largest batch, and as many between as fit."""
    if len(batches) <= _MOST_BATCHES:
        return list(batches)
    steps = (len(batches) - 1) / (_MOST_BATCHES - 1)
    return [batches[round(steps * number)] for number in range(_MOST_BATCHES)]


def _table(*columns: str) -> Table:
    table = Table(pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for name in columns:
        is_name = name in ("engine", "computes in")
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name)
    return table
