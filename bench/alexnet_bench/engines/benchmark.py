"""The engine benchmark, from an export's folder to a report.

report = bench_engines(Path("build/export"), EngineBenchOptions(batches=(1, 32)))
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.files import temporary_folder
from alexnet_model.gpus import Gpu, gpus_here
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from ..figures.intervals import figure_from_repeats
from ..figures.percentiles import LatencyHistogram
from ..figures.verdicts import (
    Reason,
    above_limit_reason,
    calibration_reason,
    elsewhere_reason,
    interrupted_reason,
    not_judged_reason,
    samples_reason,
    verdict_from,
    wrong_model_reason,
)
from ..runs import Log, report_of_run
from ..schema import EngineLabel, EngineRow, LeftOut, Proof, Report, Roof
from .process import BenchProcess, EngineProcess
from .roofline import Layer, layers_from_onnx, limit_at, roof_over
from .selection import EngineFilter, engines_of_export
from .specs import EngineSpec
from .sweep import BatchRun, Sweep, SweepPlan, SweptEngine, doubling_batches, run_sweep

# Of each kernel of the ceilings: before the sweep, and after each of its repeats.
FIRST_CEILINGS_S = 0.5
CEILINGS_S = 0.2
BURN_IN_S = 0.2
MOST_OF_LIMIT = 0.95  # hardly any engine is that good: the limit may be too long
# PyTorch's variable. A run uses a cache of its own, since an earlier run's would make compiling look fast,
# unless the variable is set.
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class DeviceProcess:
    """What is measured of a device beside the engines, in a process that is kept between calls.

    Attributes:
        roofs: Takes the seconds for each kernel, and returns the best ceilings so far.
        control_rate: Returns the operations per second of a fixed work.
    """

    roofs: Callable[[float], Sequence[Roof]]
    control_rate: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class EngineBenchOptions:
    """Options of the engine benchmark.

    Attributes:
        engine_filter: Which engines of the export; all by default.
        batches: Images a call; None means 1, 2, 4 ... and the export's largest batch.
        seconds: Length of one repeat of an engine at a batch.
        repeats: How often each engine is timed at each batch.
        judge: Judge every engine by the export's gate after it was timed.
    """

    engine_filter: EngineFilter = field(default_factory=EngineFilter)
    batches: tuple[int, ...] | None = None
    seconds: float = 0.5
    repeats: int = 5
    judge: bool = True

    def plan(self, manifest: Manifest, folder: Path) -> SweepPlan:
        """Plan the sweep of the export in a folder.

        Raises:
            UsageError: batches, seconds or repeats are out of range.
        """
        largest = manifest.max_batch  # no engine of an export is built for more
        batches = doubling_batches(largest) if self.batches is None else self.batches
        if max(batches, default=0) > largest:
            raise UsageError(
                "batches",
                got=str(max(batches)),
                expected=f"at most {largest}, the largest of {folder}",
                next_step=f"Export for larger ones: alexnet export CHECKPOINT --max-batch {max(batches)}",
            )
        return SweepPlan(
            batches=tuple(dict.fromkeys(batches)),
            seconds=self.seconds,
            repeats=self.repeats,
            burn_in_s=min(BURN_IN_S, self.seconds),
            judged_by=folder if self.judge else None,
        )


@contextmanager
def device_process(gpu: Gpu | None) -> Iterator[DeviceProcess]:
    """Measure a GPU, or the CPU if `gpu` is None, in a process of its own.

    Raises:
        ExportError: the process failed.
    """
    with BenchProcess() as process:
        process.request("ceilings", gpu)
        yield DeviceProcess(
            roofs=partial(process.request, "roofs"), control_rate=partial(process.request, "control_rate")
        )


def bench_engines(
    folder: Path,
    options: EngineBenchOptions,
    *,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Measure every engine of an export that this machine can run.

    Args:
        folder: The export's folder.
        options: What to measure.
        command: The command line, for the report.
        progress: Called as the run proceeds.

    Returns:
        A report. Ctrl-C ends the run early, and keeps what was measured.

    Raises:
        ManifestError: the export or one of its files is missing or altered.
        CheckpointError: the checkpoint cannot be read, or is of another model.
        ExportError: there is nothing to measure.
        UsageError: a precision, batch or length is out of range.
    """
    manifest = manifest_from_folder(folder)
    plan = options.plan(manifest, folder)
    selection = engines_of_export(manifest, folder, options.engine_filter, gpus_here())
    layers = _layers_by_precision(selection.specs, manifest, folder)

    def measure(log: Log) -> None:
        log.left_out += selection.left_out
        with (
            _Ceilings(selection.specs, 1 + plan.repeats, progress) as ceilings,
            temporary_folder("alexnet-bench-") as scratch,
        ):
            ceilings.measure(FIRST_CEILINGS_S)
            log.gpu_calibration_before = ceilings.control_rate_of_gpu()
            kept = os.environ.get(COMPILED_CODE)
            if kept and any(spec.is_compiled for spec in selection.specs):
                log.notes.append(
                    f"torch.compile may load code that an earlier run compiled ({COMPILED_CODE})."
                )
            open_engine = partial(EngineProcess, environment={COMPILED_CODE: kept or str(scratch)})
            after_repeat = partial(ceilings.measure, CEILINGS_S)
            sweep = run_sweep(selection.specs, plan, open_engine, progress, after_repeat=after_repeat)
            log.note(interrupted_reason(sweep.is_interrupted))
            log.gpu_calibration_after = ceilings.control_rate_of_gpu()
            if log.gpu_calibration_before and log.gpu_calibration_after:
                changed = log.gpu_calibration_before, log.gpu_calibration_after
                log.note(calibration_reason(*changed, of=" of the GPU"))
            rows = rows_from_sweep(sweep, layers, ceilings.roofs)
            log.roofs += ceilings.roofs
            log.engines += rows
            log.note(above_limit_reason(rows_above_limit(rows)))
            log.proofs += proofs_from_sweep(sweep)
            log.left_out += (*sweep.left_out, *ceilings.left_out, *doubtful_limits(rows))

    return report_of_run(measure, title="Engines in process", command=command)


