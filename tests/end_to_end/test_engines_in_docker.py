"""Engines are built, judged by the gate, served and queried, with a GPU, Docker and Triton's image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_clients import Client
from alexnet_export import EngineOptions, TorchRunner, build_engines
from alexnet_model import docker, prepared_from_set, splits_from
from alexnet_model.errors import DockerError
from alexnet_model.gpus import gpus_here
from alexnet_model.passport import Profile
from alexnet_model.triton_image import TRITON_IMAGE
from alexnet_serving import DockerServer, RepositoryOptions, lint, write_repository
from alexnet_serving.engine_compatibility import targets_of_image

from ..networks import random_checkpoint
from .conftest import Exported


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_engines_from_docker_to_a_client(exported: Exported, tmp_path: Path) -> None:
    survey = gpus_here()
    if not survey.gpus:
        pytest.skip(survey.problem)
    try:
        docker.digest_of_image(TRITON_IMAGE)
    except DockerError as error:
        pytest.skip(str(error))
    folder = Path(shutil.copytree(exported.folder, tmp_path / "export"))
    options = EngineOptions(
        runtime="tensorrt",
        build="docker",
        profile=Profile(min=1, opt=8, max=16),
        timing_caches=tmp_path / "caches",
    )
    manifest = build_engines(folder, options, precisions=("fp32", "fp16"))
    for artifact in manifest.artifacts[:2]:
        assert len(artifact.engines) == len(survey.kinds)
        assert all(engine.accepted for engine in artifact.engines)
        assert all(engine.passport.layer_precisions for engine in artifact.engines)
    repository = tmp_path / "models"
    packing = RepositoryOptions(runtime="tensorrt")
    write_repository(manifest, folder, repository, packing, targets=targets_of_image())
    assert lint(repository) == ()

    images = prepared_from_set(splits_from("digits").test.sample(40), manifest.contract).images
    with TorchRunner(random_checkpoint()) as reference:
        expected = reference.infer(images).logits.argmax(axis=1)
    with DockerServer(repository) as server, Client(server.grpc_url) as client:
        assert server.models == ("alexnet_fp16", "alexnet_fp32")
        for model in server.models:
            answers = client.classify(images, model=model, top=1)
            indices = [answer.best.index for answer in answers]
            assert np.mean(np.array(indices) == expected) >= 0.95
        server.check()
