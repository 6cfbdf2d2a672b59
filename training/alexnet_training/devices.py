"""The device that trains, what it computes in, and how batches reach it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from alexnet_model.contract import Uint8Array
from alexnet_model.environment import machine_name
from alexnet_model.errors import TrainingError, UsageError
from alexnet_model.extras import needs

from .ranks import ALONE, Ranks
from .streaming import Indices

with needs("train"):
    import torch
    from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

BATCHES_AHEAD = 3
STEPS_PER_CHECK_ON_GPU = 16  # reading a value waits until the GPU has computed everything before it


@dataclass(frozen=True)
class Compute:
    """A device and the type that autocast multiplies in.

    Args:
        device: the CPU, or one GPU with its number.
        autocast: bfloat16, float16, or None for FP32 alone. float16 needs a gradient scaler.
    """

    device: torch.device
    autocast: torch.dtype | None

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def computes_in(self) -> str:
        """The type that convolutions and linear layers multiply in, for the training record."""
        return {torch.bfloat16: "bf16 autocast", torch.float16: "fp16 autocast", None: "fp32"}[self.autocast]

    @property
    def name(self) -> str:
        """The name of the processor or of the GPU."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else machine_name()

    @property
    def steps_per_check(self) -> int:
        """The number of steps after which losses are read from the device."""
        return STEPS_PER_CHECK_ON_GPU if self.is_gpu else 1

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler, which does nothing unless autocast is float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast == torch.float16)

    def moved(self, module: Module) -> Module:
        """Move a module to the device, on a GPU with channels last in memory; return the same module."""
        if self.is_gpu:
            module.to(self.device)
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Restore the caller's random generators and settings of PyTorch at the end.

        In the block the CPU computes deterministically. A GPU does not, because some kernels of the backward
        pass have no deterministic form. It selects the fastest convolutions and may use TF32.
        """
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        benchmark = torch.backends.cudnn.benchmark
        precision = torch.get_float32_matmul_precision()
        with torch.random.fork_rng(devices=[self.device] if self.is_gpu else []):
            torch.use_deterministic_algorithms(not self.is_gpu)
            if self.is_gpu:
                torch.backends.cudnn.benchmark = True
                torch.set_float32_matmul_precision("high")
            try:
                yield
            finally:
                torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
                torch.backends.cudnn.benchmark = benchmark
                torch.set_float32_matmul_precision(precision)

    def batches(self, batches: Iterator[tuple[Uint8Array, Indices]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches as tensors on the device; for a GPU, a thread prepares the next ones.

        Args:
            batches: images uint8 `(B, S, S, 3)` and labels `(B,)`.
        """
        if not self.is_gpu:
            for batch in batches:
                yield _tensors(batch)
            return

        def pinned() -> tuple[Tensor, Tensor] | None:
            batch = next(batches, None)
            if batch is None:
                return None
            images, labels = _tensors(batch)
            return images.pin_memory(), labels.pin_memory()

        with ThreadPoolExecutor(max_workers=1) as pool:
            upcoming = deque(pool.submit(pinned) for _ in range(BATCHES_AHEAD))
            while (ready := upcoming.popleft().result()) is not None:
                upcoming.append(pool.submit(pinned))
                images, labels = ready
                yield (
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                )


def compute_on(device: str, ranks: Ranks = ALONE) -> Compute:
    """Select a device by its name, and check that it can be used.

    Args:
        device: "auto" (the first GPU, or the CPU if there is none), "cpu", "cuda" (the first GPU) or
            "cuda:N". Of several ranks each takes another GPU, and "cuda:N" is not possible.
        ranks: the processes that train together.

    Raises:
        UsageError: there is no such GPU, or there are fewer GPUs than ranks on this machine.
        TrainingError: it cannot be used, for example because another process has it for itself.
    """
    number = gpu_number(device, ranks)
    if number is None:
        return Compute(torch.device("cpu"), torch.bfloat16 if has_bf16_instructions() else None)
    selected = torch.device("cuda", number)
    try:
        torch.zeros(1, device=selected)
        if ranks.count > 1:
            torch.cuda.set_device(selected)  # NCCL uses the current one
        with torch.cuda.device(selected):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError as error:
        raise TrainingError(
            f"device {selected}",
            got=str(error).strip().splitlines()[0],
            expected="a GPU that is free",
            next_step="nvidia-smi lists the processes that use it. Use another one, or --device cpu.",
        ) from error
    return Compute(selected, torch.bfloat16 if has_bf16 else torch.float16)


def gpu_number(device: str, ranks: Ranks = ALONE) -> int | None:
    """Return the number of the GPU that a device's name selects for a rank; None: the CPU.

    Args:
        device: as for `compute_on`.
        ranks: the processes that train together, or that are going to be started.

    Raises:
        UsageError: there is no such GPU, or there are fewer GPUs than ranks on this machine.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return None
    if ranks.count > 1 and ":" in device:
        raise UsageError("device", got=f"{device} for {ranks.count} processes", expected="auto, cuda or cpu")
    number = int(device.partition(":")[2] or ranks.local_rank)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < count < ranks.local_count:
        raise UsageError(
            "processes",
            got=f"{ranks.local_count} on a machine with {count} GPU{'s' * (count > 1)}",
            expected=f"at most {count}, or --device cpu",
        )
    if number >= count:
        no_gpu = (
            "no GPU that PyTorch can use"
            if torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
            else "a PyTorch that is built without CUDA"
        )
        gpus = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UsageError(
            "device",
            got=f"{device} with {f'{count} GPU' + 's' * (count > 1) if count else no_gpu}",
            expected=f"{gpus}, or cpu" if count else "cpu",
            next_step="" if count else "Run alexnet doctor, which lists the GPUs of this machine.",
        )
    return number


def _tensors(batch: tuple[Uint8Array, Indices]) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return torch.from_numpy(images), torch.from_numpy(labels)


def has_bf16_instructions() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; without it autocast is slower than FP32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
