"""A stand-in for the `tensorrt` module where no GPU is: the same names, and ONNX Runtime behind them.

`fake_tensorrt(version)` has the names and enumerators that NVIDIA's bindings of that version really have
(`tensorrt_names/`, recorded by `record_tensorrt_names.py`) and no others: a call that a version does not know
raises AttributeError here as it would there. A plan is a few bytes of header and the ONNX file; executing it
reads the images at the given address, runs ONNX Runtime on them, and writes to the given addresses.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

NAMES = Path(__file__).parent / "tensorrt_names"
VERSIONS = tuple(sorted(path.stem for path in NAMES.glob("*.json")))
MAGIC = b"fake plan "


def names_of(version: str) -> dict[str, Any]:
    """Class to its names, enumeration to its members with their values."""
    classes: dict[str, Any] = json.loads((NAMES / f"{version}.json").read_text())["classes"]
    return classes


class Recorder:
    """What the code under test did with the API, and what the fake shall do."""

    def __init__(self) -> None:
        self.network_flags = 0
        self.flags_set: set[str] = set()
        self.flags_cleared: set[str] = set()
        self.verbosity: Any = None
        self.hardware: Any = None
        self.shapes: dict[str, Any] = {}
        self.timing_caches: list[bytes] = []  # what builds started from
        self.host_code_allowed = False
        self.contexts = 0
        self.executions: list[int] = []  # batches
        self.builds = True
        self.loads = True
        self.inspected = json.dumps({"Layers": []})


def fake_tensorrt(version: str) -> Any:
    """The module; its `recorder` is no part of the API."""
    names = names_of(version)
    recorder = Recorder()
    enums = {name: IntEnum(name, members) for name, members in names.items() if isinstance(members, dict)}
    trt = SimpleNamespace(__version__=version, recorder=recorder, **enums)

    def api(kind: type) -> type:
        """Put a class into the module, without the names that this version lacks."""
        unknown = {name for name in vars(kind) if not name.startswith("_")} - set(names[kind.__name__])
        for name in unknown:
            delattr(kind, name)
        setattr(trt, kind.__name__, kind)
        return kind

    @api
    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    @api
    class IProgressMonitor:
        pass

    @api
    class INetworkDefinition:
        _model: onnx.ModelProto | None = None

    @api
    class ParserError:
        def __init__(self, node: str, operator: str, description: str) -> None:
            self._said = (node, operator, description)

        def node_name(self) -> str:
            return self._said[0]

        def node_operator(self) -> str:
            return self._said[1]

        def desc(self) -> str:
            return self._said[2]

    @api
    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self._network = network
            self._errors: list[Any] = []

        def parse_from_file(self, path: str) -> bool:
            try:
                self._network._model = onnx.load(path)
            except Exception:
                self._errors.append(ParserError("", "", "Assertion failed: Failed to parse the ONNX model."))
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

    @api
    class IOptimizationProfile:
        def set_shape(self, name: str, low: Any, middle: Any, high: Any) -> None:
            recorder.shapes[name] = (low, middle, high)

    @api
    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content + b"+timings"

    @api
    class IBuilderConfig:
        progress_monitor: Any = None

        def clear_flag(self, flag: Any) -> None:
            recorder.flags_cleared.add(flag.name)

        def set_flag(self, flag: Any) -> None:
            recorder.flags_set.add(flag.name)

        @property
        def profiling_verbosity(self) -> Any:
            return recorder.verbosity

        @profiling_verbosity.setter
        def profiling_verbosity(self, value: Any) -> None:
            recorder.verbosity = value

        @property
        def hardware_compatibility_level(self) -> Any:
            return recorder.hardware

        @hardware_compatibility_level.setter
        def hardware_compatibility_level(self, value: Any) -> None:
            recorder.hardware = value

        def add_optimization_profile(self, profile: Any) -> int:
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            return ITimingCache(content)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            if cache._content.startswith(b"foreign"):
                return False
            self._cache = cache
            recorder.timing_caches.append(cache._content)
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

    @api
    class Builder:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> Any:
            recorder.network_flags = flags
            return INetworkDefinition()

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 4)
            for step in range(4):
                if not monitor.step_complete("Building engine", step):
                    return None
            monitor.phase_finish("Building engine")
            if not recorder.builds:
                self._logger.log(ILogger.ERROR, "Error Code 10: Internal Error (Could not find any tactic.)")
                return None
            return MAGIC + network._model.SerializeToString()

    @api
    class IExecutionContext:
        def __init__(self, session: Any) -> None:
            recorder.contexts += 1
            self._session = session
            self._addresses: dict[str, int] = {}
            self._shape: tuple[int, ...] = ()

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._shape = tuple(shape)
            _, _, high = recorder.shapes.get(name, (None, None, shape))
            return bool(shape[0] <= high[0])

        def execute_async_v3(self, stream: int) -> bool:
            recorder.executions.append(self._shape[0])
            (image,) = self._session.get_inputs()
            images = _array_at(self._addresses[image.name], self._shape, np.uint8)
            outputs = [output.name for output in self._session.get_outputs()]
            for name, rows in zip(outputs, self._session.run(outputs, {image.name: images}), strict=True):
                _array_at(self._addresses[name], rows.shape, np.float32)[:] = rows
            return True

    @api
    class EngineInspector:
        execution_context: Any = None

        def get_engine_information(self, format_: Any) -> str:
            if self.execution_context is None or not self.execution_context._shape:
                return json.dumps({"Layers": [{"LayerType": "gemm", "Inputs": [{"Format/Datatype": "N/A"}]}]})
            return recorder.inspected

    @api
    class ICudaEngine:
        def __init__(self, content: bytes) -> None:
            self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def create_execution_context(self) -> Any:
            return IExecutionContext(self._session)

        def create_engine_inspector(self) -> Any:
            return EngineInspector()

    @api
    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        @property
        def engine_host_code_allowed(self) -> bool:
            return recorder.host_code_allowed

        @engine_host_code_allowed.setter
        def engine_host_code_allowed(self, value: bool) -> None:
            recorder.host_code_allowed = value

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            if not recorder.loads or not plan.startswith(MAGIC):
                said = "The engine plan file is not compatible with this version of TensorRT"
                self._logger.log(ILogger.ERROR, said)
                return None
            return ICudaEngine(plan.removeprefix(MAGIC))

    return trt


class HostDevice:
    """A `Device` whose buffers lie in this machine's own memory."""

    name = "host memory"
    index = 0
    stream = 1

    def __init__(self) -> None:
        self.captures = 0
        self.made_current = 0

    def make_current(self) -> None:
        self.made_current += 1

    def buffer(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        return np.zeros(shape, dtype)

    def address(self, buffer: npt.NDArray[Any]) -> int:
        return int(buffer.ctypes.data)

    def upload(self, images: npt.NDArray[Any], buffer: npt.NDArray[Any]) -> None:
        buffer[: len(images)] = images

    def move(self, source: npt.NDArray[Any], buffer: npt.NDArray[Any]) -> None:
        buffer[: len(source)] = source

    def download(self, buffer: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        return buffer[:rows].copy()

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        return launch


def _array_at(address: int, shape: tuple[int, ...], dtype: type) -> npt.NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = memoryview((ctypes.c_char * size).from_address(address)).cast("B")
    array: npt.NDArray[Any] = np.frombuffer(content, dtype).reshape(shape)
    return array
