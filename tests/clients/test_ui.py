"""The page's inference, its HTML and its server. end_to_end/test_ui_in_chromium.py tests the page itself."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.main import run
from alexnet_clients import (
    Classification,
    Client,
    FakeTransport,
    InferReply,
    Message,
    ModelStatistics,
    PageServer,
)
from alexnet_clients.ui.inference import TimedClassification, available_models, classify_with_timing
from alexnet_clients.ui.rendering import confidences_from_classes, html_from_error, html_from_timed
from alexnet_clients.ui.server import write_examples
from alexnet_model.class_names import DIGITS, imagenet_class_names
from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import BadRequest, ContractMismatch, ImageError, ModelNotFound, PortTaken

MILLISECOND_NS = 1_000_000
ONE_REQUEST = ModelStatistics(
    requests=1,
    queue_ns=1 * MILLISECOND_NS,
    compute_input_ns=2 * MILLISECOND_NS,
    compute_infer_ns=30 * MILLISECOND_NS,
    compute_output_ns=4 * MILLISECOND_NS,
)


class Counting(FakeTransport):
    """Counts as Triton does: an ensemble's request in each of its models.

    Args:
        others: requests of other clients that are counted with each request, each ten times as long.
        delay_s: how long each inference takes, seconds.
        withheld: the server refuses to report its statistics.
    """

    def __init__(self, *, others: int = 0, delay_s: float = 0.05, withheld: bool = False) -> None:
        super().__init__(delay_s=delay_s)
        self.parameters["precision"] = "int8"
        self.counts: dict[str, ModelStatistics] = {}
        self.others = others
        self.withheld = withheld

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        model = message.request.model
        for name in ("alexnet_decode", "alexnet_int8") if model == "alexnet" else (model,):
            for _ in range(1 + 10 * self.others):
                self._count(name, ONE_REQUEST)
            self._count(name, ModelStatistics(requests=-9 * self.others))
        return super().submit(message, timeout_s=timeout_s)

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        future: Future[ModelStatistics] = Future()
        if self.withheld:
            future.set_exception(BadRequest(model, got="a restricted protocol"))
        else:
            future.set_result(self.counts.get(model, ModelStatistics()))
        return future

    def _count(self, model: str, more: ModelStatistics) -> None:
        fields = ("requests", "queue_ns", "compute_input_ns", "compute_infer_ns", "compute_output_ns")
        so_far = self.counts.get(model, ModelStatistics())
        self.counts[model] = ModelStatistics(
            **{name: getattr(so_far, name) + getattr(more, name) for name in fields}
        )


@pytest.fixture
def classified() -> Iterator[Callable[..., TimedClassification]]:
    opened = []

    def run_one(model: str, fake: FakeTransport, **options: Any) -> TimedClassification:
        opened.append(Client("grpc://host", transport=fake))
        return classify_with_timing(opened[-1], model, png(255), **options)

    yield run_one
    for client in opened:
        client.close()


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_model_of_pixels_is_sent_what_was_decoded_here(
    classified: Callable[..., TimedClassification],
) -> None:
    fake = Counting()
    timed = classified("alexnet_fp32", fake, top=3)
    assert [found.index for found in timed.classes] == [9, 8, 7]
    assert timed.request_bytes == 150_528
    assert np.array_equal(fake.requests[0].images, np.full((1, 224, 224, 3), 255))
    assert timed.decode_ms > 0
    assert timed.queue_ms == pytest.approx(1)
    assert timed.compute_ms == pytest.approx(36)
    assert timed.counted == 1


def test_an_encoded_model_gets_the_file_and_sums_its_ensembles_counts(
    classified: Callable[..., TimedClassification],
) -> None:
    fake = Counting(delay_s=0.1)
    timed = classified("alexnet", fake)
    assert fake.requests[0].images[0, 0] == png(255)
    assert timed.decode_ms == 0
    assert timed.request_bytes == len(png(255))
    assert timed.queue_ms == pytest.approx(2)
    assert timed.compute_ms == pytest.approx(72)


@pytest.mark.parametrize("model", ["alexnet", "alexnet_fp32"])
def test_the_parts_add_up_to_the_total(classified: Callable[..., TimedClassification], model: str) -> None:
    timed = classified(model, Counting(delay_s=0.1))
    assert timed.queue_ms is not None
    assert timed.compute_ms is not None
    assert timed.network_ms is not None
    assert timed.network_ms > 0
    parts_ms = timed.decode_ms + timed.network_ms + timed.queue_ms + timed.compute_ms
    assert parts_ms == pytest.approx(timed.total_ms)


def test_counts_with_other_requests_are_a_mean(
    classified: Callable[..., TimedClassification],
) -> None:
    timed = classified("alexnet_fp32", Counting(others=3))
    assert timed.counted == 4
    assert timed.queue_ms == pytest.approx((1 + 3 * 10) / 4)
    assert timed.compute_ms == pytest.approx((36 + 3 * 360) / 4)
    assert timed.network_ms == 0, "a mean longer than this request leaves nothing, not less than nothing"
    assert "a mean of 4 requests" in html_from_timed(timed)


@pytest.mark.parametrize("fake", [Counting(withheld=True), FakeTransport()])
def test_refused_statistics_do_not_prevent_inference(
    classified: Callable[..., TimedClassification], fake: FakeTransport
) -> None:
    timed = classified("alexnet", fake)  # the plain fake counts nothing for an ensemble's halves
    assert timed.classes[0].label == "9"
    assert (timed.queue_ms, timed.compute_ms, timed.network_ms) == (None, None, None)
    assert "does not report" in html_from_timed(timed)


@pytest.mark.parametrize("model", ["alexnet", "alexnet_fp32"])
def test_an_error_names_the_broken_image(model: str) -> None:
    with (
        Client("grpc://host", transport=FakeTransport()) as client,
        pytest.raises(ImageError, match=r"^cat.jpg: got 3 bytes that are not an image"),
    ):
        classify_with_timing(client, model, b"cat", name="cat.jpg")


def test_available_models_are_those_of_the_server() -> None:
    fake = FakeTransport(models=("alexnet_int8", "alexnet", "another"))
    with Client("grpc://host", transport=fake) as client:
        assert [served.name for served in available_models(client)] == ["alexnet_int8", "alexnet"]


def test_available_models_of_another_export() -> None:
    fake = FakeTransport(models=("flowers_int8", "flowers", "alexnet_fp32"))
    with Client("grpc://host", transport=fake) as client:
        assert [served.name for served in available_models(client, "flowers")] == ["flowers_int8", "flowers"]
        with pytest.raises(ModelNotFound, match=r"no model of dogs, expected one of dogs_fp32.*--name"):
            available_models(client, "dogs")


def test_no_available_model_is_an_error() -> None:
    with (
        Client("grpc://host", transport=FakeTransport(models=("another",))) as client,
        pytest.raises(ModelNotFound, match="alexnet_fp32, alexnet_fp16, alexnet_int8, alexnet"),
    ):
        available_models(client)
    foreign = FakeTransport()
    del foreign.parameters["contract_digest"]
    with (
        Client("grpc://host", transport=foreign) as client,
        pytest.raises(ContractMismatch, match=r"alexnet_fp32.* without a contract"),
    ):
        available_models(client)


def test_classes_that_share_a_label_get_their_number() -> None:
    classes = [Classification("crane", 134, 0.5), Classification("tabby", 281, 0.3)]
    assert confidences_from_classes(classes) == {"crane": 0.5, "tabby": 0.3}
    classes.append(Classification("crane", 517, 0.2))
    assert confidences_from_classes(classes) == {
        "crane (class 134)": 0.5,
        "tabby": 0.3,
        "crane (class 517)": 0.2,
    }


def test_html_is_escaped(classified: Callable[..., TimedClassification]) -> None:
    error = ImageError("<img src=x onerror=alert(1)>.png", got="0 bytes")
    assert "<img" not in html_from_error(error)
    fake = Counting()
    fake.parameters["computes_in"] = "<script>"
    assert "<script>" not in html_from_timed(classified("alexnet_fp32", fake))


def test_examples_fit_the_classes_of_the_model(tmp_path: Path) -> None:
    def names(classes: tuple[str, ...]) -> list[str]:
        return [path.name for path in write_examples(tmp_path, classes)]

    assert names(DIGITS) == ["digit_3.png", "digit_5.png", "digit_8.png"]
    assert names(imagenet_class_names()) == ["china.jpg", "flower.jpg"]
    assert names(("daisy", "rose")) == []


def test_a_taken_port_is_reported_first(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        page = PageServer(client, port=port)
        with pytest.raises(PortTaken, match=f"port {port}: got something listening on it already.* 0 picks"):
            page.__enter__()


# In a process of its own: Gradio leaves event loops open, which would fail a later test.
HOST_A_PAGE = """
import json, os, socket, sys, tempfile
from pathlib import Path
from alexnet_clients import Client, FakeTransport, PageServer

