"""serving/deploy/kubernetes: valid, confined, and like what the code runs. Nothing here needs a cluster.

The overlays are rendered by kubectl's kustomize; without it, all of this is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema
import kubernetes_validate
import numpy as np
import pytest
from ruamel.yaml import YAML

from alexnet_clients import Client
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE
from alexnet_pipeline.export_options import DEFAULT_MAX_BATCH
from alexnet_serving import RepositoryOptions
from alexnet_serving.servers.docker_server import PORTS_INSIDE, SHM_OPTION
from alexnet_serving.servers.ports import resolve_ports
from alexnet_serving.servers.tritonserver import (
    EXIT_TIMEOUT_S,
    assemble_backends,
    environment_of,
    server_options,
    wheel_of_this_python,
)

from ..stand_ins.programs import install
from ..waiting import wait_until
from .custom_resources import SCHEMAS

FOLDER = Path(__file__).parents[2] / "serving" / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "gateway", "kserve")
KUBERNETES = "1.37"
MODELS = "/mnt/models"
LABEL = {"app.kubernetes.io/name": "alexnet"}
Resource = dict[str, Any]

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")


@cache
def rendered(overlay: str) -> list[Resource]:
    text = subprocess.run(
        ["kubectl", "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True, check=True
    ).stdout
    return list(YAML(typ="safe", pure=True).load_all(text))


def the(kind: str, overlay: str = "cpu", name: str = "alexnet") -> Resource:
    (found,) = (r for r in rendered(overlay) if r["kind"] == kind and r["metadata"]["name"] == name)
    return found


def pod_of(overlay: str) -> Resource:
    """The specification of the pods; KServe's runtime is one, without what the InferenceService adds."""
    if overlay == "kserve":
        found: Resource = the("ClusterServingRuntime", overlay, "alexnet-triton")["spec"]
    else:
        found = the("Deployment", overlay)["spec"]["template"]["spec"]
    return found


def container_of(overlay: str) -> Resource:
    (container,) = pod_of(overlay)["containers"]
    found: Resource = container
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_is_valid(overlay: str) -> None:
    kinds = {resource["kind"] for resource in rendered(overlay)}
    if overlay != "kserve":
        assert kinds >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    for resource in rendered(overlay):
        try:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            jsonschema.validate(resource, SCHEMAS[resource["apiVersion"], resource["kind"]])


def test_the_pods_of_kserve_are_valid() -> None:
    """Its types embed those of Kubernetes, so a Deployment with the same pod is validated instead."""
    deployment = json.loads(json.dumps(the("Deployment")))
    runtime = pod_of("kserve")
    deployment["spec"]["template"]["spec"] = {key: runtime[key] for key in ("containers", "volumes")}
    kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_a_wrong_field_is_found() -> None:
    scaled = json.loads(json.dumps(the("ScaledObject")))
    scaled["spec"]["minReplicas"] = 2
    with pytest.raises(jsonschema.ValidationError, match="minReplicas"):
        jsonschema.validate(scaled, SCHEMAS[scaled["apiVersion"], scaled["kind"]])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_and_ports_are_those_of_the_code(overlay: str) -> None:
    container = container_of(overlay)
    assert container["image"] == (CPU_IMAGE if overlay == "cpu" else TRITON_IMAGE)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if overlay == "kserve":
        assert ports == {"h2c": PORTS_INSIDE["grpc"]}
        assert container["readinessProbe"]["httpGet"]["port"] == PORTS_INSIDE["http"]
        return
    assert ports == PORTS_INSIDE
    for name in ("alexnet", "alexnet-pods"):
        for port in the("Service", overlay, name)["spec"]["ports"]:
            assert (port["port"], port["targetPort"]) == (PORTS_INSIDE[port["name"]], port["name"])
    if overlay == "gateway":
        (rule,) = the("GRPCRoute", overlay)["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": "alexnet", "port": PORTS_INSIDE["grpc"]}]


