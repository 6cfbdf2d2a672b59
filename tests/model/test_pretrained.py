from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from alexnet_model import Contract, pretrained
from alexnet_model.architectures import build
from alexnet_model.checkpoint import sha256_of_weights
from alexnet_model.class_names import imagenet_class_names
from alexnet_model.errors import CheckpointError
from alexnet_model.pretrained import checkpoint_from, checkpoint_from_url


def test_imagenet_has_1000_class_names() -> None:
    names = imagenet_class_names()
    assert len(names) == 1000
    assert all(name == name.strip() != "" for name in names)
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


def named_by_hash(path: Path, *, digits: int = 8) -> Path:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"alexnet-owt-{sha256[:digits]}.pth"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pth")


@pytest.fixture(scope="module")
def full_size(folder: Path) -> Path:
    """A `.pth` as torchvision publishes it: full-size AlexNet's state dict, its hash in the name."""
    torch.manual_seed(0)
    torch.save(build("alexnet", 1000).state_dict(), folder / "full")
    return named_by_hash(folder / "full")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A good file that is too small a network: enough for everything before the fit is checked."""
    torch.save(build("lenet", 10).state_dict(), tmp_path / "small")
    return named_by_hash(tmp_path / "small")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        checkpoint_from(str(path))
    line = str(refused.value)
    assert line.startswith(str(path)) or "tensor" in line
    assert "\n" not in line
    return line


def test_torchvisions_file_is_read(full_size: Path) -> None:
    checkpoint = checkpoint_from(str(full_size))
    assert (checkpoint.architecture, checkpoint.width) == ("alexnet", 1.0)
    assert checkpoint.class_names == imagenet_class_names()
    assert checkpoint.contract == Contract()
    assert checkpoint.training["source"] == full_size.name
    torch.manual_seed(0)
    assert checkpoint.weights_sha256 == sha256_of_weights(build("alexnet", 1000).state_dict())


def test_a_file_that_is_not_the_one_in_its_name(small: Path) -> None:
    other = small.rename(small.with_name("alexnet-owt-7be5be79.pth"))
    line = refusal(other)
    assert "expected 7be5be79" in line
    assert hashlib.sha256(other.read_bytes()).hexdigest()[:8] in line


def test_a_longer_prefix_is_compared_whole(small: Path) -> None:
    good = named_by_hash(small, digits=64)
    wrong = good.rename(
        good.with_name(good.name.replace(".pth", "").rstrip("0123456789abcdef") + "0" * 64 + ".pth")
    )
    assert "as its name says" in refusal(wrong)


def test_a_name_without_a_hash(small: Path) -> None:
    assert "sha256sum" in refusal(small.rename(small.with_name("alexnet.pth")))


def test_weights_of_another_network(small: Path) -> None:
    assert "for alexnet (width 1, 1000 classes)" in refusal(small)


def test_missing(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "alexnet-owt-7be5be79.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 100, pickle.dumps({"a": 1})], ids=len
)
def test_not_a_state_dict(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert "no plain state dict" in refusal(named_by_hash(tmp_path / "file"))


@pytest.mark.parametrize("thing", [[1, 2], {"epoch": 3}, torch.ones(2)], ids=["list", "mapping", "tensor"])
def test_a_good_file_of_something_else(tmp_path: Path, thing: object) -> None:
    torch.save(thing, tmp_path / "file")
    assert "no plain state dict" in refusal(named_by_hash(tmp_path / "file"))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_a_pickle_bomb_is_refused_unexploded(tmp_path: Path, new_format: bool) -> None:
    mark = tmp_path / "unpickled"
    torch.save({"weight": Bomb(mark)}, tmp_path / "file", _use_new_zipfile_serialization=new_format)
    bomb = named_by_hash(tmp_path / "file")
    assert "no plain state dict" in refusal(bomb)
    assert not mark.exists()
    torch.load(bomb, weights_only=False)
    assert mark.exists()  # the bomb works


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(folder: Path) -> Iterator[Callable[[str], str]]:
    """URLs of the files in `folder`, from a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield lambda name: f"http://127.0.0.1:{server.server_port}/{name}"
        server.shutdown()
        thread.join()


def test_a_download_is_checked_and_kept(
    served: Callable[[str], str], full_size: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "IMAGENET_URL", served(full_size.name))
    first = checkpoint_from("imagenet")
    assert (tmp_path / "checkpoints" / full_size.name).read_bytes() == full_size.read_bytes()
    monkeypatch.setattr(pretrained, "IMAGENET_URL", f"http://127.0.0.1:9/{full_size.name}")
    assert checkpoint_from("imagenet").weights_sha256 == first.weights_sha256


def download_refusal(url: str, folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        checkpoint_from_url(url, folder)
    assert list(folder.iterdir()) == []
    line = str(refused.value)
    assert line.startswith(url)
    assert "\n" not in line
    return line


def test_a_download_with_another_hash_is_not_kept(
    served: Callable[[str], str], folder: Path, tmp_path: Path
) -> None:
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(b"not these weights")
    assert "hash" in download_refusal(served("alexnet-owt-7be5be79.pth"), tmp_path)


def test_a_download_that_is_not_there(served: Callable[[str], str], tmp_path: Path) -> None:
    assert "404" in download_refusal(served("alexnet-owt-00000000.pth"), tmp_path)


def test_a_download_without_a_server(tmp_path: Path) -> None:
    assert "refused" in download_refusal("http://127.0.0.1:9/alexnet-owt-00000000.pth", tmp_path)


def test_the_real_address_carries_the_hash_that_its_users_know() -> None:
    assert pretrained.IMAGENET_URL.endswith("/alexnet-owt-7be5be79.pth")


def test_our_own_checkpoints_open_by_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="alexnet train"):
        checkpoint_from(str(tmp_path / "none.safetensors"))
