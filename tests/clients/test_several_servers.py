"""One client of several servers: fakes and real gRPC and HTTP servers, whose replies the tests choose."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
import pytest

from alexnet_clients import Client, Credentials, FakeTransport, InferRequest, ServerUrl
from alexnet_clients.transports import balanced_transport
from alexnet_model.contract import Contract
from alexnet_model.errors import (
    BadRequest,
    ClientError,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
)

from ..waiting import wait_until
from .http_transport.http_server import HttpServer, Reply
from .http_transport.http_server import config as http_config
from .http_transport.http_server import infer as http_infer
from .wire_server import infer, served

IMAGES = np.zeros((1, 224, 224, 3), np.uint8)
Fakes = dict[str, FakeTransport]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Servers by host."""
    found = {host: FakeTransport() for host in ("a", "b", "10.0.0.1", "10.0.0.2", "10.0.0.3", "name")}

    def transport(url: ServerUrl, credentials: Credentials) -> FakeTransport:
        return found[url.host]

    monkeypatch.setattr(balanced_transport, "transport_from_url", transport)
    return found


@pytest.fixture
def client(fakes: Fakes) -> Iterator[Client]:
    with Client("grpc://a,b", timeout_s=30) as client:
        yield client


def requests_of(fakes: Fakes, *hosts: str) -> list[int]:
    return [len(fakes[host].requests) for host in hosts]


def test_requests_go_to_the_servers_in_turn(fakes: Fakes, client: Client) -> None:
    for _ in range(20):
        client.probabilities(IMAGES)
    assert requests_of(fakes, "a", "b") == [10, 10]
    assert client.statistics("alexnet_fp32").requests == 20
    assert sum(fakes[host].configs_read for host in "ab") <= 3, "not for every request"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_both_protocols_send_to_each_server_its_share(protocol: str) -> None:
    if protocol == "grpc":
        with served() as (a, first), served() as (b, second):
            send_40(f"grpc://{first},{second}")
            counts = [sum(hasattr(r, "inputs") for r in wire.received) for wire in (a, b)]
    else:
        counts = [0, 0]
        handlers = {"config": http_config, "ready": lambda received: Reply()}

        def counting(number: int) -> Callable[[Any], Reply]:
            def handle(received: Any) -> Reply:
                counts[number] += 1
                return http_infer(received)

            return handle

        http_a, http_b = (HttpServer({**handlers, "infer": counting(number)}) for number in (0, 1))
        with http_a.running(), http_b.running():
            send_40(f"http://127.0.0.1:{http_a.port},127.0.0.1:{http_b.port}")
    assert sum(counts) == 40
    assert 18 <= counts[0] <= 22


def send_40(url: str) -> None:
    with Client(url, timeout_s=10) as client:
        for _ in range(40):
            assert client.probabilities(IMAGES, model="alexnet_int8").shape == (1, 10)


@pytest.mark.parametrize("kind", [Unreachable, NotReady, Overloaded, ConnectionLost])
def test_a_request_that_one_server_cannot_take_goes_to_the_other(
    kind: type[ClientError], fakes: Fakes, client: Client
) -> None:
    client.probabilities(IMAGES)
    client.probabilities(IMAGES)
    fakes["a"].failures.append(kind("a", got="a failure"))
    for _ in range(4):
        client.probabilities(IMAGES)
    assert not fakes["a"].failures
    assert sum(requests_of(fakes, "a", "b")) == 7, "one request was sent twice"


def test_a_failed_server_gets_no_requests_until_it_is_ready_again(fakes: Fakes, client: Client) -> None:
    client.probabilities(IMAGES)
    client.probabilities(IMAGES)
    probes = count_probes(fakes["a"])
    fakes["a"].is_ready = False
    fakes["a"].failures.append(NotReady("a", got="Server is stopping"))
    client.probabilities(IMAGES)
    client.probabilities(IMAGES)
    assert not fakes["a"].failures
    before = len(fakes["a"].requests)
    send_until(client, lambda: len(probes) >= 2)
    assert len(fakes["a"].requests) == before
    fakes["a"].is_ready = True
    send_until(client, lambda: len(fakes["a"].requests) > before)


