from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_model import Contract
from alexnet_model.architectures import ARCHITECTURES
from alexnet_model.checkpoint import load_checkpoint
from alexnet_model.errors import DatasetError, LossNotFinite, UsageError
from alexnet_training import TrainingOptions, TrainingReport, start, train
from alexnet_training import splits as splits_module
from alexnet_training.resume import resume_path

pytestmark = pytest.mark.slow


def small(folder: Path, **changes: object) -> TrainingOptions:
    values: dict[str, object] = {
        "data": str(folder),
        "width": 0.05,
        "epochs": 3,
        "batch_size": 8,
        "seed": 7,
        "device": "cpu",  # where equal options give equal weights
        **changes,
    }
    return TrainingOptions(**values)  # type: ignore[arg-type]


Calls = list[tuple[str, int, int, str]]


@pytest.fixture(scope="module")
def calls() -> Calls:
    return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "checkpoint.safetensors"


@pytest.fixture(scope="module")
def report(stripes: Path, out: Path, calls: Calls) -> TrainingReport:
    """One short run that several tests inspect."""

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        calls.append((stage, done, total, note))

    return train(small(stripes, epochs=6), out, progress=note)


def test_training_reduces_the_loss(report: TrainingReport) -> None:
    # 0.04 to 0.84 with 16 seeds: so few steps depend on the machine's rounding.
    assert report.epochs[-1].loss < 0.95 * report.epochs[0].loss
    assert report.test_accuracy == report.epochs[-1].validation
    assert report.test_accuracy.images == 12


def test_the_checkpoint_on_disk_equals_the_returned_one(report: TrainingReport, out: Path) -> None:
    loaded = load_checkpoint(out)
    assert loaded.weights_sha256 == report.checkpoint.weights_sha256
    assert (loaded.architecture, loaded.options) == ("alexnet", {"width": 0.05})
    assert loaded.class_names == ("lying", "upright")
    assert loaded.contract == Contract()
    assert loaded.training == report.checkpoint.training
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_training_record_has_data_options_results_and_versions(
    report: TrainingReport, stripes: Path
) -> None:
    record = json.loads(json.dumps(report.checkpoint.training))
    assert record["data"] == str(stripes)
    assert record["images"] == {"train": 32, "validation": 12, "test": 12}
    assert record["unreadable"] == {"count": 0, "names": []}
    assert (record["seed"], record["epochs"], record["steps"], record["batch_size"]) == (7, 6, 24, 8)
    assert record["learning_rate"] == 2e-3
    assert (record["pretrained"], record["new_layers"], record["frozen"]) == (None, [], [])
    assert record["computed_in"] in ("bf16 autocast", "fp32")
    assert record["test_accuracy"] == {
        "correct": report.test_accuracy.correct,
        "images": 12,
        "correct_in_top_5": 12,
    }
    assert record["recipe"]["name"] == "digits"
    assert record["recipe"]["optimiser"] == "adam"
    assert "core" in record["device"]
    assert record["loss"] == report.epochs[-1].loss
    assert record["seconds"] > 0
    assert record["versions"]["torch"] == torch.__version__
    assert "core" in record["machine"]


@pytest.mark.usefixtures("report")
def test_progress_is_reported_for_every_step(calls: Calls) -> None:
    for epoch in range(1, 7):
        steps = [call for call in calls if call[0] == f"training epoch {epoch}/6"]
        assert [(done, total) for _, done, total, _ in steps] == [(step, 4) for step in range(1, 5)]
        for *_, note in steps:
            assert "loss " in note
            assert "accuracy " in note
    stages = list(dict.fromkeys(stage for stage, *_ in calls))
    assert stages[:2] == ["reading train", "reading validation"]
    assert all(done <= total for _, done, total, _ in calls)


