from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from PIL import Image

from alexnet_model import Contract, pretrained
from alexnet_model.architectures import ARCHITECTURES, AlexNet, build
from alexnet_model.checkpoint import Checkpoint, save_checkpoint, sha256_of_weights
from alexnet_model.class_names import imagenet_class_names
from alexnet_model.errors import CheckpointError, ExportError, UsageError
from alexnet_model.pretrained import WeightsOptions, checkpoint_from, checkpoint_from_url

from ..networks import random_checkpoint
from ..stand_ins import small_networks


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


def test_torchvisions_file_gets_imagenets_names(full_size: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "IMAGENET_URL", f"https://example.org/{full_size.name}")
    notes: list[str] = []
    checkpoint = checkpoint_from(str(full_size), note=notes.append)
    assert (checkpoint.architecture, checkpoint.options) == ("alexnet", {})
    assert checkpoint.class_names == imagenet_class_names()
    assert checkpoint.contract == Contract()
    assert checkpoint.training["source"] == full_size.name
    torch.manual_seed(0)
    assert checkpoint.weights_sha256 == sha256_of_weights(build("alexnet", 1000).state_dict())
    assert notes == []


@pytest.fixture
def narrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same file for an AlexNet of a tenth of the width, in the place of the full one."""
    monkeypatch.setitem(ARCHITECTURES, "alexnet", lambda num_classes: AlexNet(num_classes, 0.1))
    torch.save(build("alexnet", 1000).state_dict(), folder / "narrow")
    return named_by_hash(folder / "narrow")


def test_other_weights_of_1000_classes_get_imagenets_names_only_on_request(narrow: Path) -> None:
    notes: list[str] = []
    checkpoint = checkpoint_from(narrow, note=notes.append)
    assert checkpoint.class_names[:2] == ("class_0", "class_1")
    assert notes == [
        "The classes are named class_0 to class_999. "
        "To name them: --classes imagenet, if they are ImageNet's, or --classes FILE."
    ]
    named = checkpoint_from(narrow, WeightsOptions(classes="imagenet"))
    assert named.class_names == imagenet_class_names()


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """A LeNet of three classes."""
    torch.manual_seed(0)
    torch.save(build("lenet", 3).state_dict(), folder / "small.pth")
    return folder / "small.pth"


def lenet(**more: Any) -> WeightsOptions:
    return WeightsOptions(architecture="lenet", **more)


def test_the_number_of_classes_is_read_from_the_weights(small: Path) -> None:
    notes: list[str] = []
    checkpoint = checkpoint_from(small, lenet(), note=notes.append)
    assert checkpoint.class_names == ("class_0", "class_1", "class_2")
    assert notes == ["The classes are named class_0 to class_2. To name them: --classes FILE."]
    assert checkpoint.network()(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


def test_names_come_from_a_file_or_as_they_are(small: Path, tmp_path: Path) -> None:
    names = ("cat: tabby", "犬", "a, b")
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    for classes in (str(tmp_path / "names.txt"), tmp_path / "names.txt", names, list(names)):
        assert checkpoint_from(small, lenet(classes=classes)).class_names == names


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("a", "b"), "class names: got 2 names, expected 3"),
        (("a", "b", "a"), "got 'a', as also for class 2"),
        ("imagenet", "ImageNet's class names: got 1000 names, expected 3"),
        ("nowhere.txt", "nowhere.txt: got no such file"),
    ],
)
def test_names_that_do_not_go_with_the_network_are_refused(small: Path, classes: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checkpoint_from(small, lenet(classes=classes))


def class_folders(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index, ord(name[0]), 0)).save(folder / name / f"{index}.png")
    return str(folder)


def test_names_come_from_class_folders_in_imagefolders_order(small: Path, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "images", "b", "Z", "a 1")
    assert checkpoint_from(small, lenet(datasets=(source,))).class_names == ("Z", "a 1", "b")
    notes: list[str] = []
    other = class_folders(tmp_path / "others", "x", "y")
    checkpoint = checkpoint_from(small, lenet(datasets=(other, source)), note=notes.append)
    assert checkpoint.class_names == ("Z", "a 1", "b")
    assert notes == [f"{other} has 2 class folders, and the network 3 outputs."]


def test_images_without_class_folders_name_nothing(small: Path, tmp_path: Path) -> None:
    source = class_folders(tmp_path, ".")
    assert checkpoint_from(small, lenet(datasets=(source,))).class_names[0] == "class_0"


@pytest.fixture
def small_networks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stand-ins importable as `small_networks`, as a user's module is."""
    monkeypatch.syspath_prepend(str(Path(small_networks.__file__).parent))


