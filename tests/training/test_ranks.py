"""What several processes share: batches, random numbers and devices, without starting processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # not in its `__all__`

from alexnet_cli.main import run
from alexnet_model.errors import OtherRankFailed, UsageError
from alexnet_training import TrainingOptions, train
from alexnet_training.augmentation import Augmentation, PaperAugmentation, mixup
from alexnet_training.devices import compute_on
from alexnet_training.ranks import (
    ALONE,
    BatchDropout,
    Ranks,
    StopRequested,
    joined_ranks,
    shared_by,
)

COUNT = 3


def ranks(count: int = COUNT) -> list[Ranks]:
    return [Ranks(rank, count, rank, count) for rank in range(count)]


def test_ranks_divide_every_batch_among_them() -> None:
    order = np.arange(12)[::-1]
    parts = [one.own_images(order, 6) for one in ranks()]
    assert [part.tolist() for part in parts] == [[11, 10, 5, 4], [9, 8, 3, 2], [7, 6, 1, 0]]
    assert ALONE.own_images(order[:5], 6).tolist() == order[:5].tolist()


def test_dropout_of_all_ranks_together_is_that_of_one_process() -> None:
    x = torch.rand(6, 5)
    torch.manual_seed(1)
    whole = nn.Dropout(0.4)(x)
    for rank, one in enumerate(ranks()):
        torch.manual_seed(1)
        part = BatchDropout(0.4, one)(x[2 * rank : 2 * rank + 2])
        assert torch.equal(part, whole[2 * rank : 2 * rank + 2])
        assert torch.equal(BatchDropout(0.4, one).eval()(x), x)


def test_dropout_is_replaced_anywhere_in_a_network_and_weights_keep_their_names() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.3), nn.BatchNorm1d(4)))

    first, cpu = ranks()[0], torch.device("cpu")
    shared = shared_by(first, network(), cpu)
    dropout = shared.get_submodule("1.0")
    assert isinstance(dropout, BatchDropout)
    assert dropout.p == 0.3
    assert shared.state_dict().keys() == network().state_dict().keys()
    assert type(shared_by(ALONE, network(), cpu).get_submodule("1.0")) is nn.Dropout


def augmentation(kind: str, one: Ranks) -> nn.Module:
    if kind == "paper-2012":
        return PaperAugmentation(24, torch.rand(3, 3), mirrorable=True, ranks=one)
    return Augmentation(24, mirrorable=True, ranks=one)


@pytest.mark.parametrize("kind", ["resized-crops", "paper-2012"])
def test_an_image_is_augmented_in_the_same_way_by_any_number_of_ranks(kind: str) -> None:
    def augmented(images: Tensor, one: Ranks) -> Tensor:
        torch.manual_seed(4)
        result: Tensor = augmentation(kind, one)(images)
        return result

    images = torch.randint(0, 256, (18, 32, 32, 3), dtype=torch.uint8)
    whole = augmented(images, ALONE)
    assert not torch.equal(whole[:6], augmented(images[:6], ALONE))
    for rank, one in enumerate(ranks()):
        own = slice(6 * rank, 6 * rank + 6)
        torch.testing.assert_close(augmented(images[own], one), whole[own], rtol=0, atol=1e-4)


def test_mixup_mixes_neighbours_with_one_share() -> None:
    images = torch.rand(5, 2, 2, 3)
    mixed = mixup(images, 0.5)
    assert mixed.partners.tolist() == [1, 0, 3, 2, 4]
    expected = mixed.share * images + (1 - mixed.share) * images[[1, 0, 3, 2, 4]]
    assert torch.equal(mixed.images, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processes": 0}, "processes: got 0, expected 1 to 4096"),
        (
            {"processes": 3},
            "batch size: got 32 for 3 processes, expected a multiple of 3, which all processes share. "
            "For example: --batch-size 33.",
        ),
    ],
)
def test_a_wrong_number_of_processes_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        TrainingOptions(**changes)
    assert str(refused.value) == words


def test_the_command_refuses_0_processes_before_it_starts_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--processes", "0", "--out", str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("Error: processes: got 0")


def test_the_command_refuses_more_processes_than_gpus_before_it_starts_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    command = ["train", "--processes", "4", "--device", "cuda", "--out", str(tmp_path / "out.safetensors")]
    assert run(command) == 2
    assert capsys.readouterr().err == (
        "Error: processes: got 4 on a machine with 2 GPUs, expected at most 2, or --device cpu\n"
    )


def test_one_process_where_several_were_requested_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "^processes: got 1 that was started, expected 2. Start them with alexnet train --processes 2, or"
    with pytest.raises(UsageError, match=words):
        train(TrainingOptions(processes=2), tmp_path / "out.safetensors")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match=r"^processes: got 3 that were started, expected 2"), joined_ranks(2):
        pass
    assert list(tmp_path.iterdir()) == []


def test_every_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)
    for one in ranks(2):
        assert compute_on("auto", one).device == torch.device("cuda", one.rank)
    assert used == [torch.device("cuda", 0), torch.device("cuda", 1)]
    for device in ("auto", "cuda"):
        with pytest.raises(UsageError) as refused:
            compute_on(device, ranks(3)[0])
        assert str(refused.value) == (
            "processes: got 3 on a machine with 2 GPUs, expected at most 2, or --device cpu"
        )
    with pytest.raises(UsageError, match=r"^device: got cuda:1 for 2 processes, expected auto, cuda or cpu"):
        compute_on("cuda:1", ranks(2)[0])
    assert compute_on("cpu", ranks(3)[0]).device == torch.device("cpu")


def outcomes(work: Callable[[Ranks], object]) -> list[object]:
    """Run the work of two ranks in threads, and return each one's result or error."""
    store = HashStore()

    def run_rank(rank: int) -> object:
        one = Ranks(rank, 2, rank, 2, store)
        try:
            return work(one)
        except Exception as error:
            return one.failure(error)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run_rank, range(2)))


