"""What is to be measured: all that a process of its own needs to open one engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from alexnet_model.gpus import Gpu
from alexnet_model.manifest import RunnerReport, RuntimeInfo
from alexnet_model.records import Precision, Record

from ..schema import EngineLabel

# As `--runtime` names them.
RuntimeName = Literal["pytorch", "torch.compile", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


class EngineSpec(Record):
    """One row of the ladder at every batch. `gpu` None: the CPU.

    `copies`: with images and answers copied to and from the GPU in every call; without, the GPU's computing
    alone. On a CPU there is nothing to copy.
    """

    runtime: RuntimeName
    precision: Precision
    file: Path
    size_bytes: int
    max_batch: int
    contract: str  # its canonical JSON
    classes: int
    options: dict[str, str] = Field(default={}, description="that the runtime is loaded with")
    gpu: Gpu | None = None
    cuda_graphs: bool = False
    copies: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """What tells it from others of its runtime and device."""
        words = {"CUDA graphs": self.cuda_graphs, "with copies": self.copies}
        return tuple(word for word, is_so in words.items() if is_so)

    def engine(self, runtime: RuntimeInfo) -> EngineLabel:
        """As rows name it, with what the loaded model says of itself."""
        return EngineLabel(
            runtime=runtime.name,
            device=runtime.device,
            computes_in=runtime.computes_in,
            precision=self.precision,
            options=self.options_in_words,
        )

    @property
    def options_in_words(self) -> str:
        """What of it no runtime reports of itself."""
        compiled = ("torch.compile",) if self.runtime == "torch.compile" else ()
        return ", ".join((*compiled, *self.words))

    def __str__(self) -> str:
        where = "CPU" if self.gpu is None else self.gpu.name
        return f"{self.precision} on {self.runtime} ({', '.join((where, *self.words))})"

    @property
    def without_copies(self) -> EngineSpec:
        """The same engine: copying images to and fro does not change its answers."""
        return self.model_copy(update={"copies": False})


class Judged(Record):
    """What the gate says of an engine, on which images."""

    report: RunnerReport
    accepted: bool
    reason: str
    judged_on: str


class EngineSlice(Record):
    """One stretch of calls, with what the process had taken at most by its end.

    Throughput is of the same time as the latencies: of the calls alone, without what lies between them. On a
    GPU that leaves out the copies of images and answers, unless the spec is one with copies.

    Memory is of the engine as it came to this batch: with its loading, and with what it keeps of all smaller
    batches that were measured before. With CUDA graphs it keeps a graph and an execution context of each.
    """

    throughput_per_s: float  # images/s
    histogram: str  # HdrHistogram's compressed form, of the calls' latencies
    peak_memory_bytes: int | None
