from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("aiohttp", "alexnet_model.datasets", "asyncio", "grpc", "http.client"),
    *("onnx", "onnxruntime", "openvino", "pydantic", "torch", "tritonclient"),
)


def test_importing_the_client_imports_no_protocol_and_nothing_heavy() -> None:
    code = f"import sys, alexnet_clients; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_other_packages_import_no_submodule_of_the_clients() -> None:
    paths = [path for folder in ("cli", "bench", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 20
    deep = [path for path in paths if re.search(r"(from|import) alexnet_clients\.", path.read_text())]
    assert deep == []
