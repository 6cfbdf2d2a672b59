"""A stand-in `docker` that plays NVIDIA's image with `trtexec` in it, with ONNX Runtime behind it.

A "plan" is the ONNX file with a header. The stand-in finds the folders of a container by their `--mount`
options, as Docker does, and refuses a container that may do more than it needs. Every command is recorded.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

SCRIPT = '''#!{python}
import json, os, re, sys, time
from pathlib import Path

STATE = Path({state!r})
BEHAVIOUR = json.loads({behaviour!r})
MAGIC = b"plan of the image "
arguments = sys.argv[1:]
with (STATE / "calls.jsonl").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")

def option(name, words=arguments):
    return next((w.partition("=")[2] for w in words if w.startswith(name + "=")), None)

def fail(text, code=125):
    sys.stderr.write(text + "\\n")
    sys.exit(code)

def folders():
    """Container path to this machine's path."""
    mounts = [w.partition("=")[2] for w in arguments if w.startswith("--mount=")]
    pairs = (dict(part.partition("=")[::2] for part in mount.split(",")) for mount in mounts)
    return {{pair["target"]: pair["source"] for pair in pairs}}

def here(path, places):
    target = next(t for t in places if path.startswith(t + "/"))
    return Path(places[target] + path.removeprefix(target))

def trtexec(words, places):
    if BEHAVIOUR["hangs"]:
        time.sleep(60)
    if BEHAVIOUR["fails"]:
        sys.stdout.write(f"[11/24/2026-12:00:00] [E] [TRT] {{BEHAVIOUR['fails']}}\\n&&&& FAILED TensorRT.trtexec\\n")
        sys.exit(1)
    if option("--saveEngine", words):
        onnx = here(option("--onnx", words), places).read_bytes()
        here(option("--saveEngine", words), places).write_bytes(MAGIC + onnx)
        layers = {{"Layers": [{{"LayerType": "gemm", "Inputs": [{{"Format/Datatype": "Int8"}}]}}]}}
        here(option("--exportLayerInfo", words), places).write_text(json.dumps(layers))
        here(option("--timingCacheFile", words), places).write_bytes(b"timings")
        return
    import numpy as np, onnxruntime
    plan = here(option("--loadEngine", words), places).read_bytes().removeprefix(MAGIC)
    session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
    shape = [int(side) for side in option("--shapes", words).partition(":")[2].split("x")]
    raw = here(option("--loadInputs", words).partition(":")[2], places).read_bytes()
    images = np.frombuffer(raw, np.uint8).reshape(shape)
    names = [output.name for output in session.get_outputs()]
    tensors = []
    for name, rows in zip(names, session.run(names, {{"image": images}})):
        values = ", ".join("nan" if BEHAVIOUR["nan"] else f"{{value:.6g}}" for value in rows.ravel())
        dimensions = "x".join(map(str, rows.shape))
        tensors.append(f'{{{{"name" : "{{name}}", "dimensions" : "{{dimensions}}", "values" : [ {{values}} ]}}}}')
    here(option("--exportOutput", words), places).write_text("[" + ", ".join(tensors) + "]")

if arguments[0] == "version":
    print("29.0.0")
elif arguments[:2] == ["image", "inspect"]:
    print(json.dumps([{{"Id": "sha256:1", "RepoDigests": ["triton@sha256:2"],
                       "Config": {{"Env": ["TRT_VERSION=" + BEHAVIOUR["tensorrt"] + "+cuda13.3"]}}}}]))
elif arguments[0] == "run":
    needed = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
    if not set(needed) <= set(arguments) or not option("--gpus"):
        fail("this container may do more than it needs, or has no GPU")
    if "--detach" in arguments:
        (STATE / option("--name")).write_text(json.dumps(folders()))
        print("0123abcd")
    else:
        trtexec(arguments[arguments.index("trtexec"):], folders())
elif arguments[0] == "exec":
    container = STATE / arguments[1]
    if not container.exists():
        fail(f"Error response from daemon: No such container: {{arguments[1]}}", 1)
    trtexec(arguments[2:], json.loads(container.read_text()))
elif arguments[0] == "rm":
    (STATE / arguments[-1]).unlink(missing_ok=True)
'''


class FakeTrtexec:
    """What the stand-in was asked to do."""

    def __init__(self, state: Path) -> None:
        self._state = state

    @property
    def calls(self) -> list[list[str]]:
        log = self._state / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def containers(self) -> list[str]:
        """Those that were left running."""
        return sorted(path.name for path in self._state.glob("alexnet-*"))


def fake_trtexec(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    tensorrt: str = "11.1.0.106",
    fails: str = "",
    hangs: bool = False,
    nan: bool = False,
) -> FakeTrtexec:
    """Put the stand-in first on PATH. `fails`: what TensorRT says instead of building or answering."""
    programs, state = folder / "docker_programs", folder / "docker_state"
    programs.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    behaviour = json.dumps({"tensorrt": tensorrt, "fails": fails, "hangs": hangs, "nan": nan})
    script = programs / "docker"
    script.write_text(SCRIPT.format(python=sys.executable, state=str(state), behaviour=behaviour))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    if str(programs) not in os.environ["PATH"].split(os.pathsep):
        monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return FakeTrtexec(state)
