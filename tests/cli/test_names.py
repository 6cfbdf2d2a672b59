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
def transports(monkeypatch: pytest.MonkeyPatch) -> list[FakeTransport]:
    """Connections to a server that has the export `flowers` only, one for each command."""
    opened: list[FakeTransport] = []

    def client(_: Connection) -> Client:
        opened.append(FakeTransport(models=("flowers_fp32", "flowers_int8")))
        return Client("grpc://host", transport=opened[-1])

    monkeypatch.setattr(Connection, "client", client)
    return opened


@pytest.mark.parametrize(
    ("options", "model"),
    [
        (["--name", "flowers"], "flowers_fp32"),
        (["--name", "flowers", "--precision", "INT8"], "flowers_int8"),
        (["--model", "flowers_int8"], "flowers_int8"),
    ],
)
def test_the_model_of_an_export(
    options: list[str], model: str, image: str, transports: list[FakeTransport]
) -> None:
    assert run(["classify", image, *options]) == 0
    assert {request.model for request in transports[0].requests} == {model}


@pytest.mark.usefixtures("transports")
def test_a_server_without_the_default_model(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options, model in ([], "alexnet_fp32"), (["--precision", "int8"], "alexnet_int8"):
        assert run(["classify", image, *options]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: {model}: got no such model")
        assert line.endswith("Pass --name NAME of the export that is served, or --model MODEL.")
    assert run(["classify", image, "--name", "dogs"]) == 1
    assert "--name" not in capsys.readouterr().err
