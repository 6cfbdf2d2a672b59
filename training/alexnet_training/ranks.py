"""The processes that train one network together, and what they exchange.

Every process ("rank") has a copy of the network and takes its part of each batch. `DistributedDataParallel`
averages the gradients, so all copies stay equal. Random numbers are drawn for the whole batch by every rank,
which uses those of its own images: so the number of ranks does not change what happens to an image.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Self

from alexnet_model.contract import canonical_json
from alexnet_model.errors import AlexnetError, OtherRankFailed, TrainingError, TrainingStopped, UsageError
from alexnet_model.extras import needs

from .streaming import Indices

with needs("train"):
    import torch
    from torch import Tensor, distributed, nn
    from torch.distributed.distributed_c10d import PrefixStore, Store
    from torch.distributed.rendezvous import rendezvous

RENDEZVOUS = "ALEXNET_RENDEZVOUS"  # the environment variable that `launch` sets
FAILED = "failed"  # the key of the rank that failed first
STOPPED = "stopped"  # the key that a rank sets when it stops
TIMEOUT = timedelta(hours=1)  # of one exchange; ranks may validate at different speeds
POLL_S = 0.05
LOST_CONNECTION = re.compile(r"gloo|nccl|tcpstore|connection (closed|reset|refused)|broken pipe", re.I)


class StopRequested(Exception):
    """The run is to stop."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: its number, from 0.
        count: how many there are.
        local_rank: its number on its machine, from 0.
        local_count: how many there are on its machine.
        store: text that all ranks can read and write. None: there is one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    store: Store | None = None

    def __deepcopy__(self, _: object) -> Self:
        """Return this object, which does not change, for copies of a network with `BatchDropout`."""
        return self

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and reports."""
        return self.rank == 0

    def own(self, drawn: Tensor) -> Tensor:
        """Return this rank's rows of random numbers that were drawn for the whole batch.

        Args:
            drawn: the first dimension is the whole batch.
        """
        size = len(drawn) // self.count
        return drawn[self.rank * size : (self.rank + 1) * size]

    def own_images(self, order: Indices, batch_size: int) -> Indices:
        """Return the indices of this rank's images.

        Args:
            order: of all images, in batches of `batch_size`.
            batch_size: images of all ranks per step, a multiple of the number of ranks.
        """
        if self.count == 1:
            return order
        return order.reshape(-1, self.count, batch_size // self.count)[:, self.rank].reshape(-1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks.

        Args:
            values: changed in place if there are several ranks.
        """
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def any(self, here: bool) -> bool:
        """Return whether a value is True on any rank. All ranks must call this together."""
        return here if self.count == 1 else bool(self.sum(torch.tensor(int(here))))

    def copy_buffers(self, network: nn.Module) -> None:
        """Copy the buffers of rank 0, such as BatchNorm's statistics, to the other ranks."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    @contextmanager
    def first_alone(self, subject: str) -> Iterator[None]:
        """Let the other ranks enter the block when rank 0 has left it, for example because it downloads.

        Args:
            subject: what the block does; a word that each block has for itself.
        """
        if self.store and not self.is_first:
            self._wait(lambda store: store.check([subject]))
        yield
        if self.store and self.is_first:
            self.store.set(subject, "done")

    def check_equal(self, subject: str, values: Mapping[str, Any]) -> None:
        """Wait for all ranks, and compare their values with those of rank 0.

        Args:
            subject: what is compared; a word that each call has for itself.
            values: JSON.

        Raises:
            TrainingError: a value of this rank differs.
            OtherRankFailed: one of another rank does.
            StopRequested: another rank has stopped.
        """
        store = self.store
        if not store:
            return
        if self.is_first:
            store.set(subject, canonical_json(values))
        self._wait(lambda store: store.check([subject]))
        first = json.loads(store.get(subject))
        other = [name for name in values if json.loads(canonical_json(values[name])) != first.get(name)]
        if other:
            raise TrainingError(
                subject,
                got=", ".join(f"{name} {values[name]}" for name in other),
                expected=f"{', '.join(str(first.get(name)) for name in other)} as in rank 0",
                next_step="Start all ranks with the same command, on the same files.",
            )
        store.add(f"{subject} agreed", 1)
        self._wait(lambda store: store.add(f"{subject} agreed", 0) == self.count)

    def _wait(self, ready: Callable[[Store], bool]) -> None:
        """Wait until `ready(store)`.

        Raises:
            OtherRankFailed: another rank failed.
            StopRequested: another rank has stopped.
        """
        assert self.store
        while not ready(self.store):
            if self.store.check([FAILED]):
                raise self._other_failed()
            if self.store.check([STOPPED]):
                raise StopRequested
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Let ranks that wait for this one stop too."""
        if self.store:
            self.store.set(STOPPED, "")

    def _other_failed(self) -> OtherRankFailed:
        return OtherRankFailed(f"rank {self.rank}", got="a failure of another rank, which has reported it")

    def failure(self, error: Exception) -> Exception:
        """Return what this rank raises for an error, so that only one rank reports one.

        Returns:
            the error, with the number of the rank in its message, if no other rank failed before; otherwise
            an `OtherRankFailed`.
        """
        is_lost = isinstance(error, RuntimeError) and bool(LOST_CONNECTION.search(str(error)))
        if is_lost and RENDEZVOUS in os.environ:  # `launch` reports the rank that ended
            return self._other_failed()
        try:
            assert self.store
            if self.store.compare_set(FAILED, "", str(self.rank)) != str(self.rank).encode():
                return self._other_failed()
        except RuntimeError:  # the store has ended with the process that held it
            is_lost = True
        if is_lost:
            return TrainingError(
                f"rank {self.rank}",
                got="a lost connection to another rank",
                next_step="See that rank's message. The same command continues after the last saved state.",
            )
        if isinstance(error, AlexnetError):
            error.args = (f"rank {self.rank}: {error}",)
        return error


