from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_model import Contract, splits_from
from alexnet_model.classifier import Classifier
from alexnet_model.errors import DatasetError, TrainingError, TrainingStopped
from alexnet_model.progress import silent
from alexnet_training import TrainingOptions, streaming, train
from alexnet_training import splits as splits_module
from alexnet_training.devices import compute_on
from alexnet_training.loop import accuracy_of
from alexnet_training.splits import notes_on_duplicates, prepared_from_splits
from alexnet_training.streaming import StreamedSplit, default_workers, signals_held

from .conftest import striped

CONTRACT = Contract(size=24, resize=32)


def train_split(folder: Path, *, workers: int = 2) -> StreamedSplit:
    return StreamedSplit(splits_from(str(folder)).train, CONTRACT, replace_unreadable=True, workers=workers)


def test_the_batches_do_not_depend_on_the_number_of_workers(stripes: Path) -> None:
    order = np.random.default_rng(3).permutation(32)
    one, two = (train_split(stripes, workers=count).batches(order, 5) for count in (1, 2))
    for (images, labels), (others, other_labels) in zip(one, two, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)


def test_an_epoch_can_begin_at_any_batch(stripes: Path) -> None:
    split, order = train_split(stripes), np.random.default_rng(3).permutation(32)
    whole, rest = list(split.batches(order, 4)), list(split.batches(order[3 * 4 :], 4))
    assert len(rest) == 5
    for (images, labels), (others, other_labels) in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)


def test_workers_draw_no_numbers_from_the_generator_of_the_training(stripes: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(train_split(stripes).batches(np.arange(32), 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_that_is_removed_later_is_named_and_the_next_one_taken(own_stripes: Path) -> None:
    split = train_split(own_stripes)
    expected = [images for images, _ in split.batches(np.array([4]), 1)]
    (own_stripes / "train/lying/03.png").unlink()
    ((images, labels),) = split.batches(np.array([3]), 1)
    np.testing.assert_array_equal(images, expected[0])
    assert labels.tolist() == [0]
    (left_out,) = split.unreadable
    assert left_out.name == "train/lying/03.png"
    assert "no such file" in left_out.reason


def test_an_image_that_is_changed_during_the_run_is_named_and_left_out(own_stripes: Path) -> None:
    changed = own_stripes / "train/lying/03.png"
    os.utime(changed, ns=(0, 0))
    split = train_split(own_stripes)
    striped(False, 999).save(changed)
    list(split.batches(np.arange(32), 8))
    (left_out,) = split.unreadable
    assert left_out.name == "train/lying/03.png"
    assert "changed during the run" in left_out.reason


def test_an_image_with_a_time_in_the_future_is_no_changed_one(own_stripes: Path) -> None:
    os.utime(own_stripes / "train/lying/03.png", (2**33, 2**33))
    split = train_split(own_stripes)
    list(split.batches(np.arange(32), 8))
    assert split.unreadable == ()


def test_many_unreadable_images_in_a_row_stop_the_training(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MAX_UNREADABLE_IN_A_ROW", 5)
    split = train_split(own_stripes)
    for path in (own_stripes / "train/lying").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"5 images in a row that cannot be read.*first reason"):
        list(split.batches(np.arange(32), 8))
    assert not multiprocessing.active_children()


def test_a_validation_split_of_unreadable_images_is_refused(own_stripes: Path) -> None:
    split = StreamedSplit(
        splits_from(str(own_stripes)).validation, CONTRACT, replace_unreadable=False, workers=1
    )
    shutil.rmtree(own_stripes / "val")
    with pytest.raises(DatasetError, match=r"\(validation\): got no readable image among 12"):
        list(split.batches(np.arange(12), 8))


def test_an_unreadable_validation_image_is_left_out_of_the_accuracy(own_stripes: Path) -> None:
    dataset = splits_from(str(own_stripes)).validation
    (own_stripes / dataset.images[0].name).write_bytes(b"")
    split = StreamedSplit(dataset, CONTRACT, replace_unreadable=False, workers=1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 2))
    found = accuracy_of(Classifier(network, CONTRACT), compute_on("cpu"), split, "accuracy", silent)
    assert found.images == 11


def test_duplicates_between_large_splits_are_named(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)
    shutil.copy(own_stripes / "train/lying/03.png", own_stripes / "val/lying/copy.png")
    splits = splits_from(str(own_stripes))
    prepared = prepared_from_splits(splits, CONTRACT, keep_margin=False, progress=silent)
    seen: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append((stage, done, total))

    (note,) = notes_on_duplicates(splits, prepared, progress)
    assert "1 of 13 validation images" in note
    assert "val/lying/copy.png (train/lying/03.png)" in note
    assert seen[-1][0] == "finding duplicates"
    assert seen[-1][1] == seen[-1][2]


def test_a_signal_that_another_thread_receives_is_held_too() -> None:
    received: list[str] = []
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    handler = signal.signal(signal.SIGTERM, lambda *_: received.append("handled"))
    try:
        with signals_held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            received.append("end of the block")
        assert received == ["end of the block", "handled"]
    finally:
        signal.signal(signal.SIGTERM, handler)
        done.set()
        other.join()


def test_a_killed_worker_is_one_line(stripes: Path) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    batches = train_split(stripes).batches(np.tile(np.arange(32), 20), 4)
    next(batches)
    pid = multiprocessing.active_children()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match=rf"worker process {pid}: got its end before"):
        list(batches)
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_workers_outlive_the_signals_that_the_main_process_gets_too(stripes: Path) -> None:
    batches = train_split(stripes).batches(np.tile(np.arange(32), 4), 4)
    next(batches)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    assert len(list(batches)) == 31
    assert not multiprocessing.active_children()


def test_a_class_without_a_readable_image_is_found_before_the_training(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)
    for path in sorted((own_stripes / "train/lying").iterdir())[:15]:
        path.write_bytes(b"")
    prepared = prepared_from_splits(splits_from(str(own_stripes)), CONTRACT, progress=silent)
    assert [note.partition(" are decoded")[0] for note in prepared.notes] == [
        "The 32 train images",
        "The 12 validation images",
    ]
    (own_stripes / "train/lying/15.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"class 'lying': got no readable image.*0 bytes"):
        prepared_from_splits(splits_from(str(own_stripes)), CONTRACT, progress=silent)


def test_a_streamed_run_that_was_stopped_in_an_epoch_gives_the_weights_of_one_in_memory(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = Contract(size=64, resize=72)
    options = TrainingOptions(data=str(stripes), width=0.02, epochs=1, batch_size=8, contract=contract)
    expected = train(options, tmp_path / "in_memory.safetensors")
    assert expected.notes == ()

    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)
    steps: list[str] = []

    def note_step(stage: str, done: int, total: int, note: str = "") -> None:
        steps.extend([stage] * stage.startswith("training"))

    with pytest.raises(TrainingStopped, match="epoch 1, step 3"):
        train(options, tmp_path / "out.safetensors", progress=note_step, should_stop=lambda: len(steps) == 3)
    report = train(options, tmp_path / "out.safetensors")
    assert "The 32 train images are decoded by" in report.notes[0]
    assert report.test_accuracy == expected.test_accuracy
    for name, weights in expected.checkpoint.weights.items():
        assert torch.equal(report.checkpoint.weights[name], weights), name


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert default_workers() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert default_workers() == 1
