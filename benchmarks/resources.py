"""Memory and processor time of a server under load: `python benchmarks/resources.py demo/model_repository`.

The numbers for the resource requests of a pod (docs/scale.md). Run it on the machine, or the kind of machine,
that will serve. It starts the embedded server and sends requests to each model in turn: single images, and
then the largest batches; to a model that decodes images, JPEG files of 640 x 480 pixels.
"""

from __future__ import annotations

import argparse
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_clients import Client, ServedModel
from alexnet_model.model_names import is_decoder
from alexnet_serving import EmbeddedServer
from alexnet_serving.servers.embedded import cpu_s_of, is_alive

MIB = 2**20
SAMPLE_S = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--threads", type=int, default=16, help="requests in flight")
    options = parser.parse_args()
    with EmbeddedServer(options.repository) as server, Client(server.grpc_url) as client:
        group = server._process.pid
        show("loaded, no request yet", memory_bytes(group), cores=None)
        most = 0
        for name in server.models:
            if is_decoder(name):
                continue  # a part of the model that takes encoded images
            for what, send in loads(client, client.model(name)):
                memory, cores = measure(send, options, group)
                show(f"{name}, {what}", memory, cores)
                most = max(most, memory)
    sys.stdout.write(
        f"\nlargest: {most / MIB:,.0f} MiB with the regions in /dev/shm, without the page cache\n"
    )
    return 0


def loads(client: Client, served: ServedModel) -> Iterator[tuple[str, Callable[[], object]]]:
    """The requests to send to a model, each with its name."""
    if served.decodes:
        jpeg = io.BytesIO()
        Image.effect_noise((640, 480), 50).save(jpeg, "JPEG")
        content = jpeg.getvalue()
        yield "JPEG", lambda: client.classify(content, model=served.name)[0].best
        return
    for batch in dict.fromkeys((1, served.max_batch)):
        images = np.zeros((batch, *served.contract.image_shape), np.uint8)
        yield f"batch {batch}", partial(client.probabilities, images, model=served.name)


def measure(send: Callable[[], object], options: argparse.Namespace, group: int) -> tuple[int, float]:
    """Return the largest memory in bytes, and the mean number of busy cores, during one load."""
    largest = 0
    with load(send, options.threads):
        before, started = cpu_s_of(group), time.monotonic()
        while (took_s := time.monotonic() - started) < options.seconds:
            largest = max(largest, memory_bytes(group))
            time.sleep(SAMPLE_S)
        return largest, (cpu_s_of(group) - before) / took_s


@contextmanager
def load(send: Callable[[], object], threads: int) -> Iterator[None]:
    """Send from several threads until the block ends; raise what one of them raised."""
    stop, errors = threading.Event(), list[Exception]()

    def repeat() -> None:
        try:
            while not stop.is_set():
                send()
        except Exception as error:
            errors.append(error)

    running = [threading.Thread(target=repeat) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()
    if errors:
        raise errors[0]


def memory_bytes(group: int) -> int:
    """Return the proportional set size of a process group: memory that is shared inside it counts once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        if not is_alive(int(folder.name), group):
            continue
        try:
            rollup = (folder / "smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        total += 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def show(what: str, memory: int, cores: float | None) -> None:
    busy = "" if cores is None else f"{cores:6.1f} cores busy"
    sys.stdout.write(f"{what:32}{memory / MIB:10,.0f} MiB{busy}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
