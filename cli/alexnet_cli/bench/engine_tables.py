"""The tables of the engine ladder that stand above its rows, of one device each, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from alexnet_bench.reports.names import in_megabytes, in_short
from alexnet_bench.schema import EngineLabel, EngineRow

LIMITS_IN_WORDS = (
    "The limit is the shortest call there can be: layer by layer the longer of computing its multiply-adds "
    "and moving its weights and activations once, at the ceilings below. Normalisation, pooling and softmax "
    "are left out of it."
)
_MOST_BATCHES = 5


def side_by_side_table(rows: Sequence[EngineRow]) -> Table:
    """Engines below one another, batches beside: all of these were measured in turn."""
    batches = _some_batches(sorted({row.batch for row in rows}))
    table = _table("engine", "computes in", *map(str, batches))
    for engine in dict.fromkeys(row.engine for row in rows):
        found = {row.batch: in_short(row.throughput.value) for row in rows if row.engine == engine}
        table.add_row(*_names(engine), *(found.get(batch, "-") for batch in batches))
    return table


def costs_table(rows: Sequence[EngineRow]) -> Table:
    """Once an engine: loading, the first call at the smallest batch, its file, and memory to its largest.

    Memory is of all batches together: a runtime keeps what it took for smaller ones.
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
    """The options are what tells two of the same runtime apart; PyTorch's compiler is named without it."""
    runtime = engine.options or engine.runtime
    if engine.options and engine.options != "torch.compile":
        runtime = f"{engine.runtime}, {engine.options}"
    return f"{engine.precision or 'model'} {runtime}", engine.computes_in


def _some_batches(batches: Sequence[int]) -> list[int]:
    """The smallest, the largest, and as many between as there is room for."""
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
