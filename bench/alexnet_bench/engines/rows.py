"""From what the ladder measured to the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexnet_model.manifest import RuntimeInfo
from alexnet_model.records import Precision

from ..figures.intervals import figure_from_repeats
from ..figures.percentiles import LatencyHistogram
from ..figures.verdicts import Reason, not_judged_reason, samples_reason, verdict_from, wrong_model_reason
from ..schema import EngineLabel, EngineRow, LeftOut, Proof, Roof
from .counting import Layer
from .roofline import limit_at, roof_over
from .specs import EngineSpec
from .sweep import BatchRun, Climber, Sweep, SweepPlan

UNKNOWN = "unknown"
MOST_OF_LIMIT = 0.95  # no engine is that good: a higher share is one of too low a limit


def rows_from_sweep(
    sweep: Sweep, layers: Mapping[Precision, Sequence[Layer]], roofs: Sequence[Roof]
) -> tuple[EngineRow, ...]:
    """A row an engine and batch, in the order of the engines, each with its limit where one is known."""
    return tuple(
        _row(climber, run, sweep.plan, layers[climber.spec.precision], roofs)
        for climber in sweep.climbers
        for run in climber.runs.values()
    )


def proofs_from_sweep(sweep: Sweep) -> tuple[Proof, ...]:
    """What the gate said of each engine that was measured."""
    found: dict[str, Proof] = {}
    for climber in sweep.climbers:
        if climber.judged is not None:
            spec = climber.spec.without_copies
            found[f"{spec} {spec.file}"] = Proof(
                engine=_engine(spec, climber.runtime), **dict(climber.judged)
            )
    return tuple(found.values())


def doubtful_limits(rows: Sequence[EngineRow]) -> tuple[LeftOut, ...]:
    """Of each engine the batches at which it came so near to its limit that the limit is in doubt."""
    batches: dict[EngineLabel, list[str]] = {}
    for row in rows:
        if (row.share_of_limit or 0) > MOST_OF_LIMIT:
            batches.setdefault(row.engine, []).append(str(row.batch))
    why = (
        f"above {MOST_OF_LIMIT:.0%}: its ceilings were likely measured too low, or its weights stayed in a "
        "cache from call to call"
    )
    return tuple(
        LeftOut(what=f"{engine}: a sure share of the limit at batch {', '.join(found)}", why=why)
        for engine, found in batches.items()
    )


def _row(
    climber: Climber, run: BatchRun, plan: SweepPlan, layers: Sequence[Layer], roofs: Sequence[Roof]
) -> EngineRow:
    engine = _engine(climber.spec, climber.runtime)
    roof = roof_over(engine, roofs)
    limit = None if roof is None else limit_at(layers, climber.spec.precision, run.batch, roof)
    histogram = LatencyHistogram()
    for part in run.slices:
        histogram.add(part.histogram.encode("ascii"))
    return EngineRow(
        engine=engine,
        batch=run.batch,
        throughput=figure_from_repeats([part.throughput_per_s for part in run.slices], "images/s"),
        latencies=histogram.latencies(),
        first_call_ms=run.first_call_ms,
        load_ms=climber.load_ms,
        size_bytes=climber.spec.size_bytes,
        peak_memory_bytes=run.slices[0].peak_memory_bytes,  # later ones have seen larger batches
        limit_ms=None if limit is None else limit.ms,
        bound_by="unknown" if limit is None else limit.bound_by,
        verdict=verdict_from(
            _failure_reason(run, plan.repeats),
            _answers_reason(climber, plan),
            samples_reason(histogram.samples, "calls", "Let the run come to its end."),
        ),
    )


def _failure_reason(run: BatchRun, repeats: int) -> Reason | None:
    """What an engine did before it failed is of a part of the run, and may be of one that was failing."""
    if not run.failure or len(run.slices) == repeats:
        return None
    return Reason(
        rule="errors",
        found=f"its engine failed after {len(run.slices)} of {repeats} repeats: {run.failure}",
        advice="Mend that, or leave out the batches at which it fails: --batch.",
    )


def _answers_reason(climber: Climber, plan: SweepPlan) -> Reason | None:
    if climber.judged is not None:
        return wrong_model_reason("" if climber.judged.accepted else climber.judged.reason)
    return not_judged_reason("" if plan.judged_by is None else climber.unjudged)


def _engine(spec: EngineSpec, runtime: RuntimeInfo | None) -> EngineLabel:
    """As the engine described itself; one that died cannot say what it computed in."""
    if runtime is not None:
        return spec.engine(runtime)
    return EngineLabel(
        runtime="pytorch" if spec.runtime == "torch.compile" else spec.runtime,
        device="CPU" if spec.gpu is None else spec.gpu.name,
        computes_in=UNKNOWN,
        precision=spec.precision,
        options=spec.options_in_words,
    )