def count_probes(fake: FakeTransport) -> list[float]:
    """The timeouts of the requests for readiness, which are added as they come."""
    probes: list[float] = []
    plain = fake.ready

    def ready(*, timeout_s: float) -> Future[bool]:
        probes.append(timeout_s)
        return plain(timeout_s=timeout_s)

    fake.ready = ready  # type: ignore[method-assign]
    return probes


def test_a_request_that_crashes_servers_is_sent_to_two_of_them_at_most(
    monkeypatch: Any, fakes: Fakes
) -> None:
    with Client("grpc://a,b,10.0.0.1", timeout_s=5) as client:
        client.model("alexnet_fp32")

        def crash(request: object) -> Any:
            raise ConnectionLost("server", got="socket closed")

        for host in ("a", "b", "10.0.0.1"):
            fakes[host].predict = crash
        with pytest.raises(ConnectionLost):
            client.probabilities(IMAGES)
        assert sum(requests_of(fakes, "a", "b", "10.0.0.1")) == 2


def test_a_model_that_a_draining_server_no_longer_has_is_found_on_the_other(
    fakes: Fakes, client: Client
) -> None:
    for _ in range(2):
        client.probabilities(IMAGES)

    def unloaded(request: object) -> Any:
        raise ModelNotFound("a", got="unknown model")

    fakes["a"].predict = unloaded
    fakes["a"].models = ()
    for _ in range(6):
        client.probabilities(IMAGES)
    fakes["b"].predict = unloaded
    fakes["b"].models = ()
    with pytest.raises(ModelNotFound):
        client.model("alexnet_int8")


def test_a_model_that_all_servers_had_is_waited_for(fakes: Fakes, client: Client) -> None:
    """During a restart of all servers; a name that none of them ever had is an error at once."""
    for _ in range(2):
        client.probabilities(IMAGES)
    for host in "ab":
        fakes[host].failures.extend([ModelNotFound(host, got="unknown model")] * 2)
    client.probabilities(IMAGES)
    read = sum(fakes[host].configs_read for host in "ab")
    with pytest.raises(ModelNotFound):
        client.model("cat")
    assert sum(fakes[host].configs_read for host in "ab") == read + 2, "each server is asked once"


def change_contract(fake: FakeTransport, resize: int = 232) -> None:
    other = Contract(resize=resize)
    fake.parameters |= {"contract": other.to_json(), "contract_digest": other.digest}


def change_classes(fake: FakeTransport) -> None:
    fake.parameters |= {"labels": json.dumps(("cat", *fake.class_names[1:]))}


def change_batch(fake: FakeTransport) -> None:
    fake.max_batch = 4


@pytest.mark.parametrize("change", [change_contract, change_classes, change_batch])
def test_a_server_of_another_export_gets_no_requests(
    change: Callable[[FakeTransport], None], fakes: Fakes
) -> None:
    """A rolling update: the client keeps to the servers whose contract it read first."""
    change(fakes["b"])
    with Client("grpc://a,b", timeout_s=5) as client:  # asks b whether it is ready, and reads a's model
        for _ in range(10):
            client.probabilities(IMAGES)
    assert requests_of(fakes, "a", "b") == [10, 0]


def test_a_client_without_a_pinned_contract_uses_one_kind_of_servers(fakes: Fakes) -> None:
    change_contract(fakes["b"])
    with Client("grpc://a,b", timeout_s=5) as client:
        for _ in range(10):
            client.probabilities(IMAGES)
        digest = client.model("alexnet_fp32").contract.digest
        assert sorted(requests_of(fakes, "a", "b")) == [0, 10]
        used = "a" if fakes["a"].requests else "b"
        assert fakes[used].parameters["contract_digest"] == digest
        for host in "ab":
            change_contract(fakes[host], 233)
            fakes[host].connections += 1
        with pytest.raises(ContractMismatch, match=r"grpc://b:8001 alexnet_fp32.*create a new client"):
            client.probabilities(IMAGES)


