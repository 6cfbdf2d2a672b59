"""A server that is killed during requests: every image has a prediction, and nothing blocks."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Client
from alexnet_model.errors import ConnectionLost, ServerDied, Unreachable
from alexnet_serving import EmbeddedServer


def test_a_server_killed_while_images_are_classified(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped before the fourth request, so that requests are surely open when it is killed."""
    repository = exported.repository_of_fp32(tmp_path / "model_repository")
    with EmbeddedServer(repository) as server, Client(server.grpc_url, timeout_s=4) as client:
        server_pid = server._process.pid
        before = client.classify(np.zeros((3, 224, 224, 3), np.uint8))
        submit, numbers = client.transport.submit, count(1)
        killing = Timer(0.5, os.kill, (server_pid, signal.SIGKILL))

        def submit_and_kill(message: Any, *, timeout_s: float) -> Any:
            if next(numbers) == 4:
                os.kill(server_pid, signal.SIGSTOP)
                killing.start()
            return submit(message, timeout_s=timeout_s)

        monkeypatch.setattr(client.transport, "submit", submit_and_kill)
        predictions = client.classify(np.full((224, 224, 3), number, np.uint8) for number in range(200))
        killing.join()
        with pytest.raises(Unreachable):
            client.probabilities(np.zeros((1, 224, 224, 3), np.uint8))
        with pytest.raises(Unreachable, match="alexnet serve"), Client(server.grpc_url):
            pytest.fail("entered")
        server._process.wait(60)
        with pytest.raises(ServerDied, match="killed by signal 9"):
            server.check()
    assert all(prediction.error is None for prediction in before)
    assert [prediction.image for prediction in predictions] == [f"image {n}" for n in range(200)]
    assert predictions[0].error is None
    assert {type(prediction.error) for prediction in predictions[150:]} == {Unreachable}
    lost = [prediction for prediction in predictions if isinstance(prediction.error, ConnectionLost)]
    assert 0 < len(lost) <= 32, "the two batches of sixteen that were sent are not retried"