def test_the_callers_generator_and_deterministic_mode_are_restored(stripes: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert not torch.are_deterministic_algorithms_enabled()
    train(small(stripes, epochs=1), tmp_path / "out.safetensors")
    assert not torch.are_deterministic_algorithms_enabled()
    torch.testing.assert_close(torch.rand(4), expected)


def hash_of(options: TrainingOptions, folder: Path) -> str:
    return train(options, folder / "out.safetensors").checkpoint.weights_sha256


def test_equal_seeds_give_equal_weights(stripes: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = hash_of(small(stripes), tmp_path)
    torch.manual_seed(2)  # the caller's seed has no effect
    assert hash_of(small(stripes), tmp_path) == first
    assert hash_of(small(stripes, seed=8), tmp_path) != first


def test_images_from_disk_give_the_same_weights_as_from_memory(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = hash_of(small(stripes, epochs=2), tmp_path)
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)
    assert hash_of(small(stripes, epochs=2), tmp_path) == kept


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains(architecture: str, stripes: Path, tmp_path: Path) -> None:
    width = 1.0 if architecture == "lenet" else 0.05
    report = train(
        small(stripes, architecture=architecture, width=width, epochs=1), tmp_path / "out.safetensors"
    )
    assert report.checkpoint.architecture == architecture
    assert load_checkpoint(tmp_path / "out.safetensors").network()


def test_lenet_trains_on_the_digits(tmp_path: Path) -> None:
    report = train(TrainingOptions(architecture="lenet", epochs=1), tmp_path / "out.safetensors")
    record = report.checkpoint.training
    assert record["images"] == {"train": 1293, "validation": 144, "test": 360}
    assert record["steps"] == 40
    assert report.test_accuracy.images == 360


def test_fewer_images_than_a_batch_make_one_step(own_stripes: Path, tmp_path: Path) -> None:
    report = train(small(own_stripes, epochs=2, batch_size=500), tmp_path / "out.safetensors")
    assert report.checkpoint.training["steps"] == 2


def test_unreadable_images_are_named_and_counted(own_stripes: Path, tmp_path: Path) -> None:
    for index in range(12):
        for name in ("lying", "upright"):
            (own_stripes / f"train/{name}/{index:02d}.png").write_bytes(b"no image")
    report = train(small(own_stripes, epochs=1), tmp_path / "out.safetensors")
    assert len(report.unreadable) == 24
    record = report.checkpoint.training["unreadable"]
    assert record["count"] == 24
    assert len(record["names"]) == 20
    assert record["names"][0] == "train/lying/00.png"
    assert report.checkpoint.training["images"]["train"] == 8


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"architecture": "resnet"}, UsageError, "architecture"),
        ({"width": 0.0}, UsageError, "width"),
        ({"data": "no/such/folder"}, DatasetError, "no/such/folder"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_refused_run_writes_nothing(
    stripes: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        train(small(stripes, **changes), tmp_path / "new" / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_output_is_refused(stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^out: got the folder"):
        train(small(stripes), tmp_path)


def test_an_output_below_a_file_is_refused_before_training(stripes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    calls: list[str] = []

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        calls.append(stage)

    with pytest.raises(OSError, match="file"):
        train(small(stripes), tmp_path / "file" / "out.safetensors", progress=note)
    assert calls == []
    assert (tmp_path / "file").read_text() == "content"


def test_a_loss_that_is_not_finite_stops_the_run(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "default_learning_rate", lambda *_: 1e30)  # `TrainingOptions` refuses it
    with pytest.raises(LossNotFinite, match=r"epoch 1, step 2: got a loss of .*rate, which is 1e\+30\.$"):
        train(small(stripes), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


DISK_FULL = """
import resource, sys
from pathlib import Path
from alexnet_training import TrainingOptions, train

folder, out, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    train(TrainingOptions(data=folder, width=0.05, epochs=2, batch_size=8), out)
except OSError as error:
    print(error.strerror, error.filename)
"""


def test_a_full_disk_leaves_the_old_checkpoint_and_no_partial_file(stripes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("an older checkpoint")
    command = [sys.executable, "-c", DISK_FULL, str(stripes), str(out), "100000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["File", "too", "large", str(resume_path(out))]
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert out.read_text() == "an older checkpoint"