def test_a_rank_with_other_options_is_named_with_what_differs() -> None:
    def compare(one: Ranks) -> None:
        one.check_equal("options", {"seed": 3 * one.rank, "epochs": 4, "width": None})

    first, second = outcomes(compare)
    assert isinstance(first, OtherRankFailed)
    assert str(second) == (
        "rank 1: options: got seed 3, expected 0 as in rank 0. "
        "Start all ranks with the same command, on the same files."
    )
    assert outcomes(lambda one: one.check_equal("options", {"seed": 0, "freeze": ("a",)})) == [None, None]


def test_ranks_that_wait_stop_with_one_that_stops() -> None:
    def work(one: Ranks) -> None:
        if one.is_first:
            one.check_equal("images", {})
        one.stop()

    stopped, _ = outcomes(work)
    assert isinstance(stopped, StopRequested)


def test_rank_0_downloads_alone() -> None:
    entered: list[int] = []

    def work(one: Ranks) -> None:
        if one.is_first:
            time.sleep(0.2)
        with one.first_alone("weights"):
            entered.append(one.rank)

    outcomes(work)
    assert entered == [0, 1]


def test_only_the_first_failure_is_reported() -> None:
    one, other = (Ranks(rank, 2, rank, 2, store) for store in [HashStore()] for rank in range(2))
    assert str(other.failure(UsageError("data", got="no folder"))) == "rank 1: data: got no folder"
    assert isinstance(
        one.failure(RuntimeError("[gloo/pair.cc:1] Connection closed by peer")), OtherRankFailed
    )


def test_a_lost_connection_is_reported_if_no_rank_failed() -> None:
    one = Ranks(0, 2, 0, 2, HashStore())
    line = str(one.failure(RuntimeError("[gloo/pair.cc:1] Connection closed by peer [10.0.0.2]:4711")))
    assert line.startswith("rank 0: got a lost connection to another rank. See that rank's message.")
