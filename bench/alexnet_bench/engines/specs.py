"""Records that an engine's process receives and returns: the engine, its timed calls, the gate's result."""

from __future__ import annotations

from pathlib import Path

from alexnet_model.gpus import Gpu
from alexnet_model.manifest import RunnerReport, RuntimeInfo
from alexnet_model.records import Precision, Record

from ..schema import EngineLabel, MemoryOf

UNKNOWN = "unknown"


class EngineSpec(Record):
    """One engine to measure: all that a separate process needs to load it.

    Attributes:
        runtime: Name in the runtime registry.
        precision: Precision of the file.
        file: Checkpoint, ONNX file or engine, as an absolute path.
        size_bytes: Size of that file.
        max_batch: Largest batch that the engine takes.
        contract: Canonical JSON of the input contract.
        classes: Number of classes.
        options: Options that the runtime is loaded with; None means its defaults for the precision.
        gpu: GPU to run on; None means the CPU.
        cuda_graphs: Capture each batch size as a CUDA graph: built engines, ONNX Runtime on a GPU, and
            PyTorch in half precision.
        half: Run a checkpoint in half precision and channels last, as a user of PyTorch would on a GPU;
            `torch.compile` then in its mode `max-autotune`.
        copies: Include the copies of images and outputs to and from the GPU in every call. Without them, only
            the GPU's computation is timed. On a CPU there is nothing to copy.
    """

    runtime: str
    precision: Precision
    file: Path
    size_bytes: int
    max_batch: int
    contract: str
    classes: int
    options: dict[str, str] | None = None
    gpu: Gpu | None = None
    cuda_graphs: bool = False
    half: bool = False
    copies: bool = False

    @property
    def is_compiled(self) -> bool:
        """Whether loading it compiles it, which may take minutes."""
        return self.runtime == "torch.compile"

    @property
    def variant(self) -> tuple[str, ...]:
        """What distinguishes it from other engines of the same runtime and device."""
        flags = {
            "channels last": self.half,
            "max-autotune": self.half and self.is_compiled,
            "CUDA graphs": self.cuda_graphs,
            "with copies": self.copies,
        }
        return tuple(name for name, is_set in flags.items() if is_set)

    @property
    def without_copies(self) -> EngineSpec:
        """The same engine, timed without copies: one process runs both, and their outputs are the same."""
        return self.model_copy(update={"copies": False})

    @property
    def shared_name(self) -> str:
        """A name for what one process runs: equal with and without copies."""
        return f"{self.without_copies} {self.file}"

    def label(self, loaded: RuntimeInfo | None) -> EngineLabel:
        """Label its rows.

        Args:
            loaded: What the loaded engine reports of itself; None if it ended before it could report.
        """
        if loaded is None:
            runtime, device, computes_in = self.runtime, self._device, UNKNOWN
        else:
            runtime, device, computes_in = loaded.name, loaded.device, loaded.computes_in
        # A runner may report the library that it belongs to, as torch.compile reports PyTorch.
        own_name = () if runtime == self.runtime else (self.runtime,)
        return EngineLabel(
            runtime=runtime,
            device=device,
            computes_in=computes_in,
            precision=self.precision,
            options=", ".join((*own_name, *self.variant)),
        )

    @property
    def _device(self) -> str:
        return "CPU" if self.gpu is None else self.gpu.name

    def __str__(self) -> str:
        return f"{self.precision} on {self.runtime} ({', '.join((self._device, *self.variant))})"


class TimedCalls(Record):
    """Calls of one engine at one batch.

    Attributes:
        throughput_per_s: Images a second over the time of the calls alone.
        histogram: HdrHistogram's compressed form of the calls' latencies.
        peak_memory_bytes: Peak memory so far. It includes loading and what the engine keeps of the smaller
            batches measured before; with CUDA graphs that is a graph and an execution context for each.
        memory_of: Whether that is the process's own, or what the whole GPU has less free.
    """

    throughput_per_s: float
    histogram: str
    peak_memory_bytes: int | None
    memory_of: MemoryOf = "process"


class GateResult(Record):
    """What the export's gate decided on the loaded engine, and on which images."""

    report: RunnerReport
    accepted: bool
    reason: str
    judged_on: str