ALONE = Ranks()


def rank_of_environment() -> int | None:
    """Return the rank that a launcher such as `torchrun` gave this process. None: it started none."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"])
    return None


@contextmanager
def joined_ranks(processes: int | None) -> Iterator[Ranks]:
    """Find the other processes that a launcher started; yield this process's place among them.

    An error in the block ends all ranks. One of them raises it; the others raise `OtherRankFailed`.

    Args:
        processes: how many there must be. None: as many as were started.

    Raises:
        UsageError: another number was started.
        TrainingError: the others did not come, or the connection to them was lost.
    """
    rank = rank_of_environment()
    count = 1 if rank is None else int(os.environ["WORLD_SIZE"])
    if processes not in (None, count):
        raise UsageError(
            "processes",
            got=f"{count} that {'was' if count == 1 else 'were'} started",
            expected=str(processes),
            next_step=f"Start them with alexnet train --processes {processes}, or with torchrun.",
        )
    if rank is None or count == 1:
        yield ALONE
        return
    store = PrefixStore(f"alexnet {next(_runs)}", _shared_store(rank, count))
    local_rank, local_count = (
        int(os.environ.get(name, default))
        for name, default in (("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", count))
    )
    ranks = Ranks(rank, count, local_rank, local_count, store)
    try:
        yield ranks
    except (TrainingStopped, OtherRankFailed):
        raise
    except Exception as error:
        raise ranks.failure(error) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


_runs = itertools.count()  # each call of `train` has its own keys in the store


@cache  # a store can be opened only once
def _shared_store(rank: int, count: int) -> Store:
    """Open the store that the launcher names.

    Raises:
        TrainingError: it cannot be reached, or not all ranks came.
    """
    try:
        store: Store = next(rendezvous(os.environ.get(RENDEZVOUS, "env://"), rank, count))[0]
    except (RuntimeError, ValueError, OSError) as error:
        raise TrainingError(
            f"rank {rank}",
            got=str(error).splitlines()[0],
            expected="a connection to the other ranks",
            next_step="Check the address and the port that the launcher was given.",
        ) from error
    return store


def connect(ranks: Ranks, device: torch.device) -> None:
    """Open the connections between all ranks, which exchange tensors; `joined_ranks` closes them.

    Args:
        ranks: if there is only one, nothing is opened.
        device: of this rank.
    """
    if ranks.count == 1:
        return
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=ranks.store,
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )


class BatchDropout(nn.Dropout):
    """Dropout whose mask is drawn for the whole batch; on a CPU it is the mask that one process would draw.

    Args:
        share: the share of the values that become 0.
        ranks: select the rows of this process.
    """

    def __init__(self, share: float, ranks: Ranks) -> None:
        super().__init__(share)
        self.ranks = ranks

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Drop values of `(N, ...)`, which are this rank's images."""
        if not self.training or self.p in (0, 1):
            return super().forward(input)
        shape = (len(input) * self.ranks.count, *input.shape[1:])
        mask = torch.empty(shape, dtype=input.dtype, device=input.device).bernoulli_(1 - self.p)
        return input * self.ranks.own(mask).div_(1 - self.p)


def shared_by(ranks: Ranks, network: nn.Module, device: torch.device) -> nn.Module:
    """Replace the layers that must know the whole batch: dropout, and on a GPU BatchNorm.

    On a CPU, PyTorch has no BatchNorm over several processes: each normalises by its own images.

    Args:
        ranks: if there is only one, the network is returned as it is.
        network: changed in place; weights and their names stay the same.
        device: of the network.
    """
    if ranks.count == 1:
        return network
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, BatchDropout(child.p, ranks))
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-any-return,no-untyped-call]
    return network
