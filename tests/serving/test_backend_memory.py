"""The shared memory that a repository's models need, and what happens with less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_cli.main import run
from alexnet_clients.transports.error_rules import rule_from_text
from alexnet_model.errors import ServerError
from alexnet_pipeline.export_options import DEFAULT_MAX_BATCH
from alexnet_serving import (
    DockerServer,
    EmbeddedServer,
    RepositoryOptions,
    memory_of_default_export,
    memory_of_repository,
    models_without_queue_limit,
    write_repository,
)
from alexnet_serving.servers.docker_server import own_shm

from .conftest import MAX_BATCH, Artifacts
from .machines import give_shared_memory
from .recorded_engines import repository_of_engines

MIB = 1024 * 1024
PIXELS = 224 * 224 * 3
OUTPUTS = 2 * 10 * 4


def test_the_need_of_a_repository(repository: Path) -> None:
    """Two networks and the decoder; the ensemble has no process and no region."""
    memory = memory_of_repository(repository)
    network = 2 * MAX_BATCH * (PIXELS + OUTPUTS) + MIB
    assert (memory.regions, memory.max_batch, memory.region_bytes) == (3, MAX_BATCH, network)
    assert memory.total_bytes == 3 * network + (MAX_BATCH * PIXELS + MIB)


def test_instances_and_batches_count(artifacts: Artifacts, tmp_path: Path) -> None:
    def need(options: RepositoryOptions) -> int:
        write_repository(artifacts.manifest, artifacts.folder, tmp_path / "models", options)
        return memory_of_repository(tmp_path / "models").total_bytes

    assert need(RepositoryOptions(instances=3)) > 2 * need(RepositoryOptions())
    assert need(RepositoryOptions(max_batch=2)) < need(RepositoryOptions()) / 2


def test_models_without_a_queue_limit(artifacts: Artifacts, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_repository(artifacts.manifest, artifacts.folder, models)
    assert models_without_queue_limit(models) == ["alexnet_decode", "alexnet_fp32", "alexnet_int8"]
    write_repository(artifacts.manifest, artifacts.folder, models, RepositoryOptions(queue_size=32))
    assert models_without_queue_limit(models) == []


def test_engines_need_none(artifacts: Artifacts, tmp_path: Path) -> None:
    assert memory_of_repository(repository_of_engines(artifacts, tmp_path)).regions == 0


def test_images_of_many_sizes(repository: Path) -> None:
    """Regions start with the size of the smallest model; those of the others grow, one batch at a time."""
    config = repository / "alexnet_int8" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 224", "dims: 1120"))
    memory = memory_of_repository(repository)
    assert memory.region_bytes == 2 * MAX_BATCH * (PIXELS + OUTPUTS) + MIB
    assert memory.total_bytes > 2 * MAX_BATCH * 25 * PIXELS


def test_a_large_region_is_not_reserved_at_the_start(repository: Path) -> None:
    for config in repository.glob("*/config.pbtxt"):
        config.write_text(config.read_text().replace("dims: 224", "dims: 4096"))
    memory = memory_of_repository(repository)
    assert memory.region_bytes == 64 * MIB
    assert memory.total_bytes > 3 * 2 * MAX_BATCH * 4096 * 4096 * 3


def test_the_default_export() -> None:
    memory = memory_of_default_export()
    assert (memory.regions, memory.max_batch) == (4, DEFAULT_MAX_BATCH)
    assert memory.total_bytes > 64 * MIB > memory_of_default_export(32).total_bytes


def test_too_little_is_refused_before_anything_starts(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_shared_memory(monkeypatch, 7)
    assert run(["serve", "--with", "embedded", "--repository", str(repository)]) == 1
    error = capsys.readouterr().err
    assert "shared memory /dev/shm: got 7 MB free, expected 13 MB for 3 models with batches of 8" in error
    assert "--shm-size=64m" in error
    assert "mount -o remount,size=64m /dev/shm" in error


def test_the_demo_is_refused_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_shared_memory(monkeypatch, 20)
    assert run(["demo", "--quick", "--out", str(tmp_path / "demo")]) == 1
    assert "20 MB free" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("free_mb", "max_batch"), [(1000, 64), (67, 32), (40, 16)])
def test_the_demo_takes_smaller_batches(
    free_mb: int, max_batch: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alexnet_cli.demo import _max_batch_here

    give_shared_memory(monkeypatch, free_mb)
    assert _max_batch_here() == max_batch
    assert ("too small for 64" in capsys.readouterr().err) == (max_batch < 64)


def test_a_region_that_cannot_be_made_says_how(repository: Path) -> None:
    reason = "Internal: Unable to initialize shared memory key 'a' to requested size (20326400 bytes)."
    fix = EmbeddedServer(repository)._load_failure_fix("alexnet_int8", reason)
    assert "--shm-size=1g" in fix


def test_a_container_has_enough_of_its_own(repository: Path) -> None:
    memory = memory_of_repository(repository)
    assert own_shm(memory) == "--shm-size=1g"
    large = replace(memory, total_bytes=1024 * MIB)
    assert own_shm(large) == f"--shm-size={2048 * MIB}"


def test_a_container_that_shares_this_machines_memory_is_checked(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_shared_memory(monkeypatch, 7)
    DockerServer(repository)
    with pytest.raises(ServerError, match="7 MB free"):
        DockerServer(repository, shared_memory=True)


@pytest.mark.parametrize("status", ["INTERNAL", 500])
def test_a_client_is_told_that_the_server_lacks_shared_memory(status: str | int) -> None:
    text = (
        "in ensemble 'alexnet', Failed to increase the shared memory pool size for key 'a' to 20326400 bytes"
    )
    rule = rule_from_text(text, status)
    assert rule is not None
    assert "shared memory" in rule.expected
    assert "/dev/shm" in rule.next_step
