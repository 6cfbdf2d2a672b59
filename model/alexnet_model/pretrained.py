"""Open a checkpoint: this project's own file, torchvision's `.pth`, or a download of the ImageNet weights."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError

from .checkpoint import Checkpoint, load_checkpoint
from .class_names import imagenet_class_names
from .contract import Contract
from .errors import CheckpointError, os_errors_as
from .extras import needs
from .files import sha256_of_file

with needs("export"):
    import torch

DOWNLOAD_TIMEOUT_S = 30.0  # without any data
# torchvision's AlexNet_Weights.IMAGENET1K_V1: 56.522% top-1, 79.066% top-5. The name ends in the first eight
# digits of the file's SHA-256.
IMAGENET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


def checkpoint_from(source: str) -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: "imagenet" (downloads torchvision's weights), the path of a torchvision `.pth`, or the path of
            a `.safetensors` file that `save_checkpoint` wrote.

    Raises:
        CheckpointError: it is missing, broken, altered, or does not fit its architecture.
    """
    if source == "imagenet":
        return checkpoint_from_url(IMAGENET_URL)
    path = Path(source)
    return checkpoint_from_pth(path) if path.suffix == ".pth" else load_checkpoint(path)


def checkpoint_from_url(url: str, folder: Path | None = None) -> Checkpoint:
    """Download torchvision's weights, unless they are in the cache.

    Args:
        url: a URL that ends in the file's name, as for `checkpoint_from_pth`.
        folder: where the file is kept; by default PyTorch's cache.

    Raises:
        CheckpointError: the download failed, or the file's SHA-256 differs from the one in its name.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # It checks the hash before it renames the file, and shows a progress bar, but has no timeout.
            with _socket_timeout(DOWNLOAD_TIMEOUT_S):
                torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_prefix(path))
        except (URLError, OSError, RuntimeError) as error:
            if isinstance(error, HTTPError):
                error.close()
            raise CheckpointError(
                url,
                got=f"{error}",
                expected="torchvision's weights",
                next_step=f"Download it on another machine and run: alexnet export path/to/{path.name}",
            ) from error
    return checkpoint_from_pth(path)


def checkpoint_from_pth(path: Path) -> Checkpoint:
    """Read torchvision's AlexNet weights; the checkpoint gets ImageNet's class names.

    Args:
        path: a file whose name ends in the start of its SHA-256, such as alexnet-owt-7be5be79.pth.

    Raises:
        CheckpointError: the file is missing, its SHA-256 differs from the one in its name, or it is not the
            state dict of this network.
    """
    prefix = _hash_prefix(path)
    with os_errors_as(
        CheckpointError, path, expected="torchvision's weights (.pth)", next_step="Check the path."
    ):
        sha256 = sha256_of_file(path)
    if not sha256.startswith(prefix):
        raise CheckpointError(
            str(path),
            got=f"SHA-256 {sha256[: len(prefix)]}...",
            expected=f"{prefix}..., as its name says",
            next_step=f"Remove {path} and download it again.",
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises UnpicklingError, RuntimeError, KeyError, IndexError ...
        raise CheckpointError(
            str(path),
            got=f"not a plain state dict ({type(error).__name__}: {str(error).partition(chr(10))[0]})",
            expected="torchvision's weights (.pth)",
            next_step="Save only model.state_dict().",
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise CheckpointError(str(path), got="not a plain state dict", expected="a dict of tensors by name")
    checkpoint = Checkpoint(
        architecture="alexnet",
        class_names=imagenet_class_names(),
        contract=Contract(),
        training={"data": "imagenet", "source": path.name, "sha256": sha256},
        weights=weights,
    )
    checkpoint.check_fit()
    return checkpoint


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout of sockets, for code that sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _hash_prefix(path: Path) -> str:
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if not match:
        raise CheckpointError(
            str(path),
            got=f"the name {path.name!r}",
            expected="a name that ends in the start of its SHA-256, as in alexnet-owt-7be5be79.pth",
            next_step=f"Rename it after checking: sha256sum {path}",
        )
    return match.group(1)
