"""The engine ladder, from an export's folder to a report.

report = bench_engines(Path("export"), EngineBench(wishes=Wishes(checkpoint=Path("a.safetensors"))))
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from ..calibration_workload import calibration_rate
from ..figures.verdicts import interrupted_reason
from ..runs import Log, report_of_run
from ..schema import LeftOut, Report, Roof
from .counting import Layer, layers_from_onnx
from .discovery import EngineFilter, Machine, engines_of_export
from .process import EngineProcess, Worker
from .rows import doubtful_limits, proofs_from_sweep, rows_from_sweep
from .specs import EngineSpec
from .sweep import Open, SweepPlan, climb, doubling_batches

# Of each matrix product and of the copy: once before the ladder, and after each of its repeats.
FIRST_LOOK_S = 0.5
LOOK_S = 0.2
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's: an earlier run's would make compiling look quick
Look = Callable[[float], Sequence[Roof]]  # for so many seconds a work: the ceilings, by all looks until then


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """`batches` None: 1, 2, 4 ... and the largest of the export. Seconds are those of one slice."""

    engine_filter: EngineFilter = field(default_factory=EngineFilter)
    batches: tuple[int, ...] | None = None
    seconds: float = 0.5
    repeats: int = 5
    judge: bool = True

    def plan(self, manifest: Manifest, folder: Path) -> SweepPlan:
        """What is measured of the export in a folder.

        Raises:
            UsageError: the batches, the seconds or the repeats cannot be.
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
            judged_by=folder if self.judge else None,
        )


@contextmanager
def ceilings_of(gpu: Gpu | None) -> Iterator[Look]:
    """Measured in a process of its own, as the engines are; it stays, for another look.

    Raises:
        ExportError: it failed.
    """
    with Worker() as worker:
        worker.ask("ceilings", gpu=None if gpu is None else vars(gpu))
        yield lambda seconds: [Roof.model_validate(roof) for roof in worker.ask("roofs", seconds=seconds)]


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a run measures with. `engines` None: each in a process of its own."""

    machine: Machine = field(default_factory=Machine)
    engines: Open | None = None
    ceilings: Callable[[Gpu | None], AbstractContextManager[Look]] = ceilings_of
    calibration: Callable[[], float] = calibration_rate


def bench_engines(
    folder: Path,
    bench: EngineBench,
    *,
    command: str = "",
    progress: Progress = silent,
    instruments: Instruments | None = None,
) -> Report:
    """Measure every engine of an export that this machine has. Ctrl-C ends it early; what is measured stays.

    Raises:
        ManifestError: the export or one of its files is missing or altered.
        CheckpointError: the checkpoint cannot be read, or is another model's.
        ExportError: there is nothing to measure.
        UsageError: a precision, batch or length cannot be.
    """
    manifest = manifest_from_folder(folder)
    plan = bench.plan(manifest, folder)
    use = instruments or Instruments()
    choice = engines_of_export(manifest, folder, bench.engine_filter, use.machine)
    layers = _layers_by_precision(choice.specs, manifest, folder)

    def measure(log: Log) -> None:
        log.left_out += choice.left_out
        with _Ceilings(use.ceilings, choice.specs, looks=1 + plan.repeats, progress=progress) as ceilings:
            ceilings.look(FIRST_LOOK_S)
            with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as scratch:
                engines = use.engines or partial(EngineProcess, environment={COMPILED_CODE: scratch})
                look = partial(ceilings.look, LOOK_S)
                sweep = climb(choice.specs, plan, engines, progress, after_repeat=look)
            log.note(interrupted_reason(sweep.is_interrupted))
            rows = rows_from_sweep(sweep, layers, ceilings.roofs)
            log.roofs += ceilings.roofs
            log.engines += rows
            log.proofs += proofs_from_sweep(sweep)
            log.left_out += (*sweep.left_out, *ceilings.left_out, *doubtful_limits(rows))

    return report_of_run(measure, title="Engines in process", command=command, calibration=use.calibration)


class _Ceilings:
    """Of every device. One that fails is not asked again; what it had found by then stays."""

    def __init__(
        self,
        open_ceilings: Callable[[Gpu | None], AbstractContextManager[Look]],
        specs: Sequence[EngineSpec],
        *,
        looks: int,
        progress: Progress,
    ) -> None:
        self._open = open_ceilings
        self._devices = list(dict.fromkeys(spec.gpu for spec in specs))
        self._planned = looks
        self._done = 0
        self._progress = progress
        self._opened = ExitStack()
        self._looks: dict[Gpu | None, Look] = {}
        self._roofs: dict[Gpu | None, Sequence[Roof]] = {}
        self.left_out: list[LeftOut] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def roofs(self) -> tuple[Roof, ...]:
        return tuple(roof for roofs in self._roofs.values() for roof in roofs)

    def look(self, seconds: float) -> None:
        """At each device in turn."""
        for gpu in tuple(self._devices):
            name = "CPU" if gpu is None else gpu.name
            self._progress("ceilings", self._done, self._planned, f"{name}: matrix products and memory")
            try:
                if gpu not in self._looks:
                    self._looks[gpu] = self._opened.enter_context(self._open(gpu))
                self._roofs[gpu] = self._looks[gpu](seconds)
            except (AlexnetError, OSError) as error:
                self._devices.remove(gpu)
                self.left_out.append(LeftOut(what=f"ceilings of {name}", why=str(error)))
        self._done += 1
        self._progress("ceilings", self._done, self._planned)


def _layers_by_precision(
    specs: Sequence[EngineSpec], manifest: Manifest, folder: Path
) -> Mapping[Precision, Sequence[Layer]]:
    """Counted from the ONNX file of each precision, which engines are built from too."""
    measured = {spec.precision for spec in specs}
    return {
        artifact.precision: layers_from_onnx(folder / artifact.file)
        for artifact in manifest.accepted
        if artifact.precision in measured
    }
