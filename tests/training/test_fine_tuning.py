"""Fine-tune pretrained weights on the images of examples/draw_shapes.py, and train a user's own network."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet_export.convert import onnx_from_checkpoint
from alexnet_model import Contract
from alexnet_model.architectures import build
from alexnet_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.errors import AlexnetError, TrainingError, UsageError
from alexnet_training import TrainingOptions, TrainingReport, train
from alexnet_training.recipes import digits
from alexnet_training.resume import resume_path
from alexnet_training.start import Start, start_of

from ..stand_ins import small_networks

SCRIPT = Path(__file__).parents[2] / "examples" / "draw_shapes.py"
CONTRACT = Contract(size=32, resize=36)
RESNET = f"{small_networks.__name__}:small_resnet"
FROZEN = ("conv1", "bn1", "layer1")
SHAPES = ("circle", "cross", "square", "star", "triangle")
# Classes that are not in the folder: their images are what the network was trained on before.
OTHER_SHAPES = {
    "arrow": [(1, 0), (0, 0.8), (0, 0.3), (-1, 0.3), (-1, -0.3), (0, -0.3), (0, -0.8)],
    "corner": [(-0.7, -0.7), (-0.1, -0.7), (-0.1, 0.1), (0.7, 0.1), (0.7, 0.7), (-0.7, 0.7)],
    "hexagon": [(1, 0), (0.5, 0.87), (-0.5, 0.87), (-1, 0), (-0.5, -0.87), (0.5, -0.87)],
    "kite": [(1, 0), (0, 0.5), (-0.6, 0), (0, -0.5)],
    "rectangle": [(1, 0.35), (-1, 0.35), (-1, -0.35), (1, -0.35)],
    "tee": [(-0.8, -0.7), (0.8, -0.7), (0.8, -0.1), (0.3, -0.1), (0.3, 0.7), (-0.3, 0.7), (-0.3, -0.1)],
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example: five classes, 40 images each."""
    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet that tells other shapes apart, on images of 32 pixels."""
    draw: Callable[..., Any] = runpy.run_path(str(SCRIPT))["drawn"]
    rng = np.random.default_rng(1)
    labels = torch.arange(6).repeat(100)  # (600,)
    drawings = [draw(list(OTHER_SHAPES.values())[label], rng) for label in labels]
    images = torch.from_numpy(np.stack([CONTRACT.prepared(image) for image in drawings]))  # (600, 32, 32, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = small_networks.small_resnet(6, width=16)
        classifier = Classifier(network, CONTRACT).train()
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(6):
            for batch in torch.randperm(600).reshape(20, 30):
                _, logits = classifier(images[batch])
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(logits, labels[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    path = tmp_path_factory.mktemp("pretrained") / "pretrained.safetensors"
    checkpoint = Checkpoint(
        architecture=RESNET,
        options={"width": 16},
        class_names=tuple(OTHER_SHAPES),
        contract=CONTRACT,
        training={},
        weights=network.state_dict(),
    )
    save_checkpoint(checkpoint, path)
    return path


@pytest.fixture
def options(shapes: Path, pretrained: Path) -> TrainingOptions:
    return TrainingOptions(data=str(shapes), architecture=RESNET, weights=pretrained, freeze=FROZEN)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "checkpoint.safetensors"


@pytest.fixture(scope="module")
def report(shapes: Path, pretrained: Path, out: Path) -> TrainingReport:
    """One fine-tuning that several tests inspect."""
    options = TrainingOptions(
        data=str(shapes), architecture=RESNET, weights=pretrained, freeze=FROZEN, epochs=16
    )
    return train(options, out)


@pytest.mark.slow
def test_40_images_of_each_class_are_enough(report: TrainingReport) -> None:
    assert report.checkpoint.class_names == SHAPES
    assert report.test_accuracy.images == 40
    assert report.test_accuracy.share >= 0.6  # three times chance
    assert report.epochs[-1].loss < 0.8 * report.epochs[0].loss


@pytest.mark.slow
def test_frozen_modules_keep_every_bit_and_the_others_change(
    report: TrainingReport, pretrained: Path
) -> None:
    before = load_checkpoint(pretrained, architecture=RESNET).weights
    after = report.checkpoint.weights
    for name, tensor in after.items():
        frozen = name.startswith(tuple(f"{module}." for module in FROZEN))
        assert torch.equal(tensor, before[name]) == frozen, name
    assert {name for name in after if "running_mean" in name and torch.equal(after[name], before[name])} == {
        "bn1.running_mean",
        "layer1.bn1.running_mean",
        "layer1.bn2.running_mean",
    }


@pytest.mark.slow
def test_the_result_is_loaded_and_exported_with_the_contract_of_the_weights(
    report: TrainingReport, out: Path, tmp_path: Path
) -> None:
    loaded = load_checkpoint(out, architecture=RESNET)
    assert loaded.weights_sha256 == report.checkpoint.weights_sha256
    assert (loaded.options, loaded.contract) == ({"width": 16}, CONTRACT)
    onnx_from_checkpoint(loaded, tmp_path / "model.onnx", max_batch=4)
    assert (tmp_path / "model.onnx").stat().st_size > 0


@pytest.mark.slow
def test_the_record_names_the_weights_the_new_layer_and_what_is_frozen(
    report: TrainingReport, pretrained: Path, out: Path
) -> None:
    record = load_checkpoint(out, architecture=RESNET).training
    assert record["pretrained"] == {
        "source": str(pretrained),
        "weights_sha256": load_checkpoint(pretrained, architecture=RESNET).weights_sha256,
        "learning_rate": pytest.approx(record["learning_rate"] / 10),
    }
    assert (record["new_layers"], record["frozen"]) == (["fc"], list(FROZEN))
    assert (record["epochs"], record["steps"]) == (16, 64)
    assert report.notes == ("Replaced the layer fc of 6 classes by one of 5.",)


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_weights(options: TrainingOptions, tmp_path: Path) -> None:
    options = replace(options, epochs=2)
    whole = train(options, tmp_path / "whole.safetensors").checkpoint.weights_sha256
    out = tmp_path / "out.safetensors"

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training epoch 2/2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, out, progress=interrupt)
    state = resume_path(out).read_bytes()

    other = tmp_path / "other.safetensors"
    assert options.weights is not None
    checkpoint = load_checkpoint(Path(options.weights), architecture=RESNET)
    changed = {**checkpoint.weights, "bn1.bias": checkpoint.weights["bn1.bias"] + 1}
    save_checkpoint(replace(checkpoint, weights=changed), other)
    for changes, word in (({"freeze": ("conv1",)}, "freeze"), ({"weights": other}, "weights")):
        with pytest.raises(TrainingError, match=f"an unfinished run: got {word} "):
            train(replace(options, **changes), out)
    assert resume_path(out).read_bytes() == state

    report = train(options, out)
    assert report.epochs_resumed == 1
    assert report.checkpoint.weights_sha256 == whole


def start(options: TrainingOptions, classes: int = 5, **changes: Any) -> Start:
    torch.manual_seed(0)
    return start_of(replace(options, **changes), classes, note=lambda _: None)


def test_the_new_layer_has_a_learning_rate_ten_times_that_of_the_others(options: TrainingOptions) -> None:
    begun = start(options)
    names = {parameter: name for name, parameter in begun.network.named_parameters()}
    new, others = begun.optimiser(digits()).param_groups
    assert [names[p] for p in new["params"]] == ["fc.weight", "fc.bias"]
    assert {names[p].split(".")[0] for p in others["params"]} == {"layer2"}
    assert new["peak_learning_rate"] == pytest.approx(10 * others["peak_learning_rate"])
    begun = start(options, learning_rate=0.3, body_learning_rate=0.2)
    assert [group["peak_learning_rate"] for group in begun.optimiser(digits()).param_groups] == [0.3, 0.2]


@pytest.mark.parametrize("classes", [5, 6, 7])
def test_only_the_last_layer_is_new_for_any_number_of_classes(
    options: TrainingOptions, pretrained: Path, classes: int
) -> None:
    before = load_checkpoint(pretrained, architecture=RESNET).weights
    begun = start(options, classes)
    assert begun.new_layers == ("fc",)
    after = begun.network.state_dict()
    assert after["fc.weight"].shape == (classes, 32)
    assert after["fc.weight"].std().item() == pytest.approx(0.01, rel=0.3)
    assert not after["fc.bias"].any()
    for name, tensor in after.items():
        assert name.startswith("fc.") or torch.equal(tensor, before[name]), name


@pytest.fixture
def alexnet(tmp_path: Path) -> Path:
    """Random weights of a narrow AlexNet as another program would save them."""
    path = tmp_path / "alexnet.pth"
    torch.save({"model": build("alexnet", 10, width=0.05).state_dict()}, path)
    return path


def test_an_alexnet_of_another_program_gets_a_new_last_layer(shapes: Path, alexnet: Path) -> None:
    options = TrainingOptions(data=str(shapes), weights=alexnet, width=0.05, freeze=("features",))
    begun = start(options)
    assert (begun.architecture, begun.options, begun.new_layers) == (
        "alexnet",
        {"width": 0.05},
        ("classifier.6",),
    )
    assert begun.contract == Contract()
    assert not any(p.requires_grad for p in begun.network.features.parameters())  # type: ignore[union-attr]


class ConvolutionAsLast(nn.Sequential):
    """As SqueezeNet: a convolution of one pixel returns the logits."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=8),
            nn.ReLU(),
            nn.Conv2d(4, num_classes, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class MoreInTraining(small_networks.SmallResNet):
    """As GoogLeNet: returns the logits of another head in training."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


def named_width(num_classes: int, width: str = "narrow") -> nn.Module:
    return small_networks.SmallResNet(num_classes, {"narrow": 4, "wide": 8}[width])


def saved(network: nn.Module, folder: Path) -> Path:
    path = folder / f"{type(network).__name__}.pth"
    torch.save(network.state_dict(), path)
    return path


def test_a_convolution_can_be_the_last_layer(tmp_path: Path) -> None:
    weights = saved(ConvolutionAsLast(10), tmp_path)
    begun = start(TrainingOptions(architecture=f"{__name__}:ConvolutionAsLast", weights=weights))
    assert begun.new_layers == ("2",)
    assert begun.network.state_dict()["2.weight"].shape == (5, 4, 1, 1)


def test_a_users_network_without_weights_keeps_the_initialisation_of_its_factory() -> None:
    begun = start(TrainingOptions(architecture=RESNET, architecture_options={"width": 4}))
    torch.manual_seed(0)
    expected = small_networks.small_resnet(5, width=4).state_dict()
    for name, tensor in begun.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert (begun.options, begun.pretrained, begun.new_layers) == ({"width": 4}, None, ())


def test_a_users_factory_can_call_something_else_its_width() -> None:
    architecture = f"{__name__}:named_width"
    begun = start(TrainingOptions(architecture=architecture, architecture_options={"width": "wide"}))
    assert begun.network.state_dict()["fc.weight"].shape == (5, 16)


@pytest.mark.slow
def test_a_users_network_trains_from_random_weights(stripes: Path, tmp_path: Path) -> None:
    options = TrainingOptions(data=str(stripes), architecture=RESNET, width=4, epochs=1, batch_size=8)
    report = train(options, tmp_path / "out.safetensors")
    assert load_checkpoint(tmp_path / "out.safetensors", architecture=RESNET).options == {"width": 4}
    assert report.checkpoint.class_names == ("lying", "upright")


def refusal(options: TrainingOptions, **changes: Any) -> str:
    with pytest.raises(AlexnetError) as refused:
        start(options, **changes)
    line = str(refused.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (("layer",), "got 'layer', which is no module of .*expected a module such as conv1, .*layer1"),
        (("conv1.weight",), "got 'conv1.weight', which is no module"),
        (("",), "got '', which is no module"),
        (("conv1", "fc"), r"got 'fc', which holds the new fc.weight"),
        (("conv1", "bn1", "layer1", "layer2", "avgpool", "fc"), "freeze: got 'fc'"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(
    options: TrainingOptions, freeze: tuple[str, ...], words: str
) -> None:
    line = refusal(options, freeze=freeze)
    assert line.startswith("freeze: ")
    assert re.search(words, line), line


def test_other_wrong_weights_and_networks_are_one_line(
    options: TrainingOptions, alexnet: Path, tmp_path: Path
) -> None:
    everything = ("conv1", "bn1", "layer1", "layer2", "fc")
    line = refusal(options, weights=None, freeze=everything)
    assert "expected at least one module that is trained" in line
    line = refusal(TrainingOptions(freeze=("features",)))
    assert line.startswith("freeze: got 'features' of a network with random weights")
    assert "no such file" in refusal(TrainingOptions(weights=tmp_path / "missing.pth"))
    line = refusal(TrainingOptions(weights=alexnet, architecture="lenet"))
    assert "weights that differ from lenet" in line
    assert "--arch alexnet --arch-option width=0.05" in line
    line = refusal(options, architecture="alexnet")
    assert f"a checkpoint of the architecture {RESNET}" in line
    assert "if you trust that code" in refusal(options, architecture=None)
    line = refusal(options, architecture_options={"width": 3})
    assert "a checkpoint, which holds its own" in line


def test_networks_that_cannot_have_the_classes_of_the_folder_are_one_line(tmp_path: Path) -> None:
    seven = TrainingOptions(architecture=f"{small_networks.__name__}:seven_classes")
    assert "got 7 logits, expected 5, one for each class" in refusal(seven)
    weights = saved(small_networks.SmallResNet(7), tmp_path)
    line = refusal(replace(seven, weights=weights))
    assert "got no layer whose size depends on the number of classes" in line
    assert line.endswith("Give its factory the argument num_classes, and use it for the last layer.")
    line = refusal(TrainingOptions(architecture=f"{__name__}:MoreInTraining"))
    assert "got an output of type tuple of 2, expected logits (N, classes)" in line


@pytest.mark.parametrize("name", ["key", "body_learning_rate"])
def test_options_of_weights_without_weights_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name.replace('_', ' ')}: got 0.5 without weights"):
        TrainingOptions(**{name: 0.5})  # type: ignore[arg-type]


def test_the_width_cannot_be_given_twice() -> None:
    with pytest.raises(UsageError, match=r"^width: got an architecture option width too"):
        TrainingOptions(width=0.5, architecture_options={"width": 0.25})


def test_the_script_draws_the_same_pixels_again_and_others_with_another_seed(
    shapes: Path, tmp_path: Path
) -> None:
    draw_shapes = runpy.run_path(str(SCRIPT))["draw_shapes"]
    draw_shapes(tmp_path / "same", images=2)
    draw_shapes(tmp_path / "other", images=2, seed=1)
    assert sorted(path.name for path in shapes.iterdir()) == list(SHAPES)
    assert len(list(shapes.rglob("*.png"))) == 200
    first = Path("circle/00.png")
    assert (tmp_path / "same" / first).read_bytes() == (shapes / first).read_bytes()
    assert (tmp_path / "other" / first).read_bytes() != (shapes / first).read_bytes()
