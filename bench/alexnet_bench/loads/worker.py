"""What a process of the load generator does: `python -m alexnet_bench.loads.worker FD`, by its parent.

It reads orders from the socket FD and answers each. When the parent closes the socket, or dies, it ends.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from alexnet_clients import ServerUrl, Transport, transport_from_url
from alexnet_model.errors import AlexnetError

from .loops import Asking, LoadRun
from .plans import Part
from .worker_protocol import DONE, STOP, Address, Order, Report, Target


class Worker:
    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._transport: Transport | None = None
        self._asking: Asking | None = None
        self._indices: Iterator[int] = iter(())
        self._run: LoadRun | None = None

    def serve(self) -> None:
        """Obey until the parent is gone."""
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        while True:
            order = self._orders.get()
            try:
                report = self._report_of(order)
            except AlexnetError as error:
                report = error
            self._connection.send(report)

    def _listen(self) -> None:
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # whatever the other thread is doing: nobody waits for it
            if order == STOP:
                if self._run is not None:
                    self._run.stop()
            else:
                if isinstance(order, Part) and self._asking is not None:
                    self._run = LoadRun(order, self._asking, self._indices)  # can be stopped from now on
                self._orders.put(order)

    def _report_of(self, order: Order) -> Report:
        if isinstance(order, Address):
            self._transport = transport_from_url(ServerUrl.parse(order.url), order.access)
        elif isinstance(order, Target):
            assert self._transport is not None
            self._asking = order.asking(self._transport)
            self._indices = self._asking.indices()
            gc.collect()
            gc.freeze()  # what stays need not be looked through again, which would make a send late
        else:
            assert self._run is not None
            return self._run.outcome()
        return DONE


if __name__ == "__main__":
    Worker(Connection(int(sys.argv[1]))).serve()