def test_a_reply_of_a_server_that_was_replaced_during_the_request_is_refused(
    fakes: Fakes, client: Client
) -> None:
    for _ in range(2):
        client.probabilities(IMAGES)
    replaced = fakes["a"]

    def reply(request: Any) -> Any:
        if replaced.connections == 1:
            change_contract(replaced)
            replaced.connections += 1
        return np.eye(10, dtype=np.float32)[[9]]

    replaced.predict = reply
    for _ in range(6):
        assert client.probabilities(IMAGES).argmax() == 0
    assert replaced.connections == 2, "a request reached it"


@pytest.mark.parametrize("host", ["a", "b"])
def test_only_servers_that_are_there_are_needed(host: str, fakes: Fakes) -> None:
    fakes[host].failures.extend(Unreachable(host, got="connection refused") for _ in range(100))
    with Client("grpc://a,b", timeout_s=5) as client:
        assert client.probabilities(IMAGES).shape == (1, 10)


def test_the_error_names_every_server(fakes: Fakes) -> None:
    for host in "ab":
        fakes[host].failures.extend(Unreachable(f"grpc://{host}", got="refused") for _ in range(100))
    with pytest.raises(Unreachable, match=r"grpc://a:8001,b:8001: got .*grpc://(a|b): refused; grpc://"):
        Client("grpc://a,b", timeout_s=30).connect()


@pytest.mark.parametrize(
    ("silent_s", "timeout_s"),
    [
        (0.2, 60),
        (1000, 4),  # a quarter of the timeout for the silence, another for the probe: 2 s are left
    ],
)
def test_a_request_to_a_server_that_hangs_moves_on(
    silent_s: float, timeout_s: float, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balanced_transport, "SILENT_S", silent_s)
    monkeypatch.setattr(balanced_transport, "PROBE_S", silent_s)
    monkeypatch.setattr(balanced_transport, "WATCH_S", 0.05)
    with Client("grpc://a,b", timeout_s=60) as client:
        for _ in range(2):
            client.probabilities(IMAGES)
        client.timeout_s = timeout_s
        fakes["a"].hold()
        hang_readiness(fakes["a"])
        before = len(fakes["a"].requests)
        for _ in range(4):
            assert client.probabilities(IMAGES).shape == (1, 10)
        assert len(fakes["a"].requests) == before + 1, "it gets one request, and then no more"
        assert fakes["a"].in_flight == 0, "the request to it was cancelled"


def hang_readiness(fake: FakeTransport) -> None:
    answered = fake._reply_with
    fake.ready = lambda *, timeout_s: answered(lambda: True, takes_s=60, timeout_s=timeout_s)  # type: ignore[method-assign]


def test_a_slow_server_that_replies_to_a_probe_keeps_its_request(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balanced_transport, "SILENT_S", 0.1)
    monkeypatch.setattr(balanced_transport, "WATCH_S", 0.05)
    with Client("grpc://a,b", timeout_s=60) as client:
        client.model("alexnet_fp32")
        probes = [count_probes(fakes[host]) for host in "ab"]
        for host in "ab":
            fakes[host].delay_s = 0.5
        client.probabilities(IMAGES)
        assert any(probes)
        assert sum(requests_of(fakes, "a", "b")) == 1


def test_cancelling_a_stream_ends_its_requests(fakes: Fakes, client: Client) -> None:
    for host in "ab":
        fakes[host].hold()
    stream = client.classify_each(iter([IMAGES[0]] * 200), in_flight=4)

    def answer_the_first_of_four() -> None:
        wait_until(lambda: sum(fakes[host].in_flight for host in "ab") == 4, "four requests are open")
        first = min((fakes[host] for host in "ab"), key=lambda fake: number_of(fake.requests[0]))
        assert first._held is not None
        first._held.pop(0)()

    threading.Thread(target=answer_the_first_of_four).start()
    assert next(stream).error is None
    assert min(fakes[host].in_flight for host in "ab") >= 1
    stream.close()
    assert [fakes[host].in_flight for host in "ab"] == [0, 0]


