"""The table of runtimes: what runs a model, from which file, on which devices, and served by which backend.

Everything that depends on the set of runtimes reads this table: export options, the gate, the manifest, the
repository writer, lint, doctor and the benchmarks. To add a runtime, write a runner, a backend folder if
Triton has no backend for it, and one entry. An entry outside this package is registered by an entry point:

    [project.entry-points."alexnet_serving.runtimes"]
    my_runtime = "my_package.runtime:RUNTIME"

docs/architecture.md shows a complete example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from .errors import MissingExtra, RuntimeNotUsable, UsageError
from .extras import needs

ENTRY_POINT_GROUP = "alexnet_serving.runtimes"

Device = Literal["cpu", "gpu"]
# What a runtime loads: the checkpoint itself, an ONNX file, or an engine that was compiled for one machine.
Source = Literal["checkpoint", "onnx", "engine"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One row of the table.

    Attributes:
        name: As options, records and figures name it, such as `openvino`.
        title: As text names it, such as `OpenVINO`.
        source: What it loads.
        devices: Where it computes.
        runner: `module:attribute` of a function that takes an `alexnet_export.RunnerSource` and returns a
            `Runner`. Imported when the runtime is used.
        extra: The extra of this distribution that installs it; empty where another distribution does.
        builder: `module:attribute` of what compiles an engine from an ONNX file. Only for `source="engine"`.
        backend: Triton's name of the backend that serves it; None if Triton does not serve it.
        backend_package: The package whose folder holds the backend's `model.py`, for a Python-based backend;
            None if Triton brings the backend.
        in_stock_image: Whether NVIDIA's image of Triton has a backend of that name.
        engine_suffix: How its engines' file names end. Only for `source="engine"`.
    """

    name: str
    title: str
    source: Source
    devices: tuple[Device, ...]
    runner: str
    extra: str = ""
    builder: str | None = None
    backend: str | None = None
    backend_package: str | None = None
    in_stock_image: bool = False
    engine_suffix: str = ".plan"

    def __post_init__(self) -> None:
        if (self.source == "engine") != (self.builder is not None):
            raise ValueError(f"runtime {self.name}: a builder belongs to source 'engine' and to no other")
        if not self.devices:
            raise ValueError(f"runtime {self.name}: it needs at least one device")

    @property
    def bound_to_machine(self) -> bool:
        """Whether its file loads only on machines like the one that built it, and so needs a passport."""
        return self.source == "engine"

    @property
    def loads_in_python(self) -> bool:
        """Whether its engines load with a library of the server's Python, and not of the server's image."""
        return self.bound_to_machine and self.backend_package is not None

    @property
    def served(self) -> bool:
        """Whether Triton serves it."""
        return self.backend is not None

    @property
    def backend_folder(self) -> Path | None:
        """The folder with the `model.py` of a Python-based backend; None if Triton brings the backend."""
        if self.backend_package is None:
            return None
        module = import_module(self.backend_package)
        return Path(next(iter(module.__path__)))

    def load_runner_factory(self) -> Any:
        """Import the function that `runner` names.

        Raises:
            MissingExtra: a library that it needs is not installed.
            RuntimeNotUsable: the module or attribute does not exist.
        """
        return _imported(self.runner, self)

    def load_builder(self) -> Any:
        """Import what `builder` names; only for a runtime with `source="engine"`.

        Raises:
            MissingExtra: a library that it needs is not installed.
            RuntimeNotUsable: the module or attribute does not exist.
        """
        assert self.builder is not None
        return _imported(self.builder, self)


