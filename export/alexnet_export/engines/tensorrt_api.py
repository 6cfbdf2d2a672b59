"""One API over `tensorrt` 10.12 and later, `tensorrt` 11 and `tensorrt_rtx`. They differ in this:

- 10 also has weakly typed networks, so the strongly typed flag is set; 11 and RTX ignore the flag.
- RTX builds for given compute capabilities, without a GPU; the others build for the current GPU.
- RTX's timing cache has no effect.

Code outside this file does not need to know which of them it uses.
"""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from typing import Any

from alexnet_model.errors import EngineError, UsageError
from alexnet_model.extras import needs
from alexnet_model.gpus import version_tuple
from alexnet_model.passport import HardwareCompatibility
from alexnet_model.runtimes import runtime_named

MINIMUM_VERSION = (10, 12)  # the first whose strongly typed networks take these files as they are
_HARDWARE: dict[HardwareCompatibility, str] = {
    "none": "NONE",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}
_CAPABILITIES_OF_NO_GPU = ("NONE", "CURRENT")


def tensorrt_api(runtime_name: str) -> TensorRt:
    """Load the library of a runtime: `tensorrt` or `tensorrt-rtx`.

    Raises:
        MissingExtra: it is not installed.
        EngineError: it is too old, or does not load.
    """
    module_name, extra = runtime_name.replace("-", "_"), runtime_named(runtime_name).extra
    with needs(extra):
        try:
            module = import_module(module_name)
        except ModuleNotFoundError:
            raise
        except (ImportError, OSError) as error:  # a library that it links is not there
            raise EngineError(
                module_name,
                got=str(error).splitlines()[0],
                expected="a library that loads",
                next_step=f"Install it again: pip install --force-reinstall 'alexnet-serving[{extra}]'",
            ) from error
    if runtime_name == "tensorrt" and version_tuple(module.__version__) < MINIMUM_VERSION:
        raise EngineError(
            "tensorrt",
            got=module.__version__,
            expected="10.12 or newer",
            next_step="Run: pip install --upgrade tensorrt",
        )
    return TensorRt(module, runtime_name)


class TensorRt:
    """One of the libraries.

    Attributes:
        trt: Its Python module.
        runtime_name: The runtime it belongs to: `tensorrt` or `tensorrt-rtx`.
        version: Its version, such as `11.1.0.106`.
    """

    def __init__(self, module: ModuleType | Any, runtime_name: str) -> None:
        self.trt = module
        self.runtime_name = runtime_name
        self.version: str = module.__version__

    def logger(self) -> Any:
        """Make a logger for TensorRT that collects errors in `errors` and prints nothing."""
        trt = self.trt

        class ErrorLog(trt.ILogger):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.errors: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                # Without a driver, RTX logs a CUDA error at every step and continues.
                if severity <= trt.ILogger.ERROR and "catchCudaError" not in message:
                    self.errors.append(message.strip())

        return ErrorLog()

    def network(self, builder: Any) -> Any:
        """Make an empty, strongly typed network: each layer computes in the type that the file gives."""
        flag = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    def config(self, builder: Any, hardware: HardwareCompatibility, *, version_compatible: bool) -> Any:
        """Make a builder's configuration: true FP32, and an engine that can be inspected."""
        trt = self.trt
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and not FP32
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hardware != "none":
            config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[hardware])
        if version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        return config

    def check_targets(self, targets: tuple[str, ...]) -> None:
        """Check that this version of TensorRT-RTX builds for these GPUs.

        Raises:
            UsageError: it does not build for one of them.
        """
        known = [n for n in self.trt.ComputeCapability.__members__ if n not in _CAPABILITIES_OF_NO_GPU]
        unknown = [target for target in targets if target.upper() not in known]
        if unknown:
            raise UsageError(
                "target",
                got=unknown[0],
                expected=f"some of {', '.join(known).lower()}, which TensorRT-RTX {self.version} builds for",
            )

    def set_targets(self, config: Any, targets: tuple[str, ...]) -> None:
        """Build for these GPUs, such as `sm89`, instead of this machine's."""
        self.check_targets(targets)
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, target.upper()), index)

    def use_timing_cache(self, config: Any, content: bytes) -> None:
        """Start from an earlier build's timings; TensorRT ignores those of another version or GPU."""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def timing_cache_of(self, config: Any) -> bytes:
        """Return the timings after a build."""
        return bytes(config.get_timing_cache().serialize())

    def monitor(self, report: Any) -> Any:
        """Make a progress monitor that calls `report(percent, phase)`; the build ends if that is False."""
        trt = self.trt

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self._phases: list[list[Any]] = []  # name, steps done, steps; the innermost last

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                self._phases.append([phase_name, 0, max(1, num_steps)])

            def phase_finish(self, phase_name: str) -> None:
                self._phases = [phase for phase in self._phases if phase[0] != phase_name]

            def step_complete(self, phase_name: str, step: int) -> bool:
                for phase in self._phases:
                    if phase[0] == phase_name:
                        phase[1] = step + 1
                return bool(report(self._percent(), phase_name))

            def _percent(self) -> int:
                share = 0.0
                for _, done, steps in reversed(self._phases):
                    share = min(1.0, (done + share) / steps)
                return int(100 * share)

        return Monitor()

    def runtime(self, logger: Any, *, version_compatible: bool) -> Any:
        """Make a runtime, which loads engines. A version-compatible engine contains code: allow it to run."""
        runtime = self.trt.Runtime(logger)
        if version_compatible:
            runtime.engine_host_code_allowed = True
        return runtime


def reason_from_log(text: str) -> str:
    """Return the sentence with the reason in one of TensorRT's messages, without its source files.

    >>> reason_from_log("Error Code 4: API Usage Error (x: has type Int32. In checkType at /a.cpp:4)")
    'x: has type Int32'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and "catchCudaError" not in line]
    for line in lines:
        if found := re.search(r"Error Code \d+: .*?\((.*?)(?:\.? In \S+ at \S+)?\)?$", line):
            return found[1].rstrip(".")
    return lines[0].rstrip(".") if lines else "no reason given"
