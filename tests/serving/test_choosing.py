"""Which server is taken where nobody said, on every kind of machine."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from alexnet_model.errors import DockerError, EngineRefused
from alexnet_serving import EmbeddedServer
from alexnet_serving.repositories.backends import backends_of_repository, can_use_gpu
from alexnet_serving.servers.server import choice_of_server

from ..stand_ins.docker import NO_ENGINE, fake_docker, no_docker
from ..stand_ins.nvidia_smi import H100, fake_nvidia_smi, no_nvidia_smi
from .conftest import Artifacts
from .docker_setting import Fake, repository_of_engines


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return partial(fake_docker, monkeypatch, tmp_path)


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    return repository_of_engines(artifacts, tmp_path)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100])


def chosen(repository: Path) -> tuple[str, str]:
    choice = choice_of_server(repository)
    return choice.kind, choice.reason


def test_docker_for_what_a_gpu_computes(on_onnxruntime: Path, engines: Path, gpu: None, fake: Fake) -> None:
    docker = fake(engine="29.1.3")
    expected = ("docker", "Docker 29.1.3 and NVIDIA H100 80GB HBM3 are available")
    assert chosen(on_onnxruntime) == expected
    assert chosen(engines) == expected
    assert docker.runs == []


def test_embedded_for_what_a_cpu_computes(repository: Path, gpu: None, fake: Fake) -> None:
    docker = fake()
    shutil.rmtree(repository / "alexnet_fp32")
    assert chosen(repository) == ("embedded", "these models are computed on a CPU")
    assert docker.calls == []


def test_embedded_without_a_gpu(
    on_onnxruntime: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake()
    no_nvidia_smi(monkeypatch, tmp_path)
    kind, reason = chosen(on_onnxruntime)
    assert kind == "embedded"
    assert reason == "no GPU: no NVIDIA driver (nvidia-smi is not there)"


def test_embedded_without_an_engine(
    on_onnxruntime: Path, gpu: None, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(fails=NO_ENGINE)
    kind, reason = chosen(on_onnxruntime)
    assert kind == "embedded"
    assert reason.startswith("no Docker engine: Cannot connect to the Docker daemon")
    no_docker(monkeypatch, tmp_path)
    assert chosen(on_onnxruntime) == ("embedded", "no Docker engine: no such program")


def test_engines_are_served_by_docker_or_not_at_all(
    engines: Path, gpu: None, fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(fails=NO_ENGINE)
    with pytest.raises(DockerError, match="sudo systemctl start docker"):
        choice_of_server(engines)
    fake()
    no_nvidia_smi(monkeypatch, tmp_path)
    with pytest.raises(EngineRefused, match=r"nvidia-smi is not there.*alexnet doctor"):
        choice_of_server(engines)


def test_the_embedded_server_refuses_engines(engines: Path) -> None:
    with pytest.raises(EngineRefused, match=r"model alexnet_fp32.*--with docker --repository"):
        EmbeddedServer(engines)


def test_backends_are_read_as_triton_reads_them(tmp_path: Path) -> None:
    texts = {
        "plain": 'backend: "onnxruntime"',
        "commented": '# backend: "tensorrt"\nbackend:\n  "openvino_dynamic"  parameters { key: "a" }',
        "platform": 'platform: "tensorrt_plan"',
        "ensemble": 'platform: "ensemble"',
        "newer": 'a_field_of_tomorrow { x: 1 } backend: "tensorrt"',
        "broken": "max_batch_size: {",
        "none": "",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(text)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "config.pbtxt").write_bytes(b"\xff\xfe")
    assert backends_of_repository(tmp_path) == {
        "broken": "",
        "bytes": "",
        "commented": "openvino_dynamic",
        "ensemble": "ensemble",
        "newer": "tensorrt",
        "none": "",
        "plain": "onnxruntime",
        "platform": "tensorrt",
    }


@pytest.mark.parametrize(
    ("backends", "can"),
    [
        ({"tensorrt"}, True),
        ({"onnxruntime"}, True),
        ({"openvino_dynamic"}, False),
        ({"onnxruntime", "openvino_dynamic"}, False),
        ({"tensorrt", "openvino_dynamic"}, True),
        ({"tensorrt", "image_decoder", "ensemble"}, True),
        ({"onnxruntime", "image_decoder", "ensemble"}, True),
        ({"openvino_dynamic", "image_decoder", "ensemble"}, False),
        (set(), False),
    ],
)
def test_what_can_use_a_gpu(backends: set[str], can: bool) -> None:
    assert can_use_gpu(backends) == can
