"""A fake `docker` command that simulates NVIDIA's image with `trtexec`; ONNX Runtime computes its outputs.

A "plan" is the ONNX file with a header. The folders of a container are found by their `--mount` options, as
Docker does it, and a container with more rights than it needs is refused. Every command is recorded. A
container that was left running ends by itself.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

SCRIPT = r'''#!@PYTHON@ -S
import json, os, socket, subprocess, sys, time
from pathlib import Path

STATE = Path(@STATE@)
BEHAVIOUR = json.loads(@BEHAVIOUR@)
MAGIC = b"plan of the image "
IDLE_S = 60  # after which a container that was not removed ends


def option(name, words):
    return next((word.partition("=")[2] for word in words if word.startswith(name + "=")), None)


def fail(text, code=125):
    sys.stderr.write(text + "\n")
    sys.exit(code)


def folders(words):
    """Container path to this machine's path."""
    options = [word.partition("=")[2] for word in words if word.startswith("--mount=")]
    pairs = [dict(part.partition("=")[::2] for part in mount.split(",")) for mount in options]
    return {pair["target"]: pair["source"] for pair in pairs}


def here(path, mounts):
    target = next(target for target in mounts if path.startswith(target + "/"))
    return Path(mounts[target] + path[len(target) :])


def build(words, mounts):
    if BEHAVIOUR["hangs"]:
        time.sleep(60)
    if BEHAVIOUR["fails"]:
        print(BEHAVIOUR["fails"])
        fail("&&&& FAILED TensorRT.trtexec", 1)
    onnx = here(option("--onnx", words), mounts).read_bytes()
    here(option("--saveEngine", words), mounts).write_bytes(MAGIC + onnx)
    said = "N/A due to dynamic shapes" if "--skipInference" in words else "Int8"
    layers = {"Layers": [{"LayerType": "gemm", "Inputs": [{"Format/Datatype": said}]}]}
    here(option("--exportLayerInfo", words), mounts).write_text(json.dumps(layers))
    here(option("--timingCacheFile", words), mounts).write_bytes(b"timings")


def infer(words, mounts, sessions):
    import numpy as np, onnxruntime

    plan = here(option("--loadEngine", words), mounts)
    if plan not in sessions:
        onnx = plan.read_bytes()[len(MAGIC) :]
        sessions[plan] = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    session = sessions[plan]
    shape = [int(side) for side in option("--shapes", words).partition(":")[2].split("x")]
    raw = here(option("--loadInputs", words).partition(":")[2], mounts).read_bytes()
    images = np.frombuffer(raw, np.uint8).reshape(shape)
    names = [output.name for output in session.get_outputs()]
    tensors = []
    for name, rows in zip(names, session.run(names, {"image": images})):
        values = ", ".join("nan" if BEHAVIOUR["nan"] else "%.6g" % value for value in rows.ravel())
        sides = "x".join(map(str, rows.shape))
        tensors.append('{"name" : "%s", "dimensions" : "%s", "values" : [ %s ]}' % (name, sides, values))
    here(option("--exportOutput", words), mounts).write_text("[" + ", ".join(tensors) + "]")


def live(name, mounts):
    """A container: runs its `exec`s until it is removed. It imports ONNX Runtime once."""
    sessions = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(STATE / name))
        listener.listen()
        listener.settimeout(IDLE_S)
        while True:
            connection, _ = listener.accept()
            with connection:
                words = json.loads(connection.makefile().readline())
                if words:
                    infer(words, mounts, sessions)
                connection.sendall(b"done")
                if not words:
                    return


def send(name, words):
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(STATE / name))
        except OSError:
            fail("Error response from daemon: No such container: " + name, 1)
        connection.sendall((json.dumps(words) + "\n").encode())
        if connection.recv(4) != b"done":
            fail("[E] the container broke", 1)


def main(words):
    if words[0] == "live":
        return live(words[1], json.loads(words[2]))
    with (STATE / "calls.jsonl").open("a") as log:
        log.write(json.dumps(words) + "\n")
    if words[0] == "version":
        print("29.0.0")
    elif words[:2] == ["image", "inspect"]:
        variables = ["TRT_VERSION=" + BEHAVIOUR["tensorrt"] + "+cuda13.3"]
        print(json.dumps([{"RepoDigests": ["triton@sha256:2"], "Config": {"Env": variables}}]))
    elif words[0] == "run":
        needed = {"--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"}
        if not needed | {"--network=none"} <= set(words) or not option("--gpus", words):
            fail("this container may do more than it needs, or has no GPU")
        if "--detach" not in words:
            return build(words[words.index("trtexec") :], folders(words))
        name = option("--name", words)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, __file__, "live", name, json.dumps(folders(words))]
        subprocess.Popen(command, start_new_session=True, **quiet)
        while not (STATE / name).exists():
            time.sleep(0.01)
    elif words[0] == "exec":
        send(words[1], words[2:])
    elif words[0] == "rm" and (STATE / words[-1]).exists():
        send(words[-1], [])
        (STATE / words[-1]).unlink()


main(sys.argv[1:])
'''


class FakeTrtexec:
    """The commands that the fake received, and the containers that still run."""

    def __init__(self, state: Path) -> None:
        self._state = state

    @property
    def calls(self) -> list[list[str]]:
        log = self._state / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def containers(self) -> list[str]:
        """The containers that were not removed."""
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
    """Put the fake first on PATH. `fails` is what TensorRT prints instead of building an engine."""
    programs, state = folder / "docker_programs", folder / "docker_state"
    programs.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    behaviour = json.dumps({"tensorrt": tensorrt, "fails": fails, "hangs": hangs, "nan": nan})
    script = programs / "docker"
    text = SCRIPT.replace("@PYTHON@", sys.executable).replace("@STATE@", repr(str(state)))
    script.write_text(text.replace("@BEHAVIOUR@", repr(behaviour)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    if str(programs) not in os.environ["PATH"].split(os.pathsep):
        monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return FakeTrtexec(state)
