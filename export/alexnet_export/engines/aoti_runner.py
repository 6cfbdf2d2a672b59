"""A runner for AOTInductor engines (`.pt2`), on a GPU or on the CPU.

A `.pt2` is an archive with a shared library, which runs as soon as it is loaded. So its hash and the machine
are compared with its passport first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Self

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.environment import cpu_extensions, versions_of
from alexnet_model.errors import EngineError
from alexnet_model.extras import needs
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.passport import Passport, passport_of

from ..cuda import CudaDevice, contiguous
from ..runners import Outputs, RunnerSource

with needs("export"):
    import torch
    from torch._C._aoti import AOTIModelPackageLoader


def runner_from_source(source: RunnerSource) -> AotiRunner:
    """Make a runner of an engine, by the passport beside it.

    Raises:
        ManifestError: the engine has no passport.
    """
    return AotiRunner(
        source.file,
        passport_of(source.file),
        device=source.device,
        classes=source.classes,
        contract=source.contract,
        cuda_graphs=source.cuda_graphs,
    )


class AotiRunner:
    """Run an engine that AOTInductor compiled.

    Inside the `with`, PyTorch's TF32 switches are off for the whole process if the runner is on a GPU; they
    are restored on exit.

    Args:
        engine: The `.pt2` file.
        passport: Its passport.
        device: The GPU. None: the CPU.
        classes: Number of classes of the model.
        contract: The model's input contract.
        cuda_graphs: Whether to capture a CUDA graph at the first call of each batch size and replay it later.

    Raises (on entering):
        EngineError: the file is not the one of its passport, was compiled for another PyTorch, GPU or CPU,
            or PyTorch cannot load it.
    """

    def __init__(
        self,
        engine: Path,
        passport: Passport,
        *,
        device: CudaDevice | None = None,
        classes: int,
        contract: Contract,
        cuda_graphs: bool = False,
    ) -> None:
        self._path = engine
        self._passport = passport
        self._device = device
        self._device_name = "CPU" if device is None else device.name
        self._classes = classes
        self._contract = contract
        self._cuda_graphs = cuda_graphs
        self._launches: dict[int, Callable[[], None]] = {}  # by batch
        self._outputs: dict[int, Any] = {}  # by batch: a graph writes to the same memory at every replay
        self._on_exit = ExitStack()

    def __enter__(self) -> Self:
        self._check()
        if self._device is not None:
            self._device.make_current()
            switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
            for switch in switches:
                self._on_exit.callback(setattr, switch, "allow_tf32", switch.allow_tf32)
                switch.allow_tf32 = False
        try:
            with nullcontext() if self._device is None else self._device.working():
                # Not `aoti_load_package`, which starts a C++ compiler to look at the CPU. Single-threaded,
                # since the loader's own synchronisation cannot be captured in a CUDA graph.
                index = -1 if self._device is None else self._device.index
                self._loader: Any = AOTIModelPackageLoader(str(self._path), "model", True, 1, index)
                if self._device is not None:
                    largest = self._passport.profile.max
                    self._images = self._device.buffer((largest, *self._contract.image_shape), "uint8")
        except torch.OutOfMemoryError as error:
            self._on_exit.close()
            raise self._out_of_memory() from error
        except Exception as error:  # PyTorch raises errors of several kinds
            self._on_exit.close()
            raise self._failed(self._reason_from(error), "an engine that loads here") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._launches.clear()
        self._outputs.clear()
        self._loader = self._images = None
        self._on_exit.close()

    @property
    def runtime(self) -> RuntimeInfo:
        passport = self._passport
        return RuntimeInfo(
            name=passport.runtime,
            device=self._device_name,
            computes_in="+".join(passport.layer_precisions or ()),
            options={"torch_version": passport.runtime_version},
        )

    def infer(self, images: Uint8Array) -> Outputs:
        batch = self._passport.checked_batch(len(images), self._path)
        if self._device is None:
            with torch.inference_mode():
                probabilities, logits = self._loader.run([torch.from_numpy(contiguous(images))])
            return Outputs(probabilities.numpy(), logits.numpy())
        self._device.upload(contiguous(images), self._images)
        self._launched(batch)
        probabilities, logits = self._outputs[batch]
        return Outputs(self._device.download(probabilities, batch), self._device.download(logits, batch))

    def place(self, images: Uint8Array) -> Any:
        assert self._device is not None
        buffer = self._device.buffer(images.shape, "uint8")
        self._device.upload(contiguous(images), buffer)
        return buffer

    def take(self, placed: Any) -> None:
        assert self._device is not None
        self._batch = self._passport.checked_batch(len(placed), self._path)
        self._device.move(placed, self._images)

    def launch(self) -> None:
        self._launched(self._batch)

    def _launched(self, batch: int) -> None:
        try:
            if batch not in self._launches:
                self._launches[batch] = self._launch_of(batch)
            self._launches[batch]()
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error
        except RuntimeError as error:
            graphs = "with" if self._cuda_graphs else "without"
            raise EngineError(
                str(self._path),
                got=f"{self._reason_from(error)}, at a batch of {batch} {graphs} CUDA graphs",
                expected=f"a network that runs on {self._device_name}",
                next_step="Serve the ONNX file: alexnet export CHECKPOINT --runtime onnxruntime",
            ) from error

    def _launch_of(self, batch: int) -> Callable[[], None]:
        device = self._device
        assert device is not None

        def launch() -> None:
            with torch.inference_mode(), device.working():
                self._outputs[batch] = self._loader.run([self._images[:batch]])

        return device.captured(launch) if self._cuda_graphs else launch

    def _check(self) -> None:
        """Compare the file and this machine with the passport, before anything of the file is run."""
        passport = self._passport
        if sha256_of_file(self._path) != passport.engine_sha256:
            raise self._failed("another file than its passport describes", "the engine that was built")
        version = versions_of("torch")["torch"]
        if passport.runtime_version != version:
            raise self._failed(f"PyTorch {version}", f"{passport.runtime_version}, which compiled it")
        missing = sorted(set(passport.cpu_extensions) - set(cpu_extensions()))
        if missing:
            raise self._failed(f"a CPU without {', '.join(missing)}", "the CPU that it was compiled for")
        capability = None if self._device is None else self._device.compute_capability
        if capability != passport.compute_capability:
            here = "the CPU" if self._device is None else f"{self._device.name} ({capability})"
            built_for = passport.cpu or f"{passport.gpu_name} ({passport.compute_capability})"
            raise self._failed(here, f"{built_for}, for which it was compiled")

    def _reason_from(self, error: Exception) -> str:
        """Return the first line of an error, on a GPU with the free memory.

        Compiled code reports a full GPU as a failed call.
        """
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return first if self._device is None else f"{first} ({self._device.free_bytes() / 1e6:,.0f} MB free)"

    def _out_of_memory(self) -> EngineError:
        assert self._device is not None
        needed = self._passport.engine_size_bytes / 1e6
        return EngineError(
            str(self._path),
            got=f"{self._device.free_bytes() / 1e6:,.0f} MB free on {self._device.name}",
            expected=f"more than the {needed:,.0f} MB of its weights",
            next_step="Free some GPU memory: nvidia-smi",
        )

    def _failed(self, got: str, expected: str) -> EngineError:
        return EngineError(
            str(self._path), got=got, expected=expected, next_step="Build it here: alexnet export"
        )
