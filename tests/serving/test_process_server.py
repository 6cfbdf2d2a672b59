"""The life of a server's process, with a small program in the place of Triton."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_cli.serve import _interrupting
from alexnet_model.errors import ServerDied, ServerError
from alexnet_serving.servers import cleanup_watchdog, process_server
from alexnet_serving.servers.process_server import Launch, ProcessServer

# It is ready at once, and deaf to SIGTERM if that is its second argument.
PROGRAM = """
import http.server, signal, sys
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


class FakeServer(ProcessServer):
    def __init__(self, repository: Path, *, kind: str = "") -> None:
        super().__init__(repository)
        self.kind = kind
        self.model_process_died = False

    def _checked_address(self, address: str, *, shared_memory: bool) -> str:
        return address

    def _prepare_launch(self) -> Launch:
        return Launch(command=[sys.executable, "-c", PROGRAM, str(self._ports["http"]), self.kind])

    def _check_model_processes(self) -> None:
        if self.model_process_died:
            raise ServerDied("model", got="its process ended", expected="a running process")

    @property
    def pid(self) -> int:
        return self._process.pid


@pytest.fixture
def models(tmp_path: Path) -> Path:
    repository = tmp_path / "models"
    (repository / "alexnet_int8").mkdir(parents=True)
    (repository / "alexnet_int8" / "config.pbtxt").touch()
    return repository


def lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def in_a_forked_child(function: Callable[[], object]) -> int:
    """Call a function in a child of this process; return 0 if it returned something true, else 1."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("use", ["check", "wait", "__enter__"])
def test_a_server_is_not_used_in_a_forked_child(use: str, models: Path) -> None:
    with FakeServer(models) as server:

        def is_refused() -> bool:
            try:
                getattr(server, use)()
            except ServerError as error:
                return error.next_step == "Make one in each process."
            return False

        assert in_a_forked_child(is_refused) == 0
        server.check()


def test_a_forked_child_stops_nothing_of_its_parent(models: Path) -> None:
    with FakeServer(models) as server:

        def leave() -> bool:
            server.stop()
            server.__exit__(None, None, None)
            return True

        assert in_a_forked_child(leave) == 0
        assert lives(server.pid)
        server.check()
    assert not lives(server.pid)


def test_a_killed_parent_is_cleaned_up_after_while_its_forked_child_lives(models: Path) -> None:
    script = f"""
        import os, time
        from pathlib import Path
        from {__name__} import FakeServer
        with FakeServer(Path({str(models)!r}), kind="deaf") as server:
            child = os.fork()
            if child == 0:
                os.close(1)
                time.sleep(300)
                os._exit(0)
            print(server.pid, child, flush=True)
            time.sleep(300)
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        assert parent.stdout is not None
        server, child = map(int, parent.stdout.readline().split())
        parent.kill()
    try:
        assert eventually(lambda: not lives(server))
        assert lives(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_after_a_part_has_died_the_rest_is_killed_at_once(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_server, "EXIT_TIMEOUT_S", 300)
    with FakeServer(models, kind="deaf") as server:
        server.model_process_died = True
        with pytest.raises(ServerDied, match="its process ended"):
            server.wait()
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 60
    assert not lives(server.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_without_an_exception(
    number: signal.Signals, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with FakeServer(models) as server, _interrupting(server) as received:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
        timer.start()
        server.wait()
    assert received == [number]
    assert not lives(server.pid)
    assert capfd.readouterr().err == "Stopping ...\n"
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_a_server_that_does_not_stop(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_server, "EXIT_TIMEOUT_S", 300)
    with FakeServer(models, kind="deaf") as server, _interrupting(server) as received:

        def signal_twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            eventually(lambda: len(received) == 1)
            time.sleep(0.3)  # while it waits for the server's end
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=signal_twice).start()
        started_s = time.monotonic()
        server.wait()
        assert time.monotonic() - started_s < 60
    assert len(received) == 2
    assert not lives(server.pid)


def test_empty_environments_of_killed_servers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that are older than every running server."""
    monkeypatch.setattr(cleanup_watchdog, "SERVER_PROGRAM", "alexnet_fake")
    program = tmp_path / "alexnet_fake"
    shutil.copy("/bin/sleep", program)
    for name in ("python_env_old", "python_env_used", "other_env"):
        (tmp_path / name).mkdir()
    (tmp_path / "python_env_used" / "file").touch()
    for path in tmp_path.glob("*_env*"):
        os.utime(path, (time.time() - 60, time.time() - 60))
    with subprocess.Popen([program, "60"]) as running:
        (tmp_path / "python_env_new").mkdir()
        os.utime(tmp_path / "python_env_new", (time.time() + 1, time.time() + 1))
        cleanup_watchdog.sweep_python_environments(tmp_path)
        left = {path.name for path in tmp_path.glob("*_env*")}
        assert left == {"python_env_used", "python_env_new", "other_env"}
        running.kill()
    os.utime(tmp_path / "python_env_new", (time.time() - 1, time.time() - 1))
    cleanup_watchdog.sweep_python_environments(tmp_path)
    assert not (tmp_path / "python_env_new").exists()
