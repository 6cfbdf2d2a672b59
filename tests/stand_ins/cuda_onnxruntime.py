"""ONNX Runtime with a CUDA provider, for machines without a GPU: real sessions on the CPU behind its names.

Memory of the GPU is this machine's own. A CUDA graph is simulated as strictly as the real one: the second run
with a `gpu_graph_id` repeats the first, with its shape and at its addresses, whatever is bound then.
"""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NO_KERNEL = "This session cannot use the graph capture feature: not all nodes are on CUDAExecutionProvider"


class Cuda:
    """What the code under test did, and what the fake shall do.

    Attributes:
        available: whether this build has CUDA.
        loads: whether its libraries load; else a session uses the CPU.
        captures: whether a session may capture graphs; else it is not made.
        missing: the libraries that `preload_dlls` does not find.
        providers: the providers that each session was made with.
        captured: the graph ids that were captured, oldest first.
        replayed: those that were replayed.
        preloads: calls of `preload_dlls`.
        severity: of the default logger.
    """

    def __init__(self) -> None:
        self.available = self.loads = self.captures = True
        self.missing: tuple[str, ...] = ()
        self.providers: list[Any] = []
        self.captured: list[str] = []
        self.replayed: list[str] = []
        self.without_graph = 0
        self.preloads = 0
        self.severity = 2

    @property
    def options(self) -> dict[str, str]:
        """The options of CUDA in the newest session."""
        return dict(self.providers[-1][0][1])

    def preload_dlls(self) -> None:
        self.preloads += 1
        for library in self.missing:
            print(f"Failed to load {library}: cannot open shared object file")  # noqa: T201

    def set_severity(self, severity: int) -> None:
        self.severity = severity


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Put CUDA into the module `onnxruntime`."""
    cuda = Cuda()
    value_from_shape = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    found = [CUDA, *onnxruntime.get_available_providers()]

    class Binding:
        """A real binding, with the GPU's tensors in the memory of the CPU."""

        def __init__(self, session: Any) -> None:
            self.real = onnxruntime.IOBinding(session)

        def bind_input(
            self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int
        ) -> None:
            assert device == "cuda"
            self.real.bind_input(name, "cpu", 0, dtype, shape, address)

        def bind_output(
            self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int
        ) -> None:
            assert device == "cuda"
            self.real.bind_output(name, "cpu", 0, dtype, shape, address)

        def bind_ortvalue_input(self, name: str, value: Any) -> None:
            self.real.bind_ortvalue_input(name, value)

        def bind_ortvalue_output(self, name: str, value: Any) -> None:
            self.real.bind_ortvalue_output(name, value)

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: Any, *, providers: Any, enable_fallback: int) -> None:
            assert enable_fallback == 0, "it would print, and go on with the CPU"
            cuda.providers.append(providers)
            self._fakes = providers[0] != CPU and providers[0][0] == CUDA
            self._captures = self._fakes and providers[0][1].get("enable_cuda_graph") == "1"
            if self._captures and not cuda.captures:
                raise RuntimeError(NO_KERNEL)
            self._graphs: dict[str, Binding] = {}
            super().__init__(path, options, providers=[CPU])

        def get_providers(self) -> list[str]:
            return [CUDA, CPU] if self._fakes and cuda.loads else [CPU]

        def io_binding(self) -> Binding:
            return Binding(self)

        def run(self, names: Any, feeds: Any, run_options: Any = None) -> Any:
            if self._captures:
                assert run_options.get_run_config_entry("gpu_graph_id") == "-1", "else it would be captured"
                cuda.without_graph += 1
            return super().run(names, feeds, run_options)

        def run_with_iobinding(self, binding: Binding, run_options: Any = None) -> None:
            if self._captures:
                graph = run_options.get_run_config_entry("gpu_graph_id")
                (cuda.replayed if graph in self._graphs else cuda.captured).append(graph)
                binding = self._graphs.setdefault(graph, binding)
            super().run_with_iobinding(binding.real, run_options)

    class OrtValue:
        @staticmethod
        def ortvalue_from_shape_and_type(shape: Any, dtype: Any, device: str, index: int) -> Any:
            assert device == "cuda"
            return value_from_shape(shape, dtype, "cpu", 0)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "OrtValue", OrtValue)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: found if cuda.available else found[1:]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", cuda.preload_dlls)
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", cuda.set_severity)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    return cuda
