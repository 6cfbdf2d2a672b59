"""A runner for engines, so that the gate checks them as it checks ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import EngineError
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.passport import Passport, passport_of

from ..cuda import Device, contiguous
from ..runners import Outputs, RunnerSource
from .passports import runtime_info
from .tensorrt_api import TensorRt, reason_from_log, tensorrt_api


def runner_from_source(source: RunnerSource) -> EngineRunner:
    """Make a runner of an engine, by the passport beside it.

    Raises:
        ManifestError: the engine has no passport.
        MissingExtra: the library that built it is not installed.
        EngineError: that library does not load.
    """
    assert source.device is not None  # `open_runner` refuses a source without one
    passport = passport_of(source.file)
    return EngineRunner(
        source.file,
        passport,
        api=tensorrt_api(passport.runtime),
        device=source.device,
        classes=source.classes,
        contract=source.contract,
        cuda_graphs=source.cuda_graphs,
    )


class EngineRunner:
    """Run an engine on a GPU with TensorRT or TensorRT-RTX.

    Args:
        engine: The engine's file.
        passport: Its passport.
        api: The library to load it with.
        device: The GPU.
        classes: Number of classes of the model.
        contract: The model's input contract, which names the tensors.
        cuda_graphs: Whether to capture a CUDA graph at the first call of each batch size and replay it later.
            Each batch size then has its own execution context, since a graph is valid only while its context
            keeps its shapes.

    Raises (on entering):
        EngineError: the engine does not load here; TensorRT's reason is in the message.
    """

    def __init__(
        self,
        engine: Path,
        passport: Passport,
        *,
        api: TensorRt,
        device: Device,
        classes: int,
        contract: Contract,
        cuda_graphs: bool = False,
    ) -> None:
        self._path = engine
        self._passport = passport
        self._api = api
        self._device = device
        self._classes = classes
        self._contract = contract
        self._cuda_graphs = cuda_graphs
        self._launches: dict[int, Callable[[], None]] = {}  # by batch

    def __enter__(self) -> Self:
        self._device.make_current()
        self._logger = self._api.logger()
        self._runtime = self._api.runtime(self._logger, version_compatible=self._passport.version_compatible)
        self._engine: Any = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise self._failed("an engine that loads here", "Build it here: alexnet export")
        largest = self._passport.profile.max
        contract = self._contract
        self._buffers = {
            contract.input_name: self._device.buffer((largest, *contract.image_shape), "uint8"),
            contract.probabilities_name: self._device.buffer((largest, self._classes), "float32"),
            contract.logits_name: self._device.buffer((largest, self._classes), "float32"),
        }
        self._context = self._new_context()
        return self

    def __exit__(self, *_: object) -> None:
        # Contexts before their engine, the engine before its runtime.
        self._launches.clear()
        self._context = None
        self._engine = None
        self._runtime = None
        self._buffers.clear()

    @property
    def runtime(self) -> RuntimeInfo:
        return runtime_info(self._passport, self._device.name)

    def infer(self, images: Uint8Array) -> Outputs:
        batch = self._passport.checked_batch(len(images), self._path)
        self._device.upload(contiguous(images), self._buffers[self._contract.input_name])
        self._launched(batch)
        return Outputs(
            self._device.download(self._buffers[self._contract.probabilities_name], batch),
            self._device.download(self._buffers[self._contract.logits_name], batch),
        )

    def place(self, images: Uint8Array) -> Any:
        buffer = self._device.buffer(images.shape, "uint8")
        self._device.upload(contiguous(images), buffer)
        return buffer

    def take(self, placed: Any) -> None:
        self._batch = self._passport.checked_batch(len(placed), self._path)
        self._device.move(placed, self._buffers[self._contract.input_name])

    def launch(self) -> None:
        self._launched(self._batch)

    def _launched(self, batch: int) -> None:
        if batch not in self._launches:
            self._launches[batch] = self._launch_of(batch)
        self._launches[batch]()

    def _launch_of(self, batch: int) -> Callable[[], None]:
        context = self._new_context() if self._cuda_graphs else self._context

        def launch() -> None:
            shape = (batch, *self._contract.image_shape)
            if not context.set_input_shape(self._contract.input_name, shape):
                raise self._failed(f"a batch within the profile {self._passport.profile}", "")
            if not context.execute_async_v3(self._device.stream):
                raise self._failed("an engine that runs", "Check this machine: alexnet doctor")

        return self._device.captured(launch) if self._cuda_graphs else launch

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise self._failed("an execution context", "Free some GPU memory: nvidia-smi")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, self._device.address(buffer)):
                raise self._failed(f"a tensor named {name}", "Export again.")
        return context

    def _failed(self, expected: str, next_step: str) -> EngineError:
        errors = self._logger.errors
        return EngineError(
            str(self._path),
            got=reason_from_log(errors[-1]) if errors else "no reason given by TensorRT",
            expected=expected,
            next_step=next_step,
        )
