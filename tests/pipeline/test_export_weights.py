"""`export_model` from weights and modules of the user: notes, names in the record, and refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from alexnet_model import Contract
from alexnet_model.errors import CheckpointError, DatasetError, UsageError
from alexnet_pipeline import ExportOptions, export_model
from alexnet_serving import lint

from ..stand_ins import small_networks

NAMES = ("tench, Tinca tinca", "a:b", "犬 and more", "class 3")


def options_in(folder: Path, **more: Any) -> ExportOptions:
    return ExportOptions(
        out=folder / "export",
        repository=folder / "models",
        contract=Contract(size=32, resize=32),
        precisions=("fp32",),
        max_batch=2,
        **more,
    )


def test_a_module_is_exported_with_its_class_names(tmp_path: Path) -> None:
    module = small_networks.SmallResNet(4)
    for index, (part, name) in enumerate(itertools.product(("train", "val"), NAMES)):
        (tmp_path / "images" / part / name).mkdir(parents=True)
        Image.new("L", (8, 8), 30 * index).save(tmp_path / "images" / part / name / "0.png")
    options = options_in(tmp_path, classes=NAMES, evaluation=str(tmp_path / "images"))
    result = export_model(module, options)
    model = result.manifest.model
    assert (model.architecture, model.class_names, model.options) == ("SmallResNet", NAMES, {})
    assert result.manifest.contract.size == 32
    assert result.manifest.artifacts[0].decision.accepted
    assert lint(result.repository) == ()
    (few,) = result.notes
    assert few.startswith("Only 4 test images: one of them is 25.0 percentage points of the accuracy.")


def test_weights_of_a_users_network_are_exported_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(small_networks.__file__)
    (tmp_path / "my_networks.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    network = small_networks.any_resnet(num_classes=4, width=4)
    torch.save({"epoch": 1, "model": network.state_dict(), "ema": network.state_dict()}, "weights.pth")
    more: dict[str, Any] = {"architecture": "my_networks:any_resnet", "architecture_options": {"width": 4}}
    result = export_model("weights.pth", options_in(tmp_path, **more))
    model = result.manifest.model
    assert (model.architecture, model.options) == ("my_networks:any_resnet", {"width": 4})
    assert model.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert model.training["source"] == "weights.pth"
    taken, named = result.notes
    assert "Took model; to take another: --key ema" in taken
    assert named.startswith("The classes are named class_0 to class_3.")


def test_missing_images_are_reported_before_the_weights_are_read(tmp_path: Path) -> None:
    options = options_in(tmp_path, calibration=str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="nowhere: got no such file or folder"):
        export_model(tmp_path / "no_weights.pth", options)


def test_weights_of_another_network_write_nothing(tmp_path: Path) -> None:
    torch.save(small_networks.SmallResNet(4).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="differ from alexnet"):
        export_model(tmp_path / "weights.pth", options_in(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": NAMES}, "classes: got the folder"),
        ({"key": "ema"}, "key: got the folder"),
        ({"architecture": "lenet"}, "architecture: got the folder"),
        ({"architecture_options": {"width": 2}}, "architecture options: got the folder"),
        ({"contract": Contract()}, "contract: got the folder"),
    ],
)
def test_options_for_weights_do_not_go_with_a_folder(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        export_model(tmp_path, ExportOptions(repository=tmp_path / "models", **options))
