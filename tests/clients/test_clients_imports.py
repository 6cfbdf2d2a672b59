from __future__ import annotations

import subprocess
import sys


def test_importing_the_client_imports_no_protocol_and_nothing_heavy() -> None:
    heavy = (
        "grpc",
        "aiohttp",
        "asyncio",
        "tritonclient",
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "pydantic",
    )
    code = f"import sys, alexnet_clients; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
