"""What a server counted during a load, by its statistics before and after, and whether it was one server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import TypeAlias

from alexnet_clients import ModelStatistics

Span: TypeAlias = tuple[ModelStatistics, ModelStatistics]  # before, after
_BY_BATCH = "executions_by_batch"
_SUMS = tuple(field.name for field in fields(ModelStatistics) if field.name != _BY_BATCH)
# Of the answers that a client got, a server may count fewer by as many as were open at the two readings.
_FEWEST_COUNTED = 0.9
_OPEN_AT_READINGS = 100


def counted_in(spans: Sequence[Span]) -> ModelStatistics:
    """The differences of all spans, added up; nothing where a server began anew in one of them."""
    if any(began_anew(before, after) for before, after in spans):
        return ModelStatistics()
    executions: Counter[int] = Counter()
    for before, after in spans:
        executions.update(after.executions_by_batch)
        executions.subtract(before.executions_by_batch)
    sums = {
        name: sum(getattr(after, name) - getattr(before, name) for before, after in spans) for name in _SUMS
    }
    return ModelStatistics(**sums, executions_by_batch={b: n for b, n in sorted(executions.items()) if n})


def began_anew(before: ModelStatistics, after: ModelStatistics) -> bool:
    """A server counts from when it loaded a model: less than before is another's count."""
    fewer = (after.executions_by_batch.get(b, 0) < n for b, n in before.executions_by_batch.items())
    return after.requests < before.requests or any(fewer)


def forgot_some(spans: Sequence[Span], answered: int) -> bool:
    """Whether it counted clearly less than it answered, as after a new start that has caught up since.

    A server that counts nothing at all forgets nothing.
    """
    counted = counted_in(spans).requests
    return 0 < counted < _FEWEST_COUNTED * answered - _OPEN_AT_READINGS