def test_selectors_select_the_pods_and_nothing_else() -> None:
    pod = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert pod == LABEL
    assert the("Deployment")["spec"]["selector"] == {"matchLabels": LABEL}
    assert the("PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": LABEL}
    assert the("NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": LABEL}
    assert the("ServiceMonitor")["spec"]["selector"] == {"matchLabels": LABEL}
    assert (
        the("ServiceMonitor")["spec"]["jobLabel"] in the("Service", name="alexnet-pods")["metadata"]["labels"]
    )
    for name in ("alexnet", "alexnet-pods"):
        assert the("Service", name=name)["spec"]["selector"] == LABEL
    assert the("Service", name="alexnet-pods")["spec"]["clusterIP"] == "None"
    requests, metrics = the("NetworkPolicy")["spec"]["ingress"]
    assert requests["from"] == [{"podSelector": {"matchLabels": {"alexnet-client": "true"}}}]
    assert [port["port"] for port in metrics["ports"]] == ["metrics"]
    sources = the("NetworkPolicy", "gateway")["spec"]["ingress"][0]["from"]
    assert sources[1]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "gateway"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_confined(overlay: str) -> None:
    pod, container = pod_of(overlay), container_of(overlay)
    context = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert "/tmp" in mounts
    assert container["resources"]["limits"]["memory"]
    if overlay == "kserve":
        assert the("InferenceService", overlay)["spec"]["predictor"]["automountServiceAccountToken"] is False
    else:
        assert pod["automountServiceAccountToken"] is False
        assert mounts["/mnt"]["readOnly"] is True


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_to_drain(overlay: str) -> None:
    pod, container = pod_of(overlay), container_of(overlay)
    if overlay == "kserve":
        pod = the("InferenceService", overlay)["spec"]["predictor"]
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = container["readinessProbe"]
    assert 0 < sleep_s < pod["terminationGracePeriodSeconds"]
    assert pod["terminationGracePeriodSeconds"] >= sleep_s + EXIT_TIMEOUT_S + 10
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert readiness["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def command_of(overlay: str, repository: str) -> list[str]:
    """The command as Kubernetes passes it on: `$$` is `$`."""
    return [word.replace("$$", "$").replace(MODELS, repository) for word in container_of(overlay)["command"]]


def environment_in(overlay: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container_of(overlay)["env"]}


@pytest.mark.parametrize(
    ("overlay", "more"),
    [
        ("cpu", [SHM_OPTION, "--allow-gpu-metrics=false"]),
        ("gpu", ["--model-load-thread-count=1"]),
        ("kserve", ["--model-load-thread-count=1"]),
    ],
)
def test_the_options_of_triton_are_those_of_the_code(
    overlay: str, more: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "tritonserver", "printf '%s\\n' \"$@\"")
    models = tmp_path / "models"
    for folder in ("lost+found", "alexnet", "alexnet_int8"):
        (models / folder).mkdir(parents=True)
    for folder in ("alexnet", "alexnet_int8"):
        (models / folder / "config.pbtxt").touch()
    run = subprocess.run(
        command_of(overlay, str(models)),
        env={**os.environ, **environment_in(overlay)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = ["--load-model=alexnet", "--load-model=alexnet_int8"]
    assert run.stdout.splitlines() == [*loaded, *server_options(models), *more]


def triggers() -> dict[str, Resource]:
    return {trigger["name"]: trigger for trigger in the("ScaledObject")["spec"]["triggers"]}


def test_the_limits_of_scaling_agree_with_the_code() -> None:
    spec = the("ScaledObject")["spec"]
    queue, pending = triggers()["queue"], triggers()["pending"]
    assert 0.2 <= float(queue["metadata"]["threshold"]) <= 0.5
    assert queue["metricType"] == "Value", "a ratio is not divided by the replicas"
    assert f"- {RepositoryOptions().queue_delay_us}, 0)" in queue["metadata"]["query"]
    assert int(pending["metadata"]["threshold"]) == DEFAULT_MAX_BATCH
    assert pending["metricType"] == "AverageValue"
    startup = container_of("cpu")["startupProbe"]
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] > startup["periodSeconds"] * startup["failureThreshold"]
    (endpoint,) = the("ServiceMonitor")["spec"]["endpoints"]
    windows = re.findall(r"\[(\d+)m\]", queue["metadata"]["query"])
    assert windows
    assert all(60 * int(minutes) >= 4 * int(endpoint["interval"].removesuffix("s")) for minutes in windows)
    assert spec["scaleTargetRef"]["name"] == the("Deployment")["metadata"]["name"]
    assert "replicas" not in the("Deployment")["spec"], "kubectl apply would undo the scaling"
    assert spec["minReplicaCount"] > the("PodDisruptionBudget")["spec"]["maxUnavailable"]


def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here")
    rules = [{"record": name, "expr": t["metadata"]["query"]} for name, t in triggers().items()]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "rules.json"], check=True, capture_output=True)