BUILT_IN = (
    Runtime(
        name="openvino",
        title="OpenVINO",
        source="onnx",
        devices=("cpu",),
        runner="alexnet_export.openvino_runner:runner_from_source",
        extra="export",
        backend="openvino_dynamic",
        backend_package="alexnet_serving.backends.openvino_dynamic",
    ),
    Runtime(
        name="onnxruntime",
        title="ONNX Runtime",
        source="onnx",
        devices=("cpu", "gpu"),
        runner="alexnet_export.onnxruntime_runner:runner_from_source",
        extra="export",
        backend="onnxruntime",
        backend_package="alexnet_serving.backends.onnxruntime",
        in_stock_image=True,
    ),
    Runtime(
        name="tensorrt",
        title="TensorRT",
        source="engine",
        devices=("gpu",),
        runner="alexnet_export.engines.tensorrt_runner:runner_from_source",
        extra="tensorrt",
        builder="alexnet_export.engines.builders:builders_from",
        backend="tensorrt",
        in_stock_image=True,
    ),
    Runtime(
        name="tensorrt-rtx",
        title="TensorRT-RTX",
        source="engine",
        devices=("gpu",),
        runner="alexnet_export.engines.tensorrt_runner:runner_from_source",
        extra="rtx",
        builder="alexnet_export.engines.builders:builders_from",
    ),
    Runtime(
        name="aoti",
        title="AOTInductor",
        source="engine",
        devices=("cpu", "gpu"),
        runner="alexnet_export.engines.aoti_runner:runner_from_source",
        extra="export",
        builder="alexnet_export.engines.aoti_builder:builders_from",
        backend="aoti",
        backend_package="alexnet_serving.backends.aoti",
        engine_suffix=".pt2",
    ),
    Runtime(
        name="pytorch",
        title="PyTorch",
        source="checkpoint",
        devices=("cpu", "gpu"),
        runner="alexnet_export.torch_runner:runner_from_source",
        extra="export",
    ),
    Runtime(
        name="torch.compile",
        title="torch.compile",
        source="checkpoint",
        devices=("cpu", "gpu"),
        runner="alexnet_export.torch_runner:compiled_runner_from_source",
        extra="export",
    ),
)


def runtimes() -> tuple[Runtime, ...]:
    """Return all runtimes: the built-in ones first, then those that entry points register, by name.

    Raises:
        RuntimeNotUsable: an entry point does not load, is no `Runtime`, or takes a name that is in use.
    """
    return tuple(_table().values())


def runtime_named(name: str) -> Runtime:
    """Return the runtime of that name.

    Raises:
        UsageError: there is none; the message lists those there are.
        RuntimeNotUsable: as `runtimes`.
    """
    try:
        return _table()[name]
    except KeyError:
        raise UsageError("runtime", got=repr(name), expected=f"one of {', '.join(_table())}") from None


def runtime_of_backend(backend: str) -> Runtime | None:
    """Return the runtime that a Triton backend serves, or None for a backend of another project."""
    return next((runtime for runtime in runtimes() if runtime.backend == backend), None)


@lru_cache(maxsize=1)
def _table() -> dict[str, Runtime]:
    table = {runtime.name: runtime for runtime in BUILT_IN}
    for point, runtime in _registered():
        if runtime.name in table:
            raise RuntimeNotUsable(
                f"runtime {runtime.name}",
                got=f"a second registration, from {point.value}",
                expected="a name of its own",
                next_step="Rename it, or uninstall the distribution that registers it.",
            )
        table[runtime.name] = runtime
    return table


def _registered() -> Iterator[tuple[EntryPoint, Runtime]]:
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            runtime = point.load()
        except Exception as error:  # a foreign module may raise anything on import
            raise _not_usable(point, f"{type(error).__name__}: {error}") from error
        if not isinstance(runtime, Runtime):
            raise _not_usable(point, type(runtime).__name__)
        yield point, runtime


def _not_usable(point: EntryPoint, got: str) -> RuntimeNotUsable:
    return RuntimeNotUsable(
        f"entry point {point.name} ({point.value})",
        got=got,
        expected="an alexnet_model.runtimes.Runtime",
        next_step="Repair or uninstall the distribution that registers it.",
    )


def _imported(path: str, runtime: Runtime) -> Any:
    module, _, attribute = path.partition(":")
    try:
        if runtime.extra:
            with needs(runtime.extra):
                found = import_module(module)
        else:
            found = import_module(module)
        return getattr(found, attribute)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"module {error.name}",
            got="no such module",
            expected=f"what the runtime {runtime.name} needs",
            next_step="Install it as the distribution that registers this runtime says.",
        ) from error
    except AttributeError as error:
        raise RuntimeNotUsable(
            f"runtime {runtime.name}",
            got=f"no {attribute} in {module}",
            expected="the function that its entry names",
            next_step="Repair or uninstall the distribution that registers it.",
        ) from error


def _known(name: str) -> str:
    if name not in _table():
        raise ValueError(f"no such runtime {name!r}; it is one of {', '.join(_table())}")
    return name


def engine_suffixes() -> tuple[str, ...]:
    """Return how the file names of engines end, each suffix once."""
    return tuple(dict.fromkeys(runtime.engine_suffix for runtime in runtimes() if runtime.bound_to_machine))


RuntimeName = Annotated[str, AfterValidator(_known)]
"""The type of a record's field that holds the name of a runtime in the table."""
