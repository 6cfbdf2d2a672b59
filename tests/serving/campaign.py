"""Faults at random moments, many times over: `make campaign`, about ten minutes on two cores.

The test suite has a short form of each. Pytest does not collect this file by itself.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from alexnet_clients import Client
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ClientError
from alexnet_model.files import restore_interrupted
from alexnet_serving import EmbeddedServer, write_repository
from alexnet_serving.servers.embedded import stubs_of

from .conftest import Artifacts
from .test_several_servers import MODEL, load, url_of, wait_for_replies

FloatArray: TypeAlias = npt.NDArray[np.float32]
SHM = Path("/dev/shm")
ALEXNET = (sys.executable, "-m", "alexnet_cli")
SERVE = (
    *ALEXNET,
    "serve",
    "--with",
    "embedded",
    *("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"),
)

REPLACING = """
import sys
from itertools import count
from pathlib import Path

from alexnet_model.files import atomic_directory

for number in count():
    with atomic_directory(Path(sys.argv[1]), record="export.json") as folder:
        for name in ("export.json", "models/fp32", "models/int8"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(str(number))
    print(number, flush=True)
"""

DECODING = """
import hashlib, sys
from pathlib import Path

import numpy as np

from alexnet_model import Contract
from alexnet_model.errors import ImageError

rng = np.random.default_rng(0)
contract = Contract(size=64, resize=64)
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
for number in range(int(sys.argv[2])):
    content = bytearray(files[number % len(files)])
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] = rng.integers(256)
    try:
        image = contract.prepared(bytes(content))
        print(hashlib.sha256(image).hexdigest())
    except ImageError:
        print("refused")
