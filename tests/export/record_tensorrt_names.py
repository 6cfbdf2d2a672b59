"""Record the names in TensorRT's Python API, one file a version, to compare the fake with.

    python tests/export/record_tensorrt_names.py 10.12.0.36 11.1.0.106

NVIDIA publishes the bindings apart from the libraries. They import where every C function that they link is
some function, so stand-ins made by `gcc` are enough to read the names of classes, methods and enumerators;
nothing can be called. Needs `gcc` and binutils, and a package index that has the bindings.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "tensorrt_names"
CLASSES = (
    "Builder",
    "BuilderFlag",
    "EngineInspector",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITimingCache",
    "LayerInformationFormat",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
)
READ = """
import ctypes, json, sys
for library in sys.argv[2].split(","):
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as trt

def names_of(kind):
    members = getattr(kind, "__members__", None)
    if members is not None:
        return {name: int(value) for name, value in members.items()}
    return sorted(name for name in dir(kind) if not name.startswith("_"))

classes = {name: names_of(getattr(trt, name)) for name in sys.argv[3].split(",")}
print(json.dumps({"version": trt.__version__, "classes": classes}))
"""


def record(version: str) -> Path:
    """Write `tensorrt_names/VERSION.json`."""
    cuda = "cu13" if int(version.split(".")[0]) > 10 else "cu12"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = f"tensorrt-{cuda}-bindings=={version}"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", name, package],
            check=True,
        )
        bindings = folder / "tensorrt_bindings" / "tensorrt.so"
        libraries = re.findall(r"NEEDED\s+(libnv\S+)", _output("objdump", "-p", str(bindings)))
        undefined = _output("nm", "-D", "--undefined-only", str(bindings))
        functions = re.findall(
            r"\b(create\w+_INTERNAL|initLib\w+|get\w*(?:Registry|ParserVersion))\b", undefined
        )
        (folder / "stand_ins.c").write_text("".join(f"void* {f}(void) {{ return 0; }}\n" for f in functions))
        paths = []
        for library in libraries:
            paths.append(str(folder / library))
            soname = f"-Wl,-soname,{library}"
            subprocess.run(
                ["gcc", "-shared", "-fPIC", soname, "-o", paths[-1], str(folder / "stand_ins.c")], check=True
            )
        names = _output(sys.executable, "-c", READ, name, ",".join(paths), ",".join(CLASSES))
    path = HERE / f"{version}.json"
    path.write_text(json.dumps(json.loads(names), indent=1) + "\n")
    return path


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for argument in sys.argv[1:]:
        sys.stdout.write(f"{record(argument)}\n")
