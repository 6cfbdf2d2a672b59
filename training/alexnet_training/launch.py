"""Start the processes of a training on one machine, and end them together."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

from alexnet_model.errors import TrainingError
from alexnet_model.extras import needs
from alexnet_model.files import temporary_folder

from .ranks import RENDEZVOUS

with needs("train"):
    import torch
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

OTHER_RANK_FAILED = 75  # the exit code of a rank that ends because another one failed
ENDING_S = 15.0  # for the other ranks to end, after one failed; then they are stopped
INTERRUPT_S = 5.0


def run_ranks(count: int, program: Callable[[], int]) -> int:
    """Run a program in several processes that train together, and wait for them.

    They find each other through a temporary file and exchange tensors over the loopback interface. SIGTERM
    is passed on to all of them; a second one, or Ctrl-C, ends them.

    Args:
        count: the number of processes.
        program: can be pickled; it calls `train`, reports its own errors, and returns its exit code:
            `OTHER_RANK_FAILED` for an `OtherRankFailed`.

    Returns:
        0, the highest exit code of a rank that reported an error, or 143 if SIGTERM ended ranks before they
        trained.

    Raises:
        TrainingError: a rank ended without a message, for example because it was killed.
    """
    with temporary_folder("alexnet-ranks-") as folder:
        processes: list[BaseProcess] = []
        with _sigterm_passed_on(processes) as stops:
            with _sigint_ignored():  # so that a process in its imports does not print a traceback
                context = start_processes(  # type: ignore[no-untyped-call]
                    _run_rank,
                    (count, os.getpid(), f"file://{folder / 'store'}", program),
                    count,
                    join=False,
                    start_method="spawn",
                )
            processes += context.processes
            try:
                if stops:  # before there were processes to pass it on to
                    return 128 + signal.SIGTERM
                while not context.join(timeout=1, grace_period=1 if stops else ENDING_S):
                    pass
            except ProcessExitedException as failed:
                codes = [process.exitcode or 0 for process in processes]
                if stops:
                    return 128 + signal.SIGTERM
                reported = [code for code in codes if code > 0 and code != OTHER_RANK_FAILED]
                if failed.exit_code > 0 and reported:
                    return max(reported)
                raise _ended(failed) from failed
            finally:
                _end(processes)
    return 0


def _run_rank(rank: int, count: int, parent: int, rendezvous: str, program: Callable[[], int]) -> None:
    """Run the program in a new process, which gets SIGINT when its parent ends."""
    if os.getppid() != parent:
        sys.exit(1)

    def interrupt(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal and the parent both send it
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, interrupt)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ |= dict(zip(names, map(str, (rank, rank, count, count)), strict=True))
    os.environ |= {RENDEZVOUS: rendezvous, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    sys.exit(program())


def _ended(failed: ProcessExitedException) -> TrainingError:
    how = failed.signal_name or f"the exit code {failed.exit_code}"
    return TrainingError(
        f"rank {failed.error_index}",
        got=f"its end by {how}",
        expected="a rank that trains to the end",
        next_step="The same command continues after the last saved state.",
    )


def _end(processes: list[BaseProcess]) -> None:
    """End those that still run: after an interrupt, or an error of this process."""
    running = [process for process in processes if process.is_alive()]
    for process in running:
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    for process in running:
        process.join(INTERRUPT_S)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _sigterm_passed_on(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Send SIGTERM to the processes when it comes, and SIGKILL when it comes again; yield those that came."""
    came: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        came.append(number)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM if len(came) == 1 else signal.SIGKILL)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