before = dict(os.environ)
with Client("grpc://host", transport=FakeTransport()) as client, PageServer(client, port=0) as page:
    (folder,) = Path(tempfile.gettempdir()).iterdir()
    listens_on = page._listener.getsockname()
    observed = {
        "mode": oct(folder.stat().st_mode & 0o777),
        "uploads go there": os.environ["GRADIO_TEMP_DIR"] == str(folder),
        "url": page.url == f"http://127.0.0.1:{page.port}",
        "listens on": listens_on[0],
        "largest upload": page.blocks.max_file_size,
        "allowed paths": page.blocks.allowed_paths,
        "analytics": page.blocks.analytics_enabled,
        "run history": page.blocks.run_history,
        "api open": page.blocks.api_open,
        "most waiting": page.blocks._queue.max_size,
    }
observed["left"] = [str(path) for path in Path(tempfile.gettempdir()).iterdir()]
observed["same environment"] = dict(os.environ) == before
socket.create_server(listens_on).close()
print(json.dumps(observed))
"""


@pytest.mark.slow
def test_the_page_is_on_loopback_and_leaves_no_files(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the [ui] extra")
    # The page ignores Gradio's settings of the caller's environment.
    settings = {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_TEMP_DIR": "/elsewhere", "GRADIO_SERVER_NAME": "0.0.0.0"}
    environment = os.environ | settings | {"TMPDIR": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "True"}
    done = subprocess.run(
        [sys.executable, "-c", HOST_A_PAGE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "mode": "0o700",
        "uploads go there": True,
        "url": True,
        "listens on": "127.0.0.1",
        "largest upload": MAX_ENCODED_BYTES,
        "allowed paths": [],
        "analytics": False,
        "run history": False,
        "api open": False,
        "most waiting": 16,
        "left": [],
        "same environment": True,
    }


def test_ui_reports_an_unreachable_server_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ui", "--url", "grpc://127.0.0.1:1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:1" in line
    assert "alexnet serve" in line


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--top", "0"], ["--url", "nonsense"]])
def test_wrong_options_of_ui_exit_2(capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    assert run(["ui", *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (wrong[-1] if wrong[0] == "--url" else wrong[0]) in line