def number_of(request: InferRequest) -> int:
    return int(request.id.rpartition("-")[2])


def test_shared_memory_needs_one_server(client: Client) -> None:
    with pytest.raises(BadRequest, match="several servers"):
        client.transport.regions(timeout_s=1).result()


def test_real_statuses_of_a_draining_server_move_requests_on() -> None:
    """What Triton 2.51 replies between SIGTERM and its end."""
    with served() as (a, first), served() as (_, second):
        client = Client(f"grpc://{first},{second}", timeout_s=5)
        with client:
            for _ in range(2):
                client.probabilities(IMAGES, model="alexnet_int8")
            for status, text in (
                (grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler has stopped accepting requests"),
                (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'm' has no available versions"),
                (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'm' is not found"),
            ):
                refused: list[str] = []

                def refuse(
                    request: Any, context: Any, now: Any = (status, text), refused: list[str] = refused
                ) -> None:
                    refused.append(now[1])
                    context.abort(*now)

                a.handlers["ModelInfer"] = refuse
                send_until(client, lambda refused=refused: bool(refused))  # type: ignore[misc]
                a.handlers["ModelInfer"] = infer


def test_the_addresses_of_a_name_are_looked_up_again(monkeypatch: pytest.MonkeyPatch, fakes: Fakes) -> None:
    hosts = ["10.0.0.1", "10.0.0.2"]
    faults: list[str] = []

    def addresses(host: str, port: int, *_: object, **__: object) -> list[Any]:
        assert (host, port) == ("name", 8001)
        if not hosts:
            faults.append(host)
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    monkeypatch.setattr(balanced_transport, "RESOLVE_S", 0.1)
    with Client("dns:///name:8001", timeout_s=5) as client:
        for _ in range(10):
            client.probabilities(IMAGES)
        assert requests_of(fakes, *hosts) == [5, 5]
        hosts[:] = ["10.0.0.2", "10.0.0.3"]
        send_until(client, lambda: fakes["10.0.0.1"].closed and bool(fakes["10.0.0.3"].requests))
        before = len(fakes["10.0.0.1"].requests)
        hosts.clear()  # the name service has a fault
        send_until(client, lambda: len(faults) >= 2)
        assert len(fakes["10.0.0.1"].requests) == before
    assert fakes["10.0.0.2"].closed


def send_until(client: Client, condition: Callable[[], bool]) -> None:
    def holds_after_a_request() -> bool:
        client.probabilities(IMAGES, model="alexnet_int8")
        return condition()

    wait_until(holds_after_a_request, "the condition of send_until")


def test_a_name_without_addresses_is_unreachable(monkeypatch: pytest.MonkeyPatch, fakes: Fakes) -> None:
    def addresses(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with pytest.raises(Unreachable, match="no address: Name or service not known"):
        Client("dns:///name:8001", timeout_s=30).connect()


def test_a_slow_name_service_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    answered: list[str] = []

    def addresses(host: str, *_: object, **__: object) -> list[Any]:
        answer.wait(60)
        answered.append(host)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    client = Client("dns:///name:8001", timeout_s=0.5)
    try:
        with pytest.raises(DeadlineExceeded, match=r"no address in 0\.\d+ s"):
            client.connect()
        assert not answered
    finally:
        answer.set()
        client.close()


def test_closing_during_the_first_lookup_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def addresses(*_: object, **__: object) -> list[Any]:
        asked.set()
        answer.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    client = Client("dns:///name:8001", timeout_s=60)

    def close() -> None:
        asked.wait(60)
        client.close()

    threading.Thread(target=close).start()
    try:
        with pytest.raises(ClientError, match="a client that is closed"):
            client.connect()
    finally:
        answer.set()
