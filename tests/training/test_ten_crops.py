"""The accuracy over ten crops of each image, compared with crops that are cut out by hand."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alexnet_cli.main import run
from alexnet_model import Contract, load_checkpoint, splits_from
from alexnet_model.classifier import Classifier
from alexnet_model.progress import silent
from alexnet_training import splits as splits_module
from alexnet_training.devices import compute_on
from alexnet_training.loop import accuracy_of, ten_crops
from alexnet_training.splits import SplitInMemory, prepared_split, with_margin
from alexnet_training.state import Accuracy
from alexnet_training.streaming import StreamedSplit

CONTRACT = Contract(size=24, resize=32)
CLASSES = 8
Float64Array = npt.NDArray[np.float64]


def test_the_crops_are_the_corners_the_centre_and_their_mirror_images() -> None:
    image = torch.arange(4 * 4).reshape(1, 4, 4, 1).expand(1, 4, 4, 3)
    crops = [crop[0, :, :, 0].tolist() for crop in ten_crops(image, 2)]
    assert crops == [
        [[0, 1], [4, 5]],
        [[2, 3], [6, 7]],
        [[8, 9], [12, 13]],
        [[10, 11], [14, 15]],
        [[5, 6], [9, 10]],
        [[1, 0], [5, 4]],
        [[3, 2], [7, 6]],
        [[9, 8], [13, 12]],
        [[11, 10], [15, 14]],
        [[6, 5], [10, 9]],
    ]


def write_shards(root: Path, folder: Path) -> Path:
    """Write the images of a folder with `train/` and `val/` to a shard for each of them."""
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-0000.tar", "w") as tar:
            for number, path in enumerate(sorted((folder / split).rglob("*.png"))):
                label = b"1" if path.parent.name == "upright" else b"0"
                for name, content in ((f"{number}.png", path.read_bytes()), (f"{number}.cls", label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return root


def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, CLASSES))


def by_hand(folder: Path, model: torch.nn.Module) -> tuple[Accuracy, Accuracy]:
    """Return the accuracy over ten crops and over the centre alone, from the images' files."""
    wide = Contract(size=32, resize=32)
    weights, bias = (parameter.detach().double().numpy() for parameter in model.parameters())
    mean, std = np.array(CONTRACT.mean), np.array(CONTRACT.std)

    def probabilities(pixels: Float64Array) -> Float64Array:
        x = ((pixels / 255 - mean) / std).transpose(2, 0, 1).reshape(-1)
        logits = weights @ x + bias
        exponentials: Float64Array = np.exp(logits - logits.max())
        shares: Float64Array = exponentials / exponentials.sum()
        return shares

    counts = {"ten": [0, 0], "centre": [0, 0]}
    paths = sorted((folder / "val").rglob("*.png"))
    for path in paths:
        image, label = wide.prepared(path).astype(float), int(path.parent.name == "upright")
        crops = [image[:24, :24], image[:24, 8:], image[8:, :24], image[8:, 8:], image[4:28, 4:28]]
        of_crops = [probabilities(crop) for crop in crops] + [probabilities(crop[:, ::-1]) for crop in crops]
        for name, found in (("ten", sum(of_crops) / 10), ("centre", of_crops[4])):
            best = np.argsort(-found)
            counts[name][0] += int(best[0] == label)
            counts[name][1] += int(label in best[:5])
    ten, centre = (Accuracy(first, len(paths), in_top) for first, in_top in counts.values())
    return ten, centre


@pytest.mark.parametrize("kind", ["memory", "folder", "shards"])
def test_probabilities_of_ten_crops_are_averaged(
    kind: str, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_shards(tmp_path / "shards", stripes) if kind == "shards" else stripes
    if kind != "memory":
        monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)
    test = splits_from(str(source)).test
    split = prepared_split(test, with_margin(CONTRACT), workers=1, progress=silent)
    assert isinstance(split, SplitInMemory if kind == "memory" else StreamedSplit)
    model = network()
    classifier, compute = Classifier(model, CONTRACT), compute_on("cpu")
    found = accuracy_of(classifier, compute, split, "accuracy", silent, crop=24)
    ten, centre = by_hand(stripes, model)
    assert found == ten
    assert found != centre  # otherwise this test would not notice that only the centre is classified
    narrow = prepared_split(test, CONTRACT, workers=1, progress=silent)
    assert accuracy_of(classifier, compute, narrow, "accuracy", silent) == centre


def test_the_command_prints_and_records_both_accuracies(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract, out = tmp_path / "contract.json", tmp_path / "out.safetensors"
    contract.write_text('{"size": 64, "resize": 72}', encoding="utf-8")
    command = ["train", "--data", str(stripes), "--width", "0.05", "--epochs", "1"]
    command += ["--contract", str(contract), "--ten-crop", "--workers", "2", "--out", str(out)]
    assert run(command) == 0
    record = load_checkpoint(out).training["ten_crop_accuracy"]
    screen = capsys.readouterr()
    share = record["correct"] / 12
    assert f"Over ten crops of each image {share:.1%} ({record['correct']} of 12)\n" in screen.out
    assert record.keys() == asdict(Accuracy(0, 1, 0)).keys()
    assert "No worker process was used, because all images fit into memory." in screen.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digits"], "ten crops: got digits, whose mirror images can be of another class"),
        ([], "ten crops: got a contract with resize stretch and size 64, which has no margin"),
    ],
)
def test_ten_crops_that_are_not_possible_are_refused_before_the_training(
    arguments: list[str], words: str, stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract, out = tmp_path / "contract.json", tmp_path / "out.safetensors"
    contract.write_text(json.dumps({"size": 64, "resize": "stretch"}), encoding="utf-8")
    command = ["train", "--data", str(stripes), "--contract", str(contract), "--width", "0.05", "--ten-crop"]
    assert run([*command, "--out", str(out), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {words}, expected ")
    assert line.endswith("Leave --ten-crop out.")
    assert not out.exists()
