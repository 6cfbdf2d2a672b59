"""The shared memory that Python-based backends need, computed before a server starts.

Triton passes images to each instance of such a model through a region in /dev/shm. A container has 64 MiB
there by default, which is too little for three precisions and batches of 64 images. With too little, Triton
does not start, or refuses requests later.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_model.contract import Contract
from alexnet_model.errors import ServerError
from alexnet_model.manifest import PRECISIONS
from alexnet_model.runtimes import runtime_of_backend

from ..repositories.backends import backend_of_config, parsed_configs
from ..repositories.layout import DECODER

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

SHM = Path("/dev/shm")  # noqa: S108 (where shared memory is, not a temporary file)
MIB = 1024 * 1024
# Triton may copy the next batch into a region before the last one has left it. So under load a network's
# region takes 21 MB for batches of 64 images of 224 pixels, which are 9.6 MB.
BATCHES_OF_A_NETWORK = 2
BATCHES_OF_THE_DECODER = 3  # two of encoded images, counted as large as prepared ones, and one of those
OVERHEAD_BYTES = MIB  # Triton's own use of a region, and its smallest size
MAX_START_BYTES = 64 * MIB  # a region that needs more grows when it does
STEP_BYTES = 64 * MIB  # of the sizes that messages recommend


@dataclass(frozen=True, kw_only=True)
class BackendMemory:
    """The shared memory that the Python-based models of a server need.

    Attributes:
        regions: How many regions there are: one for each instance of each model.
        region_bytes: The size of each region when the server starts.
        total_bytes: What all regions need if every model computes full batches at the same time.
        max_batch: The largest batch of these models.
    """

    regions: int
    region_bytes: int
    total_bytes: int
    max_batch: int

    @property
    def fits(self) -> bool:
        """Whether /dev/shm has this much free space."""
        return free_shared_memory() >= self.total_bytes

    @property
    def text(self) -> str:
        """The need in words."""
        return f"{megabytes(self.total_bytes)} for {self.regions} models with batches of {self.max_batch}"

    @property
    def fix(self) -> str:
        """What gives a server this memory, in words."""
        used = shutil.disk_usage(SHM).used if SHM.is_dir() else 0
        steps = -(-(used + self.total_bytes) // STEP_BYTES)
        return how_to_enlarge(f"{steps * STEP_BYTES // MIB}m")

    def check(self) -> None:
        """Check that /dev/shm has this much free space.

        Raises:
            ServerError: it has less.
        """
        if self.fits:
            return
        raise ServerError(
            f"shared memory {SHM}",
            got=f"{megabytes(free_shared_memory())} free",
            expected=self.text,
            next_step=f"{self.fix}. Or export again with a smaller --max-batch.",
        )


def memory_of_repository(repository: Path) -> BackendMemory:
    """Return the shared memory that an embedded server needs for a repository.

    This has space for encoded images that are as large as prepared ones. Larger files take more, and are
    refused if there is no more.
    """
    configs = parsed_configs(repository).values()
    return _memory_of([model for config in configs for model in _instances(config)])


def memory_of_default_export(max_batch: int = 64) -> BackendMemory:
    """Return the need of what `alexnet export` writes by default: three precisions and the image decoder.

    Args:
        max_batch: The largest batch of its models.
    """
    pixels = math.prod(Contract().image_shape)
    outputs = 2 * 4 * 1000  # probabilities and logits in float32
    network = _Model(max_batch * (pixels + outputs), BATCHES_OF_A_NETWORK, max_batch)
    decoder = _Model(max_batch * pixels, BATCHES_OF_THE_DECODER, max_batch)
    return _memory_of([*[network] * len(PRECISIONS), decoder])


def how_to_enlarge(size: str = "1g") -> str:
    """Return how to enlarge /dev/shm, in words.

    Args:
        size: The new size, as Docker and mount take it.
    """
    return f"Run the container with --shm-size={size}, or: sudo mount -o remount,size={size} {SHM}"


def free_shared_memory() -> int:
    """Return the free bytes of /dev/shm; 0 if there is none."""
    try:
        return shutil.disk_usage(SHM).free
    except OSError:
        return 0


def megabytes(size_bytes: int) -> str:
    """Return a size in words."""
    return f"{size_bytes / 1e6:,.0f} MB"


@dataclass(frozen=True)
class _Model:
    batch_bytes: int
    batches: int  # that are in a region at the same time
    max_batch: int

    @property
    def start_bytes(self) -> int:
        return self.batches * self.batch_bytes + OVERHEAD_BYTES

    def grown_bytes(self, start_bytes: int) -> int:
        """Return what a region has grown to: by a batch, rounded up, whenever one has no space."""
        fit = (start_bytes - OVERHEAD_BYTES) // self.batch_bytes
        return start_bytes + max(0, self.batches - fit) * (self.batch_bytes + MIB)


def _memory_of(instances: Sequence[_Model]) -> BackendMemory:
    start = min((MAX_START_BYTES, *(instance.start_bytes for instance in instances)))
    return BackendMemory(
        regions=len(instances),
        region_bytes=start,
        total_bytes=sum(instance.grown_bytes(start) for instance in instances),
        max_batch=max((instance.max_batch for instance in instances), default=1),
    )


def _instances(config: ModelConfig) -> list[_Model]:
    """Return a model for each of its instances; none if its backend is not Python-based."""
    from tritonclient.grpc.model_config_pb2 import TYPE_STRING, TYPE_UINT8

    backend = backend_of_config(config)
    runtime = runtime_of_backend(backend)
    if backend != DECODER and (runtime is None or runtime.backend_package is None):
        return []
    item_bytes = {TYPE_STRING: 0, TYPE_UINT8: 1}  # all others are float32
    image_bytes = sum(
        item_bytes.get(tensor.data_type, 4) * math.prod(tensor.dims)
        for tensor in (*config.input, *config.output)
    )
    max_batch = max(1, config.max_batch_size)
    batches = BATCHES_OF_THE_DECODER if backend == DECODER else BATCHES_OF_A_NETWORK
    model = _Model(max(1, max_batch * image_bytes), batches, max_batch)
    return [model] * max(1, sum(group.count for group in config.instance_group))