def rows_from_sweep(
    sweep: Sweep, layers: Mapping[Precision, Sequence[Layer]], roofs: Sequence[Roof]
) -> tuple[EngineRow, ...]:
    """Make one row for each engine and batch.

    Args:
        sweep: What was measured.
        layers: The network's layers by precision; without them there is no limit.
        roofs: The ceilings of the devices; without them there is no limit.
    """
    return tuple(
        _row(one, run, sweep.plan, layers.get(one.spec.precision, ()), roofs)
        for one in sweep.engines
        for run in one.runs.values()
    )


def proofs_from_sweep(sweep: Sweep) -> tuple[Proof, ...]:
    """Return what the gate decided on each engine that was measured."""
    found: dict[str, Proof] = {}
    for one in sweep.engines:
        if one.gate_result is not None:
            label = one.spec.without_copies.label(one.runtime)
            found[one.spec.shared_name] = Proof(engine=label, **dict(one.gate_result))
    return tuple(found.values())


def doubtful_limits(rows: Sequence[EngineRow]) -> tuple[LeftOut, ...]:
    """List the batches at which an engine came so close to its limit that the limit is in doubt."""
    doubtful = _batches_of(rows, lambda share: MOST_OF_LIMIT < share <= 1)
    why = (
        f"above {MOST_OF_LIMIT:.0%}: its ceilings were likely measured too low, or its weights stayed in a "
        "cache from call to call"
    )
    return tuple(
        LeftOut(what=f"{engine}: a reliable share of the limit at batch {batches}", why=why)
        for engine, batches in doubtful.items()
    )


def rows_above_limit(rows: Sequence[EngineRow]) -> str:
    """Name the engines and batches that were faster than their limit; empty if there are none."""
    above = _batches_of(rows, lambda share: share > 1)
    return "; ".join(f"{engine} at batch {batches}" for engine, batches in above.items())


def _batches_of(rows: Sequence[EngineRow], selected: Callable[[float], bool]) -> dict[EngineLabel, str]:
    batches: defaultdict[EngineLabel, list[str]] = defaultdict(list)
    for row in rows:
        if row.share_of_limit is not None and selected(row.share_of_limit):
            batches[row.engine].append(str(row.batch))
    return {engine: ", ".join(found) for engine, found in batches.items()}


