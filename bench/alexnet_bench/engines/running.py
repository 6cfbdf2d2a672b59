"""The engine ladder, from an export's folder to a report.

report = bench_engines(Path("export"), EngineBench(wishes=Wishes(checkpoint=Path("a.safetensors"))))
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from alexnet_model.errors import AlexnetError
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from ..control import control_rate
from ..figures.verdicts import interrupted_reason
from ..reports.schema import LeftOut, Report, Roof
from ..runs import Log, report_of_run
from .choosing import Machine, Wishes, engines_of_export
from .counting import Layer, layers_from_onnx
from .ladder import LadderPlan, Open, climb, doubling_batches
from .process import EngineProcess, Worker
from .roofline import best_of
from .rows import proofs_from_ladder, rows_from_ladder
from .specs import EngineSpec

CEILING_S = 0.5  # for each type, and for the copy
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"  # PyTorch's: an earlier run's would make compiling look quick


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """`batches` None: 1, 2, 4 ... and the largest of the export. Seconds are those of one slice."""

    wishes: Wishes = field(default_factory=Wishes)
    batches: tuple[int, ...] | None = None
    seconds: float = 0.5
    repeats: int = 5
    judge: bool = True

    def plan(self, manifest: Manifest, folder: Path) -> LadderPlan:
        """What is measured of the export in a folder.

        Raises:
            UsageError: the batches, the seconds or the repeats cannot be.
        """
        batches = doubling_batches(manifest.max_batch) if self.batches is None else self.batches
        return LadderPlan(
            batches=batches,
            seconds=self.seconds,
            repeats=self.repeats,
            judged_by=folder if self.judge else None,
        )


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a run measures with. `engines` None: each in a process of its own."""

    machine: Machine = field(default_factory=Machine)
    engines: Open | None = None
    ceilings: Callable[[Gpu | None], Sequence[Roof]] = field(default_factory=lambda: ceilings_of)
    control: Callable[[], float] = control_rate


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
    choice = engines_of_export(manifest, folder, bench.wishes, use.machine)
    layers = _layers_by_precision(choice.specs, manifest, folder)

    def measure(log: Log) -> None:
        log.left_out += choice.left_out
        ceilings = _Ceilings(use.ceilings, choice.specs, progress)
        ceilings.measure("ceilings")
        with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as scratch:
            engines = use.engines or partial(EngineProcess, environment={COMPILED_CODE: scratch})
            ladder = climb(choice.specs, plan, engines, progress)
        log.note(interrupted_reason(ladder.is_interrupted))
        try:
            if not ladder.is_interrupted:
                ceilings.measure("ceilings again")
        finally:  # the rows are there, whatever became of the second look
            log.roofs += ceilings.roofs
            log.engines += rows_from_ladder(ladder, layers, ceilings.roofs)
            log.proofs += proofs_from_ladder(ladder)
            log.left_out += (*ladder.left_out, *ceilings.left_out)

    return report_of_run(measure, title="Engines in process", command=command, control=use.control)


def ceilings_of(gpu: Gpu | None) -> list[Roof]:
    """Measured in a process of its own, as the engines are.

    Raises:
        ExportError: it failed.
    """
    with Worker() as worker:
        worker.ask("ceilings", gpu=None if gpu is None else vars(gpu))
        return [Roof.model_validate(roof) for roof in worker.ask("roofs", seconds=CEILING_S)]


class _Ceilings:
    """Of every device, the best of all times: a busy moment must not make a low ceiling."""

    def __init__(
        self,
        measure: Callable[[Gpu | None], Sequence[Roof]],
        specs: Sequence[EngineSpec],
        progress: Progress,
    ) -> None:
        self._measure = measure
        self._devices = list(dict.fromkeys(spec.gpu for spec in specs))
        self._progress = progress
        self.roofs: tuple[Roof, ...] = ()
        self.left_out: tuple[LeftOut, ...] = ()

    def measure(self, stage: str) -> None:
        for index, gpu in enumerate(self._devices):
            name = "CPU" if gpu is None else gpu.name
            self._progress(stage, index, len(self._devices), f"{name}: matrix products and a copy")
            try:
                self.roofs = best_of(self.roofs, self._measure(gpu))
            except (AlexnetError, OSError) as error:
                found = LeftOut(what=f"ceilings of {name}", why=str(error))
                self.left_out = tuple(dict.fromkeys((*self.left_out, found)))
        self._progress(stage, len(self._devices), len(self._devices))


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
