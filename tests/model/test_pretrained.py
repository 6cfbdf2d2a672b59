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
    """A `.pth` as torchvision publishes it: full-size AlexNet, with its hash in the name."""
    torch.manual_seed(0)
    torch.save(build("alexnet", 1000).state_dict(), folder / "full")
    return named_by_hash(folder / "full")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A valid file with another network, for tests of what is checked before the network."""
    torch.save(build("lenet", 10).state_dict(), tmp_path / "small")
    return named_by_hash(tmp_path / "small")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        checkpoint_from(str(path))
    line = str(refused.value)
    assert line.startswith(str(path)) or "tensor" in line
    assert "\n" not in line
    return line


def test_torchvisions_file_becomes_a_checkpoint(full_size: Path) -> None:
    checkpoint = checkpoint_from(str(full_size))
    assert (checkpoint.architecture, checkpoint.options) == ("alexnet", {})
    assert checkpoint.class_names == imagenet_class_names()
    assert checkpoint.contract == Contract()
    assert checkpoint.training["source"] == full_size.name
    torch.manual_seed(0)
    assert checkpoint.weights_sha256 == sha256_of_weights(build("alexnet", 1000).state_dict())


def test_a_file_with_another_hash_than_in_its_name_is_refused(small: Path) -> None:
    other = small.rename(small.with_name("alexnet-owt-7be5be79.pth"))
    line = refusal(other)
    assert "expected 7be5be79" in line
    assert hashlib.sha256(other.read_bytes()).hexdigest()[:8] in line


def test_every_digit_of_a_longer_hash_is_compared(small: Path) -> None:
    good = named_by_hash(small, digits=64)
    wrong = good.rename(
        good.with_name(good.name.replace(".pth", "").rstrip("0123456789abcdef") + "0" * 64 + ".pth")
    )
    assert "as its name says" in refusal(wrong)


def test_a_name_without_a_hash_is_refused(small: Path) -> None:
    assert "sha256sum" in refusal(small.rename(small.with_name("alexnet.pth")))


def test_weights_of_another_network_are_refused(small: Path) -> None:
    assert "for alexnet (1000 classes)" in refusal(small)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "alexnet-owt-7be5be79.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 100, pickle.dumps({"a": 1})], ids=len
)
def test_files_that_are_not_pickled_state_dicts_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert "not a plain state dict" in refusal(named_by_hash(tmp_path / "file"))


@pytest.mark.parametrize("thing", [[1, 2], {"epoch": 3}, torch.ones(2)], ids=["list", "mapping", "tensor"])
def test_pickles_of_other_objects_are_refused(tmp_path: Path, thing: object) -> None:
    torch.save(thing, tmp_path / "file")
    assert "not a plain state dict" in refusal(named_by_hash(tmp_path / "file"))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, new_format: bool) -> None:
    mark = tmp_path / "unpickled"
    torch.save({"weight": Bomb(mark)}, tmp_path / "file", _use_new_zipfile_serialization=new_format)
    bomb = named_by_hash(tmp_path / "file")
    assert "not a plain state dict" in refusal(bomb)
    assert not mark.exists()
    torch.load(bomb, weights_only=False)
    assert mark.exists()  # the bomb works


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(folder: Path) -> Iterator[Callable[[str], str]]:
    """Serve `folder` on this machine; return the URL of a file in it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield lambda name: f"http://127.0.0.1:{server.server_port}/{name}"
        server.shutdown()
        thread.join()


def test_a_download_is_checked_and_cached(
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


def test_a_missing_download_is_reported(served: Callable[[str], str], tmp_path: Path) -> None:
    assert "404" in download_refusal(served("alexnet-owt-00000000.pth"), tmp_path)


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    assert "refused" in download_refusal("http://127.0.0.1:9/alexnet-owt-00000000.pth", tmp_path)


def test_the_real_url_has_the_published_hash() -> None:
    assert pretrained.IMAGENET_URL.endswith("/alexnet-owt-7be5be79.pth")


def test_a_missing_safetensors_file_names_the_train_command(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="alexnet train"):
        checkpoint_from(str(tmp_path / "none.safetensors"))
