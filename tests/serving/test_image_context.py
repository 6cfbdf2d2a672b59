"""`write_image_context`: what gets into an image with the models, and what does not."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from alexnet_cli.main import run
from alexnet_model.errors import RepositoryError
from alexnet_serving import write_image_context

from ..folders import contents_of
from .conftest import ENCODED, add_junk

MODELS = ("alexnet_fp32", "alexnet_int8", *ENCODED)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


def test_the_context_has_the_models_and_nothing_else(repository: Path, context: Path) -> None:
    before = {name: contents_of(repository / name) for name in MODELS}
    add_junk(repository)
    assert set(write_image_context(repository, context)) == set(MODELS)
    assert {path.name for path in context.iterdir()} == {"Dockerfile", "models"}
    assert {path.name: contents_of(path) for path in (context / "models").iterdir()} == before
    model = Path("models/alexnet_fp32/1/model.onnx")
    assert (context / model).samefile(repository / model.relative_to("models")), "linked"


def test_the_dockerfile_copies_the_models_where_the_cluster_expects_them(
    repository: Path, context: Path
) -> None:
    write_image_context(repository, context)
    text = (context / "Dockerfile").read_text()
    assert re.search(r"^FROM [\w/]+:\d+\.\d+\.\d+$", text, re.MULTILINE), "an exact version"
    (copy,) = re.findall(r"^COPY (.*)$", text, re.MULTILINE)
    _, source, target = copy.split()
    assert (context / source).is_dir()
    deployment = Path(__file__).parents[2] / "serving/deploy/kubernetes/base/deployment.yaml"
    (mounted,) = re.findall(r"name: models, mountPath: (\S+),", deployment.read_text())
    assert f"--model-repository={mounted}{target}\n" in deployment.read_text()
    (label,) = re.findall(r"^LABEL (.*)$", text, re.MULTILINE)
    name, _, value = shlex.split(label)[0].partition("=")
    record = json.loads((repository / "alexnet.1.export.json").read_text())
    assert name == "alexnet.alexnet"
    assert json.loads(value) == {
        "version": 1,
        "contract": record["contract_digest"],
        "weights": record["model"]["weights_sha256"],
    }


def test_a_context_is_replaced_and_another_folder_is_not(repository: Path, context: Path) -> None:
    write_image_context(repository, context)
    (context / "models" / "old").mkdir()
    write_image_context(repository, context)
    assert not (context / "models" / "old").exists()
    (context / "mine.txt").touch()
    with pytest.raises(RepositoryError, match=r"mine\.txt"):
        write_image_context(repository, context)
    with pytest.raises(RepositoryError, match="inside the repository"):
        write_image_context(repository, repository / "image")


def test_pack_refuses_an_altered_repository(
    repository: Path, context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pack", str(repository), "--image-context", str(context)]) == 0
    assert "docker build" in capsys.readouterr().err
    labels = repository / "alexnet_int8" / "labels.txt"
    labels.write_text("cat\n" * 10)
    assert run(["pack", str(repository), "--image-context", str(context)]) == 1
    assert "labels.txt" in capsys.readouterr().err
    assert (context / "models" / "alexnet_int8" / "labels.txt").exists()