"""


@pytest.fixture(scope="module")
def repository(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign") / "models"
    write_repository(artifacts.manifest, artifacts.folder, folder)
    return folder


@contextmanager
def serving(repository: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `alexnet serve`; yields the process and its URL when it is ready."""
    with subprocess.Popen(
        [*SERVE, "--repository", str(repository)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = next(line.split()[1] for line in process.stdout if line.startswith("gRPC"))
            next(line for line in process.stdout if line.startswith("ready"))
            yield process, url
        finally:
            process.terminate()


def pids_of_group_of(parent: int) -> set[int]:
    """Return the process groups of the servers that a process has started."""
    groups = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().partition("(")[2].rpartition(")")[::2]
        except OSError:
            continue
        if name == "tritonserver" and fields.split()[1] == str(parent):
            groups.add(int(fields.split()[2]))
    return groups


def test_serve_ends_on_a_signal_at_any_moment(repository: Path) -> None:
    moments = random.Random(0)
    for _ in range(20):
        before = set(SHM.iterdir())
        command = [*SERVE, "--repository", str(repository)]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(moments.uniform(2, 12))
            process.send_signal(moments.choice([signal.SIGINT, signal.SIGTERM]))
            _, errors = process.communicate(timeout=30)
        assert process.returncode in (0, 130, 143), errors
        assert "Traceback" not in errors
        assert "a bug in alexnet" not in errors
        assert set(SHM.iterdir()) <= before


def test_a_dead_model_process_ends_serve_and_no_answer_is_wrong(repository: Path, images: Uint8Array) -> None:
    moments = random.Random(0)
    expected = None
    answers = 0
    for _ in range(10):
        with serving(repository) as (process, url):
            with Client(url) as client:
                first = client.probabilities(images[:4], model="alexnet_fp32")
            expected = first if expected is None else expected
            wrong: list[float] = []

            def load(url: str = url, expected: FloatArray = expected, wrong: list[float] = wrong) -> None:
                nonlocal answers
                with Client(url, timeout_s=5) as client:
                    try:
                        while True:
                            answer = client.probabilities(images[:4], model="alexnet_fp32")
                            wrong.append(float(np.abs(answer - expected).max()))
                    except ClientError:
                        answers += len(wrong)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(moments.uniform(0.5, 2))
            (group,) = pids_of_group_of(process.pid)
            os.kill(moments.choice(sorted(stubs_of(group))), signal.SIGKILL)
            _, errors = process.communicate(timeout=20)
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
            assert process.returncode == 1, errors
            assert max(wrong, default=0) < 1e-5
    assert answers > 0


@pytest.mark.parametrize("fault", ["SIGTERM", "SIGKILL", "SIGSTOP"])
def test_a_fault_of_one_of_two_servers_costs_no_reply(
    fault: str, repository: Path, images: Uint8Array, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 times under load from four threads; prints the latencies with and without the faults."""
    moments = random.Random(0)
    with EmbeddedServer(repository) as kept:
        with Client(kept.grpc_url) as client:
            expected = client.probabilities(images[:1], model=MODEL)
        quiet: list[float] = []
        faulty: list[float] = []
        ports: dict[str, int] = {}
        for _ in range(20):
            with EmbeddedServer(repository, **ports) as other:  # type: ignore[arg-type]
                ports = {f"{name}_port": port for name, port in other._ports.items()}
                with load(url_of("grpc", kept, other), images[:1], expected) as seen:
                    wait_for_replies(seen, 100)
                    quiet += seen.latencies_s
                    before = len(seen.latencies_s)
                    time.sleep(moments.uniform(0, 0.5))
                    os.killpg(other._process.pid, getattr(signal, fault))
                    wait_for_replies(seen, 100)
                    if fault == "SIGSTOP":
                        os.killpg(other._process.pid, signal.SIGCONT)
                faulty += seen.latencies_s[before:]
                if fault == "SIGTERM":
                    assert other._process.wait(30) == 0
    with capsys.disabled():
        for name, latencies in (("before", quiet), (f"after {fault}", faulty)):
            p50, p99, most = np.percentile(latencies, [50, 99, 100])
            line = f"{len(latencies)} replies, {p50:.3f} s p50, {p99:.3f} s p99, {most:.3f} s longest"
            sys.stdout.write(f"\n{name}: {line}")


def test_classify_ends_on_ctrl_c_at_any_moment(repository: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for number in range(200):
        Image.effect_noise((320, 240), 50).save(tmp_path / f"{number}.png")
    with serving(repository) as (_, url):
        for _ in range(40):
            folders = [str(tmp_path)] * 20  # enough for more than the longest wait
            command = [*ALEXNET, "classify", *folders, "--url", url, "--model", "alexnet_int8"]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                process.stdout.readline()  # the first prediction
                time.sleep(moments.uniform(0, 1.5))
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=20)
            assert process.returncode == 130, errors
            assert "Traceback" not in errors


def test_a_killed_replacement_leaves_a_whole_folder(tmp_path: Path) -> None:
    moments = random.Random(0)
    folder = tmp_path / "models"
    for _ in range(100):
        with subprocess.Popen(
            [sys.executable, "-c", REPLACING, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
        restore_interrupted(folder)
        contents = {path.read_text() for path in folder.rglob("*") if path.is_file()}
        assert len(contents) == 1, contents
        assert len(list(folder.rglob("*"))) == 4
        left = [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
        assert left == []


def test_broken_images_decode_to_the_same_pixels_whatever_memory_held(tmp_path: Path) -> None:
    picture = Image.effect_noise((61, 47), 60)
    for suffix, more in (
        *((".jpg", {}), (".png", {}), (".gif", {}), (".bmp", {}), (".webp", {}), (".ppm", {})),
        *(
            ("_lzw.tif", {"compression": "tiff_lzw"}),
            ("_raw.tif", {}),
            ("_jpeg.tif", {"compression": "jpeg"}),
        ),
    ):
        picture.convert("RGB").save(tmp_path / f"image{suffix}", **more)
    picture.convert("1").save(tmp_path / "fax.tif", compression="group4")
    digests = [
        subprocess.run(
            [sys.executable, "-c", DECODING, str(tmp_path), "6000"],
            env={**os.environ, "MALLOC_PERTURB_": byte},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for byte in ("1", "170")
    ]
    decoded = [line for line in digests[0].splitlines() if re.fullmatch("[0-9a-f]{64}", line)]
    assert len(decoded) > 300
    assert hashlib.sha256(digests[0].encode()).hexdigest() == hashlib.sha256(digests[1].encode()).hexdigest()
