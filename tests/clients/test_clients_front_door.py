from __future__ import annotations

import subprocess
import sys

import alexnet_clients


def test_the_front_door_is_sorted_and_complete() -> None:
    constants = [name for name in alexnet_clients.__all__ if name.isupper()]
    classes = [name for name in alexnet_clients.__all__ if name[0].isupper() and name not in constants]
    functions = [name for name in alexnet_clients.__all__ if name.islower()]
    assert alexnet_clients.__all__ == sorted(constants) + sorted(classes) + sorted(functions)
    assert all(hasattr(alexnet_clients, name) for name in alexnet_clients.__all__)


def test_importing_the_client_imports_no_protocol_and_nothing_heavy() -> None:
    heavy = ("grpc", "tritonclient", "torch", "onnx", "onnxruntime", "openvino", "pydantic")
    code = f"import sys, alexnet_clients; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
