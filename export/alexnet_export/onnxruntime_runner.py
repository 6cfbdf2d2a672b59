"""ONNX Runtime: the reference for ONNX files, and the fallback where there is a GPU without TensorRT."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.files import temporary_folder
from alexnet_model.manifest import RuntimeInfo

from .cuda import Device, contiguous
from .runners import Outputs, RunnerSource

with needs("export"):
    import onnxruntime

# The operators that hold the multiply-adds, after ONNX Runtime's own fusions.
HEAVY_OPERATORS = frozenset(
    {"Conv", "ConvInteger", "FusedConv", "FusedGemm", "Gemm", "MatMul", "MatMulInteger", "QGemm"}
    | {"QLinearConv", "QLinearMatMul", "DynamicQuantizeMatMul"}
)
SHORT_NAMES = {"float": "f32", "float16": "f16", "uint8": "i8", "int8": "i8"}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
LOG_ERRORS_ONLY = 3  # its warnings are about its own optimisations
LOG_FATAL_ONLY = 4


def runner_from_source(source: RunnerSource) -> OnnxRunner:
    """Make a runner of the ONNX file in `source.file`; its options are session configuration entries."""
    if source.device is None:
        return OnnxRunner(source.file, source.contract, source.options)
    return CudaOnnxRunner(
        source.file,
        source.contract,
        source.device,
        source.options,
        cuda_graphs=source.cuda_graphs,
        graphs_optional=source.graphs_optional,
    )


class OnnxRunner:
    """Run an ONNX file on ONNX Runtime's CPU provider.

    Args:
        path: The ONNX file.
        contract: The model's input contract, which names the tensors.
        options: Session configuration entries, such as `session.intra_op.allow_spinning`.

    Raises (on entering):
        ExportError: ONNX Runtime cannot load the file.
    """

    _provider = CPU
    _device_name = "CPU"

    def __init__(self, path: Path, contract: Contract, options: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._contract = contract
        self._output_names = [contract.probabilities_name, contract.logits_name]
        self._entries = dict(options or {})
        self._session: Any = None
        self._computes_in = ""

    def __enter__(self) -> Self:
        self._session = self._load(self._session_options(), self._providers())
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None

    @property
    def runtime(self) -> RuntimeInfo:
        """Describe the runtime. The first call loads the file once more, to profile its layers."""
        self._computes_in = self._computes_in or self._types_of_layers()
        return RuntimeInfo(
            name="onnxruntime",
            device=self._device_name,
            computes_in=self._computes_in,
            options=self._entries,
        )

    def infer(self, images: Uint8Array) -> Outputs:
        try:
            return Outputs(*self._session.run(self._output_names, {self._contract.input_name: images}))
        except Exception as error:  # ONNX Runtime's classes have no common base
            raise self._failed(len(images), error) from error

    def _failed(self, batch: int, error: Exception) -> ExportError:
        return ExportError(
            f"{self._path} with {batch} images on {self._device_name}",
            got=str(error).strip().splitlines()[-1],
            expected="a network that ONNX Runtime can run there",
            next_step="Export with a smaller --max-batch if memory is short.",
        )

    def _providers(self) -> list[Any]:
        return [CPU]

    def _session_options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_ERRORS_ONLY
        for name, value in self._entries.items():
            options.add_session_config_entry(name, value)
        return options

    def _load(self, options: Any, providers: list[Any]) -> Any:
        try:
            # With its fallback, a session whose GPU fails prints that and goes on with the CPU.
            return onnxruntime.InferenceSession(
                str(self._path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ExportError(
                str(self._path),
                got=str(error).strip().splitlines()[-1],
                expected="a file that ONNX Runtime can load",
            ) from error

    def _types_of_layers(self) -> str:
        """Return the types that the heavy layers run in, from the profile of one run."""
        with temporary_folder("alexnet-profile-") as folder:
            options = self._session_options()
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            session = self._load(options, self._providers())
            shape = session.get_inputs()[0].shape[1:]
            images = np.zeros((1, *shape), np.uint8)
            session.run(self._output_names, {self._contract.input_name: images})
            return types_from_profile(Path(session.end_profiling()), on=self._provider)


@dataclass(frozen=True)
class _Bound:
    """One batch size on a GPU: its tensors, at addresses that do not change, and how to run it."""

    buffers: Mapping[str, Any]
    binding: Any
    run_options: Any


class CudaOnnxRunner(OnnxRunner):
    """Run an ONNX file on ONNX Runtime's CUDA provider.

    Args:
        path: The ONNX file.
        contract: The model's input contract, which names the tensors.
        device: The GPU.
        options: Session configuration entries.
        cuda_graphs: Whether to capture a CUDA graph at the first call of each batch size and replay it later.
        graphs_optional: Whether to run without graphs if the network cannot be captured, as the server does.

    Raises (on entering):
        ExportError: ONNX Runtime cannot load the file, cannot use the GPU, or cannot capture the network as
            CUDA graphs although it must, because CUDA has no kernel for one of its layers.
    """

    _provider = CUDA

    def __init__(
        self,
        path: Path,
        contract: Contract,
        device: Device,
        options: Mapping[str, str] | None = None,
        *,
        cuda_graphs: bool = False,
        graphs_optional: bool = False,
    ) -> None:
        super().__init__(path, contract, options)
        self._device = device
        self._device_name = device.name
        self._cuda_graphs = cuda_graphs
        self._graphs_optional = graphs_optional
        self._bound: dict[int, _Bound] = {}  # by batch
        self._current: _Bound | None = None

    def __enter__(self) -> Self:
        self._why_no_cuda = preload_cuda()
        try:
            self._load_on_gpu()
            if self._cuda_graphs and self._graphs_optional:
                self.infer(np.zeros((1, *self._session.get_inputs()[0].shape[1:]), np.uint8))  # captures
        except Exception:  # a layer without a CUDA kernel, or one that cannot be captured
            if not (self._cuda_graphs and self._graphs_optional):
                raise
            self._cuda_graphs = False
            self._bound.clear()
            self._load_on_gpu()
        return self

    def __exit__(self, *_: object) -> None:
        self._current = None
        self._bound.clear()
        super().__exit__()

    def infer(self, images: Uint8Array) -> Outputs:
        batch = len(images)
        bound = self._current = self._bound_to(batch)
        self._device.upload(contiguous(images), bound.buffers[self._contract.input_name])
        self.launch()
        return Outputs(*(self._device.download(bound.buffers[name], batch) for name in self._output_names))

    def place(self, images: Uint8Array) -> Any:
        buffer = self._device.buffer(images.shape, "uint8")
        self._device.upload(contiguous(images), buffer)
        return buffer

    def take(self, placed: Any) -> None:
        self._current = self._bound_to(len(placed))
        self._device.move(placed, self._current.buffers[self._contract.input_name])

    def launch(self) -> None:
        assert self._current is not None
        try:
            self._session.run_with_iobinding(self._current.binding, self._current.run_options)
        except Exception as error:
            batch = len(self._current.buffers[self._contract.input_name])
            raise self._failed(batch, error) from error

    def _load_on_gpu(self) -> None:
        self._session = self._load(self._session_options(), self._providers(cuda_graphs=self._cuda_graphs))

    def _bound_to(self, batch: int) -> _Bound:
        """Return the tensors of a batch size, made at its first call: a CUDA graph reads and writes these."""
        if batch in self._bound:
            return self._bound[batch]
        (image,) = self._session.get_inputs()
        binding = self._session.io_binding()
        buffers: dict[str, Any] = {}
        for tensor in (image, *self._session.get_outputs()):
            shape, dtype = (batch, *tensor.shape[1:]), "uint8" if tensor is image else "float32"
            buffers[tensor.name] = self._device.buffer(shape, dtype)
            bind = binding.bind_input if tensor is image else binding.bind_output
            address = self._device.address(buffers[tensor.name])
            bind(tensor.name, "cuda", self._device.index, getattr(np, dtype), shape, address)
        run_options = onnxruntime.RunOptions()
        run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._cuda_graphs:
            run_options.add_run_config_entry("gpu_graph_id", str(batch))
        self._bound[batch] = _Bound(buffers, binding, run_options)
        return self._bound[batch]

    def _providers(self, *, cuda_graphs: bool = False) -> list[Any]:
        options = {
            "user_compute_stream": str(self._device.stream),
            "use_tf32": "0",  # on by default, and not FP32
        }
        if self._device.index:  # 0 is the default, and ONNX Runtime 1.26 and later warn if it is given
            options["device_id"] = str(self._device.index)
        if cuda_graphs:
            options["enable_cuda_graph"] = "1"
        return [(CUDA, options), CPU]

    def _load(self, options: Any, providers: list[Any]) -> Any:
        if CUDA not in onnxruntime.get_available_providers():
            raise self._no_cuda("a build without CUDA")
        # It reports each cuDNN plan that it tries in vain as an error, and a CUDA library that does not load.
        onnxruntime.set_default_logger_severity(LOG_FATAL_ONLY)
        session = super()._load(options, providers)
        if CUDA not in session.get_providers():  # it then uses the CPU
            raise self._no_cuda(self._why_no_cuda or "its CUDA libraries do not load")
        return session

    def _no_cuda(self, reason: str) -> ExportError:
        return ExportError(
            str(self._path),
            got=f"ONNX Runtime {onnxruntime.__version__} without CUDA: {reason}",
            expected=f"it to use {self._device.name}",
            next_step="Install onnxruntime-gpu for this machine's CUDA in its place.",
        )


def why_no_cuda() -> str:
    """Return why ONNX Runtime cannot use a GPU of this machine, in one line; empty if it can."""
    if CUDA not in onnxruntime.get_available_providers():
        return "a build without CUDA"
    return preload_cuda()


def preload_cuda() -> str:
    """Load CUDA's libraries for ONNX Runtime, unless PyTorch has loaded those of the same major version.

    Returns:
        Which library does not load and why, in one line; empty if there is no such library.
    """
    torch = sys.modules.get("torch")
    of_torch = str(torch.version.cuda or "") if torch is not None else ""
    if of_torch and of_torch.partition(".")[0] == onnxruntime.cuda_version.partition(".")[0]:
        return ""
    printed = io.StringIO()
    with redirect_stdout(printed):  # it prints what it does not find
        onnxruntime.preload_dlls()
    return next((line for line in printed.getvalue().splitlines() if line.startswith("Failed to load")), "")


def types_from_profile(profile: Path, *, on: str) -> str:
    """Return the types that the heavy layers ran in, such as `f32` or `f16+f32 on the CPU`.

    ONNX Runtime silently runs a layer on the CPU if CUDA has no kernel for it; the result names such layers.

    Args:
        profile: The JSON file that ONNX Runtime's profiler wrote.
        on: The provider that the layers were meant to run on.
    """
    types: set[str] = set()
    for event in json.loads(profile.read_text(encoding="utf-8")):
        arguments = event.get("args", {})
        if arguments.get("op_name") in HEAVY_OPERATORS and arguments.get("input_type_shape"):
            elsewhere = "" if arguments.get("provider", on) == on else " on the CPU"
            types.update(SHORT_NAMES.get(kind, kind) + elsewhere for kind in arguments["input_type_shape"][0])
    return "+".join(sorted(types))