def _row(
    one: SweptEngine, run: BatchRun, plan: SweepPlan, layers: Sequence[Layer], roofs: Sequence[Roof]
) -> EngineRow:
    engine = one.spec.label(one.runtime)
    roof = roof_over(engine, roofs) if layers else None
    limit = None if roof is None else limit_at(layers, one.spec.precision, run.batch, roof)
    histogram = LatencyHistogram()
    for timed in run.repeats:
        histogram.add(timed.histogram.encode("ascii"))
    return EngineRow(
        engine=engine,
        batch=run.batch,
        throughput=figure_from_repeats([timed.throughput_per_s for timed in run.repeats], "images/s"),
        latencies=histogram.latencies(),
        first_call_ms=run.first_call_ms,
        load_ms=one.load_ms,
        size_bytes=one.spec.size_bytes,
        peak_memory_bytes=run.repeats[0].peak_memory_bytes,  # later ones follow larger batches
        memory_of=run.repeats[0].memory_of,
        limit_ms=None if limit is None else limit.ms,
        bound_by="unknown" if limit is None else limit.bound_by,
        verdict=verdict_from(
            _failure_reason(run, plan.repeats),
            _gate_reason(one, plan),
            elsewhere_reason(engine.computes_in, engine.device),
            samples_reason(histogram.samples, "calls", "Let the run finish."),
        ),
    )


def _failure_reason(run: BatchRun, repeats: int) -> Reason | None:
    """A row that ended early covers a part of the run, and an engine that may have been failing."""
    if not run.failure or len(run.repeats) == repeats:
        return None
    return Reason(
        rule="errors",
        found=f"its engine failed after {len(run.repeats)} of {repeats} repeats: {run.failure}",
        advice="Fix that, or choose batches that work: --batch.",
    )


def _gate_reason(one: SweptEngine, plan: SweepPlan) -> Reason | None:
    if one.gate_result is not None:
        return wrong_model_reason("" if one.gate_result.accepted else one.gate_result.reason)
    return not_judged_reason("" if plan.judged_by is None else one.not_judged_because)


class _Ceilings(ExitStack):
    """The ceilings of every device. A device that fails is not measured again, and keeps its best so far."""

    def __init__(self, specs: Sequence[EngineSpec], rounds: int, progress: Progress) -> None:
        super().__init__()
        self._devices = list(dict.fromkeys(spec.gpu for spec in specs))
        self._rounds = rounds
        self._done = 0
        self._progress = progress
        self._processes: dict[Gpu | None, DeviceProcess] = {}
        self._roofs: dict[Gpu | None, Sequence[Roof]] = {}
        self.left_out: list[LeftOut] = []

    @property
    def roofs(self) -> tuple[Roof, ...]:
        return tuple(roof for roofs in self._roofs.values() for roof in roofs)

    def measure(self, seconds: float) -> None:
        """Measure each device, each kernel for about `seconds`."""
        for gpu in tuple(self._devices):
            name = "CPU" if gpu is None else gpu.name
            self._progress("ceilings", self._done, self._rounds, f"{name}: matrix products and memory")
            try:
                if gpu not in self._processes:
                    self._processes[gpu] = self.enter_context(device_process(gpu))
                self._roofs[gpu] = self._processes[gpu].roofs(seconds)
            except (AlexnetError, OSError) as error:
                self._devices.remove(gpu)
                self.left_out.append(LeftOut(what=f"ceilings of {name}", why=str(error)))
        self._done += 1
        self._progress("ceilings", self._done, self._rounds)

    def control_rate_of_gpu(self) -> float | None:
        """Measure the calibration workload of the GPU; None if no GPU is measured, or it failed."""
        gpu = next((gpu for gpu in self._devices if gpu is not None), None)
        if gpu is None:
            return None
        try:
            return self._processes[gpu].control_rate()
        except (AlexnetError, OSError) as error:
            self.left_out.append(LeftOut(what=f"calibration of {gpu.name}", why=str(error)))
            return None


def _layers_by_precision(
    specs: Sequence[EngineSpec], manifest: Manifest, folder: Path
) -> Mapping[Precision, Sequence[Layer]]:
    """Count the layers of each precision in its ONNX file, from which engines are built too."""
    measured = {spec.precision for spec in specs}
    return {
        artifact.precision: layers_from_onnx(folder / artifact.file)
        for artifact in manifest.accepted
        if artifact.precision in measured
    }
