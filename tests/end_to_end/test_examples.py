"""The programs of examples/, run as a user runs them, in a copy of that folder."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_clients import Client
from alexnet_model import Contract, build
from alexnet_model.classifier import Classifier
from alexnet_serving import EmbeddedServer

from ..waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPES = ["circle", "cross", "square", "star", "triangle"]
# Of five images, one of each class; chance is one. The weights are those of a training of seconds, whose
# result depends on the machine's rounding: AlexNet was right on four or five with 45 seeds, the ResNet on
# five with four seeds.
ENOUGH = 3
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def output_of(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("examples") / "examples"
    written = shutil.ignore_patterns("shapes", "*.pth", "*_repository", "build", "__pycache__")
    shutil.copytree(EXAMPLES, copy, ignore=written)
    return copy


@pytest.fixture(scope="module")
def fine_tuned(folder: Path) -> str:
    """The output of the first example. The web service uses its repository."""
    return output_of(folder, "sh", "fine_tuned_alexnet.sh")


@pytest.fixture(scope="module")
def own_network(folder: Path) -> str:
    """The output of the second example. The third uses its weights."""
    return output_of(folder, "sh", "own_network.sh")


def check(predictions: list[tuple[str, str]], network: nn.Module, weights: Path) -> None:
    """Check the labels of five images, one of each class: those of PyTorch, and enough of them right."""
    assert [re.findall(r"shapes/(\w+)/", image) for image, _ in predictions] == [[name] for name in SHAPES]
    labels = [label for _, label in predictions]
    network.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    contract = Contract(size=64, resize=64)
    images = np.stack([contract.prepared(weights.parent / "shapes" / name / "00.png") for name in SHAPES])
    with torch.inference_mode():
        probabilities, _ = Classifier(network, contract).eval()(torch.from_numpy(images))
    assert labels == [SHAPES[best] for best in probabilities.argmax(dim=1)]
    assert sum(label == shape for label, shape in zip(labels, SHAPES, strict=True)) >= ENOUGH


def test_a_fine_tuned_alexnet_is_exported_served_and_classifies(folder: Path, fine_tuned: str) -> None:
    predictions = re.findall(r"(shapes/\w+/00\.png)\s+[\d.]+%\s+(\w+)", fine_tuned)
    check(predictions, build("alexnet", len(SHAPES), width=0.125), folder / "shapes.pth")
    assert {"shapes", "shapes_fp32", "shapes_fp16"} <= {
        path.name for path in folder.glob("model_repository/*")
    }


def test_a_network_of_ones_own_module_is_exported(folder: Path, own_network: str) -> None:
    record = json.loads((folder / "resnet_repository" / "resnet.1.export.json").read_text())
    assert record["model"]["architecture"] == "my_network:small_resnet"
    assert record["model"]["class_names"] == SHAPES
    assert [artifact["precision"] for artifact in record["artifacts"]] == ["fp32", "fp16"]
    assert "no findings" in own_network


def test_the_python_api_goes_from_a_module_to_predictions(folder: Path, own_network: str) -> None:
    lines = output_of(folder, sys.executable, "python_api.py").splitlines()
    predictions = [(line.split()[0], line.split()[1]) for line in lines]
    small_resnet = runpy.run_path(str(folder / "my_network.py"))["small_resnet"]
    check(predictions, small_resnet(len(SHAPES)), folder / "resnet.pth")


def test_the_web_service_classifies_uploads_and_reports_errors(folder: Path, fine_tuned: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    star = (folder / "shapes" / "star" / "00.png").read_bytes()
    with EmbeddedServer(folder / "model_repository") as server:
        command = [sys.executable, "-m", "uvicorn", "web_service:app", "--port", str(port)]
        environment = {**ENVIRONMENT, "TRITON_URL": server.grpc_url}
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) as service:
            try:
                wait_for(url)
                code, probabilities = posted(f"{url}/classify", star)
                with Client(server.grpc_url) as client:
                    (expected,) = client.classify(star, model="shapes_fp32", top=3)
                assert code == 200
                assert probabilities == pytest.approx({c.label: c.probability for c in expected.classes})
                code, error = posted(f"{url}/classify", b"no image")
                assert (code, list(error)) == (400, ["detail"])
                server.stop()
                assert posted(f"{url}/classify", star)[0] == 503
            finally:
                service.terminate()


def wait_for(url: str) -> None:
    def replies() -> bool:
        try:
            urllib.request.urlopen(f"{url}/openapi.json", timeout=30).close()
        except OSError:
            return False
        return True

    wait_until(replies, f"{url} replies", within_s=120)


def posted(url: str, image: bytes) -> tuple[int, dict[str, float]]:
    """Upload a file as a browser or curl does; return the status and the JSON."""
    head = b'--X\r\nContent-Disposition: form-data; name="image"; filename="image.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    request = urllib.request.Request(url, head + image + b"\r\n--X--\r\n", headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
