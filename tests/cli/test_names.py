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
        ([], "flowers_fp32"),
        (["--precision", "int8"], "flowers_int8"),
    ],
)
def test_the_model_of_an_export(
    options: list[str], model: str, image: str, transports: list[FakeTransport]
) -> None:
    assert run(["classify", image, *options]) == 0
    assert {request.model for request in transports[0].requests} == {model}


@pytest.mark.usefixtures("transports")
def test_a_model_that_is_not_served_is_an_error_that_lists_the_others(
    image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, expected in ("--precision", "fp16"), ("--name", "dogs"):
        assert run(["classify", image, options, expected]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "got the models flowers_fp32, flowers_int8, expected models of one export" in line
        assert line.endswith("Pass --model with one of them.")


def test_models_of_several_exports_are_listed(
    image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = FakeTransport(models=("dogs_int8", "flowers_fp32", "flowers_int8"))
    monkeypatch.setattr(Connection, "client", lambda _: Client("grpc://host", transport=served))
    assert run(["classify", image]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "got the models dogs_int8, flowers_fp32, flowers_int8" in line