@pytest.mark.usefixtures("small_networks_importable")
def test_a_factory_with_a_fixed_number_of_classes_is_counted_by_its_logits(tmp_path: Path) -> None:
    torch.save(small_networks.seven_classes().state_dict(), tmp_path / "weights.pth")
    options = WeightsOptions(
        architecture="small_networks:seven_classes", contract=Contract(size=32, resize=32)
    )
    assert len(checkpoint_from(tmp_path / "weights.pth", options).class_names) == 7
    with pytest.raises(UsageError, match="got 2 names, expected 7"):
        checkpoint_from(tmp_path / "weights.pth", replace(options, classes=("a", "b")))


def test_a_size_that_the_network_does_not_take_is_one_line(small: Path) -> None:
    with pytest.raises(
        ExportError, match=r"network Sequential: got RuntimeError: .*The contract's size must be"
    ):
        checkpoint_from(small, lenet(contract=Contract(size=64, resize=64)))


def test_a_module_becomes_a_checkpoint_that_cannot_be_saved(tmp_path: Path) -> None:
    module = small_networks.SmallResNet(4).double().train()
    notes: list[str] = []
    options = WeightsOptions(classes=("a", "b", "c", "d"), contract=Contract(size=32, resize=32))
    checkpoint = checkpoint_from(torch.nn.DataParallel(module), options, note=notes.append)
    assert (checkpoint.architecture, checkpoint.class_names) == ("SmallResNet", ("a", "b", "c", "d"))
    assert notes == ["The weights were converted from float64 to float32."]
    assert module.training
    assert next(module.parameters()).dtype == torch.float64
    assert not checkpoint.network().training
    assert checkpoint.network() is not checkpoint.network()
    with pytest.raises(CheckpointError, match="a network of the class SmallResNet, without its factory"):
        save_checkpoint(checkpoint, tmp_path / "checkpoint.safetensors")


def test_a_module_with_broken_weights_or_options_for_files_is_refused() -> None:
    module = small_networks.SmallResNet(4)
    with pytest.raises(UsageError, match="the network is here already"):
        checkpoint_from(module, WeightsOptions(architecture="alexnet"))
    with torch.no_grad():
        module.fc.bias[1] = float("nan")
    with pytest.raises(CheckpointError, match=r"network SmallResNet: tensor fc.bias: got 1 of 4 values"):
        checkpoint_from(module)


def test_a_trained_checkpoint_with_broken_weights_is_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    weights["classifier.6.bias"][1] = float("inf")
    broken = replace(checkpoint, weights=weights)
    save_checkpoint(broken, tmp_path / "checkpoint.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint: tensor classifier.6.bias: got 1 of 10 values"):
        checkpoint_from(broken)
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors: tensor classifier.6.bias: got 1 of"):
        checkpoint_from(tmp_path / "checkpoint.safetensors")


OURS = "small_networks:small_resnet"


@pytest.fixture
def own(tmp_path: Path, small_networks_importable: None) -> Path:
    """A checkpoint of this project whose network is the user's."""
    checkpoint = Checkpoint(
        architecture=OURS,
        options={"width": 4},
        class_names=("a", "b"),
        contract=Contract(size=32, resize=32),
        training={},
        weights=small_networks.small_resnet(2, 4).state_dict(),
    )
    save_checkpoint(checkpoint, tmp_path / "checkpoint.safetensors")
    return tmp_path / "checkpoint.safetensors"


def test_a_checkpoint_file_alone_runs_no_factory(own: Path) -> None:
    with pytest.raises(CheckpointError, match=f"Pass --arch {OURS}, if you trust that code"):
        checkpoint_from(own)
    with pytest.raises(
        CheckpointError, match=f"got a checkpoint of the architecture {OURS}, expected alexnet"
    ):
        checkpoint_from(own, WeightsOptions(architecture="alexnet"))
    checkpoint = checkpoint_from(own, WeightsOptions(architecture=OURS))
    assert checkpoint.options == {"width": 4}
    assert checkpoint.network()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    "more",
    [{"key": "ema"}, {"options": {"width": 8}}, {"contract": Contract()}],
    ids=lambda more: next(iter(more)),
)
def test_options_for_weights_do_not_go_with_a_checkpoint(own: Path, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="one for a checkpoint, which holds its own"):
        checkpoint_from(own, WeightsOptions(architecture=OURS, **more))


def test_a_checkpoints_classes_can_be_renamed(own: Path) -> None:
    options = WeightsOptions(architecture=OURS, classes=("x", "y"))
    checkpoint = checkpoint_from(own, options)
    assert checkpoint.class_names == ("x", "y")
    assert checkpoint_from(checkpoint, WeightsOptions(classes=("u", "v"))).class_names == ("u", "v")
    with pytest.raises(UsageError, match="architecture: got one for a checkpoint"):
        checkpoint_from(checkpoint, WeightsOptions(architecture="alexnet"))


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
    served: Callable[[str], str], narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "IMAGENET_URL", served(narrow.name))
    first = checkpoint_from("imagenet")
    assert (tmp_path / "checkpoints" / narrow.name).read_bytes() == narrow.read_bytes()
    monkeypatch.setattr(pretrained, "IMAGENET_URL", f"http://127.0.0.1:9/{narrow.name}")
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
