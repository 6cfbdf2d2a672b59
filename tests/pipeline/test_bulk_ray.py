"""Bulk classification on Ray, which starts on this machine: the same shards, and an actor that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import BulkError
from alexnet_pipeline import BulkModel, classify_in_bulk
from alexnet_pipeline.bulk_files import FloatArray

from .bulk_runs import Opened, assert_complete, contents, images_in

ray = pytest.importorskip("ray", reason="needs the [ray] extra")
pytestmark = pytest.mark.slow  # Ray starts in half a minute on two cores


class Murderous:
    """Opens the model of `Opened`; its process is killed in the third call, once."""

    def __init__(self, killed: Path) -> None:
        self.killed = killed

    @contextmanager
    def __call__(self) -> Iterator[BulkModel]:
        calls = 0

        def fatal(images: Uint8Array) -> FloatArray:
            nonlocal calls
            calls += 1
            if calls == 3 and not self.killed.exists():
                self.killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return model.probabilities(images)

        with Opened()() as model:
            yield replace(model, probabilities=fatal)


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Connect to one Ray for all tests. Its token is kept out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


def test_shards_are_those_of_one_machine_and_a_killed_actor_costs_none(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = images_in(tmp_path / "images")
    killed = tmp_path / "killed"
    classify_in_bulk(names, Opened(), tmp_path / "here", shards=5, workers=0)
    result = classify_in_bulk(names, Murderous(killed), tmp_path / "ray", shards=5, ray="auto")
    assert killed.exists()
    assert (result.inputs, result.errors, result.kept) == (40, 2, 0)
    assert_complete(tmp_path / "ray", names)
    here, there = contents(tmp_path / "here"), contents(tmp_path / "ray")
    assert {name: content for name, (_, content) in here.items()} == {
        name: content for name, (_, content) in there.items()
    }
    (tmp_path / "ray" / "part-00003-of-00005.parquet").unlink()
    result = classify_in_bulk(names, Opened(), tmp_path / "ray", shards=5, ray="auto", workers=2)
    assert result.kept == 4
    assert_complete(tmp_path / "ray", names)


def test_an_actor_with_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = images_in(tmp_path / "images")
    here = os.getpid()

    @contextmanager
    def different() -> Iterator[BulkModel]:
        with Opened()() as model:
            yield replace(model, name=f"brightness_of_{'here' if os.getpid() == here else 'another'}")

    with pytest.raises(BulkError, match="model brightness_of_another: got another file"):
        classify_in_bulk(names, different, tmp_path / "out", ray="auto")


def test_any_error_of_an_actor_ends_the_run_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = images_in(tmp_path / "images")
    here = os.getpid()

    @contextmanager
    def broken() -> Iterator[BulkModel]:
        if os.getpid() != here:
            raise ImportError("a library of that machine")
        with Opened()() as model:
            yield model

    def refuse(images: Uint8Array) -> FloatArray:
        raise RuntimeError("its library refuses")

    @contextmanager
    def failing() -> Iterator[BulkModel]:
        with Opened()() as model:
            yield replace(model, probabilities=refuse)

    with pytest.raises(BulkError, match=r"^ImportError: a library of that machine$"):
        classify_in_bulk(names, broken, tmp_path / "out", ray="auto")
    with pytest.raises(BulkError, match=r"^RuntimeError: its library refuses$"):
        classify_in_bulk(names, failing, tmp_path / "failing", ray="auto")
    assert ray.data.DataContext.get_current().enable_progress_bars
