"""`--name` of the commands that query a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from alexnet_cli.connecting import Connection
from alexnet_cli.main import run
from alexnet_clients import Client, FakeTransport


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    """A server that has the export `flowers` only."""
    fake = FakeTransport(models=("flowers_fp32", "flowers_int8"))
    monkeypatch.setattr(Connection, "client", lambda _: Client("grpc://host", transport=fake))
    return fake


@pytest.mark.parametrize(
    ("options", "model"),
    [
        (["--name", "flowers"], "flowers_fp32"),
        (["--name", "flowers", "--precision", "INT8"], "flowers_int8"),
        (["--model", "flowers_int8"], "flowers_int8"),
    ],
)
def test_the_model_of_an_export(options: list[str], model: str, image: str, transport: FakeTransport) -> None:
    assert run(["classify", image, *options]) == 0
    assert {request.model for request in transport.requests} == {model}


@pytest.mark.usefixtures("transport")
def test_a_server_without_the_default_model(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options, model in ([], "alexnet_fp32"), (["--precision", "int8"], "alexnet_int8"):
        assert run(["classify", image, *options]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: {model}: got no such model")
        assert line.endswith("Pass --name NAME of the export that is served, or --model MODEL.")
    assert run(["classify", image, "--name", "dogs"]) == 1
    assert "--name" not in capsys.readouterr().err
