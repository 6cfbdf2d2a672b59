from __future__ import annotations

import subprocess
import sys

import alexnet_bench


def test_every_public_name_can_be_imported() -> None:
    for name in alexnet_bench.__all__:
        assert getattr(alexnet_bench, name).__name__ == name
    assert not hasattr(alexnet_bench, "no_such_name")


def test_importing_the_benchmark_imports_nothing_heavy() -> None:
    heavy = ("grpc", "tritonclient", "torch", "onnx", "onnxruntime", "openvino")
    code = f"import sys, alexnet_bench; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
