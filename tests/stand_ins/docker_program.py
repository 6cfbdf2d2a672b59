"""The program behind the fake `docker`: `docker_program.py FOLDER ARGUMENTS` follows FOLDER/script.json.

As with the real command, client and container are two processes: the client relays output and signals, and
the container outlives a client that was killed, until `docker rm --force`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

KILLED = 128
LIFE_S = 240  # after which a container that a failing test left behind ends


def main(folder: Path, arguments: list[str]) -> int:
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    script: dict[str, Any] = json.loads((folder / "script.json").read_text())
    failure = script["fails"] or (script["run_fails"] if arguments[0] == "run" else None)
    if failure:
        sys.stderr.write(failure[0] + "\n")
        return int(failure[1])
    if arguments[0] == "version":
        sys.stdout.write(script["engine"] + "\n")
        return 0
    if arguments[:2] == ["image", "inspect"]:
        return inspect(arguments[2], script)
    if arguments[0] == "rm":
        return remove(folder / "containers" / arguments[-1])
    if arguments[0] == "run":
        return run(folder, arguments)
    sys.stderr.write(f"docker: unknown command: docker {arguments[0]}\n")
    return 1


def inspect(image: str, script: dict[str, Any]) -> int:
    if image not in script["images"]:
        sys.stdout.write("[]\n")
        sys.stderr.write(f"Error response from daemon: No such image: {image}\n")
        return 1
    variables = ["PATH=/usr/bin"]
    if script["tensorrt"]:
        variables.append(f"TRT_VERSION={script['tensorrt']}+cuda13.3.1.001")
    if script["release"]:
        variables.append(f"NVIDIA_TRITON_SERVER_VERSION={script['release']}")
    digests = [f"{image.partition(':')[0]}@sha256:{'1' * 64}"]
    found = {"Id": f"sha256:{'2' * 64}", "RepoDigests": digests, "Config": {"Env": variables}}
    sys.stdout.write(json.dumps([found]) + "\n")
    return 0


def remove(container: Path) -> int:
    if not container.exists():
        sys.stderr.write(f"Error response from daemon: No such container: {container.name}\n")
        return 1
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(container.read_text()), signal.SIGKILL)
    container.unlink()
    sys.stdout.write(container.name + "\n")
    return 0


def run(folder: Path, arguments: list[str]) -> int:
    option = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)
    container = folder / "containers" / option["name"]
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signalled.append(number))
    command = [sys.executable, "-IS", __file__, "--container", str(folder), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    container.write_text(str(process.pid))
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    if signalled:
        process.terminate()
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    code = process.wait()
    container.unlink(missing_ok=True)  # --rm
    return code if code >= 0 else KILLED - code


def container(folder: Path, arguments: list[str]) -> int:
    signal.alarm(LIFE_S)
    script: dict[str, Any] = json.loads((folder / "script.json").read_text())
    if script["deaf"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    for line in script["says"]:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if script["exits"] is not None:
        return int(script["exits"])
    (published,) = [a for a in arguments if a.startswith("--publish=") and a.endswith(":8000")]
    address, port, _ = published.removeprefix("--publish=").split(":")
    ready = 200 if script["ready"] else 400

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(ready if self.path == "/v2/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    HTTPServer((address, int(port)), Answer).serve_forever()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--container":
        sys.exit(container(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