def test_prometheus_computes_what_the_scaling_needs(tmp_path: Path) -> None:
    """Two replicas: one model waits half of its compute time; an ensemble and an idle model do not count."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here")

    def counters(model: str, requests: int, queue_us: int, compute_us: int) -> list[dict[str, str]]:
        rates = {
            "nv_inference_request_success": requests,
            "nv_inference_queue_duration_us": queue_us,
            "nv_inference_compute_infer_duration_us": compute_us,
            "nv_inference_pending_request_count": 0,
        }
        return [
            {
                "series": f'{name}{{job="alexnet", model="{model}", pod="{pod}"}}',
                "values": f"{7 * (rate == 0 and 'pending' in name)}+{rate}x20",
            }
            for name, rate in rates.items()
            for pod in ("a", "b")
        ]

    def expected(trigger: str, values: list[float]) -> dict[str, Any]:
        return {
            "expr": triggers()[trigger]["metadata"]["query"],
            "eval_time": "5m",
            "exp_samples": [{"labels": "{}", "value": value} for value in values],
        }

    idle = counters("alexnet_fp32", 0, 0, 0)
    busy = [*idle, *counters("alexnet_int8", 100, 50_000, 100_000), *counters("alexnet", 100, 0, 0)]
    tests = [
        {"interval": "15s", "input_series": series, "promql_expr_test": queries}
        for series, queries in (
            (busy, [expected("queue", [0.5]), expected("pending", [42])]),
            (idle, [expected("queue", []), expected("pending", [14])]),
        )
    ]
    (tmp_path / "tests.json").write_text(json.dumps({"tests": tests}))
    run = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.json"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def running(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """The container's command, run with the embedded Triton; the process and its ports."""
    for model in ("alexnet", "alexnet_decode", "alexnet_int8"):
        shutil.rmtree(repository / model)
    wheel = wheel_of_this_python()
    assemble_backends(wheel, tmp_path / "backends")
    interfaces = ("http", "grpc", "metrics")
    ports = resolve_ports(dict.fromkeys(interfaces, "127.0.0.1"), dict.fromkeys(interfaces))
    here = [
        f"--backend-directory={tmp_path / 'backends'}",
        *(f"--{name}-port={port}" for name, port in ports.items()),
        *(f"--{name}-address=127.0.0.1" for name in ports),
        "--allow-cpu-metrics=false",
    ]
    for name, value in environment_of(wheel).items():
        monkeypatch.setenv(name, value)
    install(monkeypatch, tmp_path, "tritonserver", f'exec {wheel.binary} "$@" {" ".join(here)}')
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_of("cpu", str(repository)),
            env={**os.environ, **environment_in("cpu")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, ports
    finally:
        process.send_signal(signal.SIGTERM)  # does nothing if it has ended
        try:
            process.wait(EXIT_TIMEOUT_S + 60)  # SIGKILL at once would leave shared memory
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def replies(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def wait_until_ready(process: subprocess.Popen[bytes], ports: dict[str, int], log: Path) -> None:
    probe = container_of("cpu")["readinessProbe"]["httpGet"]
    url = f"http://127.0.0.1:{ports[probe['port']]}{probe['path']}"
    wait_until(lambda: replies(url) or process.poll() is not None, "the server is ready", within_s=120)
    assert process.poll() is None, log.read_text()[-3000:]


@contextmanager
def prometheus_of(metrics_port: int, folder: Path) -> Iterator[str]:
    """Prometheus that scrapes a server each second, and the URL of its queries."""
    (endpoint,) = the("ServiceMonitor")["spec"]["endpoints"]
    scraped = {
        "job_name": "alexnet",
        "scrape_interval": "1s",
        "metrics_path": endpoint["path"],
        "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}],
    }
    (folder / "prometheus.json").write_text(json.dumps({"scrape_configs": [scraped]}))
    port = resolve_ports({"web": "127.0.0.1"}, {"web": None})["web"]
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.json'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as prometheus:
        try:
            yield f"http://127.0.0.1:{port}/api/v1/query"
        finally:
            prometheus.kill()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus here")
def test_prometheus_computes_the_queries_from_a_servers_metrics(
    running: tuple[subprocess.Popen[bytes], dict[str, int]], tmp_path: Path
) -> None:
    """Many requests at a time wait for one instance, so the share of the queue is above the threshold."""
    process, ports = running
    wait_until_ready(process, ports, tmp_path / "log")
    found: dict[str, float] = {}
    threshold = float(triggers()["queue"]["metadata"]["threshold"])
    with (
        prometheus_of(ports["metrics"], tmp_path) as url,
        Client(f"grpc://127.0.0.1:{ports['grpc']}", timeout_s=60) as client,
    ):
        until = time.monotonic() + 90
        while not (found.keys() == triggers().keys() and found["queue"] > threshold):
            assert time.monotonic() < until, found
            list(client.classify_each([np.zeros((224, 224, 3), np.uint8)] * 256, in_flight=64))
            for name, trigger in triggers().items():
                query = urlencode({"query": trigger["metadata"]["query"]})
                with suppress(OSError), urllib.request.urlopen(f"{url}?{query}", timeout=5) as response:
                    for row in json.load(response)["data"]["result"]:
                        found[name] = float(row["value"][1])
    assert found["pending"] >= 0


@pytest.mark.slow
def test_the_command_of_the_container_serves_and_ends(
    running: tuple[subprocess.Popen[bytes], dict[str, int]], tmp_path: Path
) -> None:
    """Its probes pass, the metrics of the queries are there, and SIGTERM ends it in its time with 0."""
    process, ports = running
    wait_until_ready(process, ports, tmp_path / "log")
    live = container_of("cpu")["livenessProbe"]["httpGet"]
    assert replies(f"http://127.0.0.1:{ports[live['port']]}{live['path']}")
    with Client(f"grpc://127.0.0.1:{ports['grpc']}") as client:
        for _ in range(5):
            client.probabilities(np.zeros((1, 224, 224, 3), np.uint8))
    path = the("ServiceMonitor")["spec"]["endpoints"][0]["path"]
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics']}{path}") as response:
        samples = re.findall(r"^(nv_\w+)\{([^}]*)\}", response.read().decode(), re.MULTILINE)
    exported = {name: set(re.findall(r"(\w+)=", labels)) for name, labels in samples}
    for trigger in triggers().values():
        queried = set(re.findall(r"\bnv_\w+", trigger["metadata"]["query"]))
        assert queried
        assert queried <= exported.keys()
        assert all("model" in exported[name] for name in queried)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(EXIT_TIMEOUT_S + 10) == 0
    assert time.monotonic() - started < EXIT_TIMEOUT_S + 10
