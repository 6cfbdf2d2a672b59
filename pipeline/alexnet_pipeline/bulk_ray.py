"""Bulk classification on a Ray cluster: Ray Data gives shards to actors, and each actor has its own model.

Shards and `_bulk.json` are the same as without Ray. An actor that is killed is started again and repeats its
shard; a run that is killed continues at the shards that are not there.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alexnet_model.errors import AlexnetError, BulkError
from alexnet_model.extras import needs

from .bulk import BATCHES_PER_WORKER, OpenModel, check_model, write_shards
from .bulk_files import BulkRecord, Shard, is_finished

CONNECT_TIMEOUT_S = 10.0
# Ray stores only names there: by default it takes 30% of the memory.
_THIS_MACHINE: dict[str, Any] = {
    "include_dashboard": False,
    "object_store_memory": 256 * 2**20,
    "_node_ip_address": "127.0.0.1",
}


def write_shards_on_ray(
    address: str,
    open_model: OpenModel,
    shards: Sequence[Shard],
    record: BulkRecord,
    *,
    workers: int | None,
    report: Callable[[int], None],
) -> None:
    """Classify the images of some shards on a Ray cluster, one shard at a time in each actor.

    A cluster that this process has connected to is used as it is; otherwise the connection ends
    with the call.

    Args:
        address: `local` starts Ray on this machine; `auto`, `HOST:PORT` or `ray://HOST:PORT` connects.
        open_model: Opens the model, in each actor.
        shards: What to do.
        record: Of the run.
        workers: How many actors. None: one for each machine.
        report: Called with the number of images of each shard that is done.

    Raises:
        BulkError: There is no cluster at the address, or an actor failed.
        MissingExtra: The [ray] extra is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by the import
    with needs("ray"):
        import ray
        import ray.data
    with ExitStack() as opened:
        if not ray.is_initialized():
            try:
                _check_listens(address)
                here = _THIS_MACHINE if address == "local" else {}
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
            except (OSError, ValueError, RuntimeError) as error:
                raise BulkError(
                    f"--ray {address}",
                    got=(getattr(error, "strerror", None) or str(error)).splitlines()[0].rstrip("."),
                    expected="a Ray cluster",
                    next_step="Start one: ray start --head. Or use --ray local.",
                ) from error
            opened.callback(ray.shutdown)
        # Both are of the whole process, which may use Ray for other work too.
        context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
        opened.callback(setattr, context, "enable_progress_bars", context.enable_progress_bars)
        opened.callback(log.setLevel, log.level)
        context.enable_progress_bars = False
        log.setLevel(logging.ERROR)
        cluster: Any = ray  # whose functions have no types
        machines = sum(node["Alive"] for node in cluster.nodes())
        # JSON, because names may have bytes that are not UTF-8.
        items = [{"path": str(shard.path), "names": json.dumps(list(shard.names))} for shard in shards]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardActor,
            fn_constructor_args=(open_model, record.model_dump_json()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers or machines, len(items))),
        )
        for row in done.iter_rows():
            if row["problem"]:
                raise BulkError(row["problem"])
            report(int(row["images"]))


def _check_listens(address: str) -> None:
    """Raise an OSError if nothing listens at HOST:PORT, where Ray would try again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


class ShardActor:
    """Holds a model, and writes one shard at a time. Images are decoded in threads."""

    def __init__(self, open_model: OpenModel, record: str) -> None:
        self._record = BulkRecord.model_validate_json(record)
        self._opened = ExitStack()
        self._problem = ""
        try:
            self._model = self._opened.enter_context(open_model())
            check_model(self._model, self._record)
        except Exception as error:  # an actor that fails to start would be started again without end
            self._problem = _one_line(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Write one shard.

        Args:
            batch: `path` and `names` (JSON) of the shard, each an array of one value.

        Returns:
            The number of its images, and why it could not be written; each a list of one value.
        """
        names = json.loads(batch["names"][0])
        shard = Shard(Path(str(batch["path"][0])), names)
        problem = self._problem
        if not problem:
            try:
                self._write(shard)
            except Exception as error:  # Ray would wrap it in a traceback of several processes
                problem = _one_line(error)
        return {"images": [len(names)], "problem": [problem]}

    def _write(self, shard: Shard) -> None:
        if is_finished(shard, self._record):  # an actor was killed between the rename and its report
            return
        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cores) as threads:
            write_shards(
                self._model,
                [shard],
                self._record,
                threads,
                ahead=BATCHES_PER_WORKER * cores,
                report=lambda _: None,
            )


def _one_line(error: Exception) -> str:
    """Return the message of an error, with its type if that is neither of this project nor of a file."""
    return str(error) if isinstance(error, AlexnetError | OSError) else f"{type(error).__name__}: {error}"
