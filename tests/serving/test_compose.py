"""compose.yaml, the Dockerfile and the monitoring beside it: valid, confined, and like what the code runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alexnet_model.triton_image import BUILD_CPU_IMAGE, CPU_IMAGE, TRITON_IMAGE
from alexnet_serving import EmbeddedServer
from alexnet_serving.servers.docker_server import OWN_SHM, SHM_OPTION, ULIMITS, VERSION_COMPATIBLE
from alexnet_serving.servers.tritonserver import (
    EXIT_TIMEOUT_S,
    assemble_backends,
    server_options,
    wheel_of_this_python,
)

from ..folders import contents_of
from ..stand_ins.programs import install

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serving" / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DASHBOARDS = sorted((DEPLOY / "monitoring" / "grafana" / "dashboards").glob("*.json"))
# https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
TRITON_SERVICES = ("triton", "triton-cpu")


def loaded(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def filled(text: str, **variables: str) -> str:
    """Compose's own interpolation of `${NAME:-default}` and `$$`."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)
    return text.replace("$$", "$")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = loaded(COMPOSE)["services"]
    return found


def test_what_its_header_tells() -> None:
    text = COMPOSE.read_text()
    header, _, rest = text.partition("\nname:")
    assert all(line.startswith("#") for line in header.splitlines() if line)
    for variable in ("MODEL_REPOSITORY", "SERVER_USER", "TRITON_OPTIONS", "TRITON_IMAGE", "BIND_ADDRESS"):
        assert variable in header
        assert f"${{{variable}:-" in rest
    assert f"TRITON_OPTIONS={VERSION_COMPATIBLE}" in header
    assert '--profile "*" down' in header
    assert "alexnet lint" in header


def test_compose_is_valid() -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run([tool, "--builtin-schema", "vendor.compose-spec", COMPOSE], check=True)


def test_compose_reads_it() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Compose here")
    profiles = ["--profile", "cpu", "--profile", "monitoring"]
    subprocess.run(["docker", "compose", "-f", COMPOSE, *profiles, "config", "--quiet"], check=True)


def test_who_starts_when(services: dict[str, dict[str, Any]]) -> None:
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "triton": None,
        "triton-cpu": ["cpu"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


def test_images_are_the_pinned_ones(services: dict[str, dict[str, Any]]) -> None:
    assert filled(services["triton"]["image"]) == TRITON_IMAGE
    assert f"TRITON_IMAGE={CPU_IMAGE}\n" in COMPOSE.read_text()
    assert services["triton-cpu"]["image"] == CPU_IMAGE
    build = services["triton-cpu"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    assert context / build["dockerfile"] == DEPLOY / "Dockerfile"
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", services[name]["image"]), "an exact version"
    assert re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE) == [TRITON_IMAGE]


@pytest.mark.parametrize("name", ["triton", "triton-cpu", "prometheus", "grafana"])
def test_every_container_is_confined(name: str, services: dict[str, dict[str, Any]]) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, _, group = filled(service["user"]).partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["ports"]
    for port in service["ports"]:
        assert filled(port).startswith("127.0.0.1:"), "loopback by default"
    assert filled(service["ports"][0], BIND_ADDRESS="0.0.0.0", MONITORING_ADDRESS="0.0.0.0").startswith("0.0")
    assert not {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"} & service.keys()
    for volume in service["volumes"]:
        if isinstance(volume, str) and not volume.startswith("prometheus:"):
            assert volume.endswith(":ro")
            assert (DEPLOY / volume.partition(":")[0]).exists()


@pytest.mark.parametrize("name", TRITON_SERVICES)
def test_what_triton_is_given(name: str, services: dict[str, dict[str, Any]]) -> None:
    service = services[name]
    (volume,) = service["volumes"]
    assert volume == {
        "type": "bind",
        "source": "${MODEL_REPOSITORY:-../../model_repository}",
        "target": "/models",
        "read_only": True,
        "bind": {"create_host_path": False},
    }
    assert (DEPLOY / filled(volume["source"])).resolve() == ROOT / "model_repository"
    assert [filled(port) for port in service["ports"]] == [
        f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002)
    ]
    options = {f"--ulimit={name}={limit}" for name, limit in service["ulimits"].items()}
    assert {*options, f"--shm-size={service['shm_size'].removesuffix('b')}"} == {OWN_SHM, *ULIMITS}
    assert service["init"] is True
    assert service["stop_grace_period"] == f"{EXIT_TIMEOUT_S + 5}s"


def test_only_engines_get_the_gpu(services: dict[str, dict[str, Any]]) -> None:
    (device,) = services["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services["triton-cpu"]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("triton", ["--model-load-thread-count=1", "--mine=1"]),
        ("triton-cpu", [SHM_OPTION, "--allow-gpu-metrics=false", "--mine=1"]),
    ],
)
def test_the_options_of_triton_are_those_of_the_code(
    name: str,
    more: list[str],
    services: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The shell of `command` runs here, with a `tritonserver` that prints its arguments."""
    install(monkeypatch, tmp_path, "tritonserver", "printf '%s\\n' \"$@\"")
    command = [filled(word) for word in services[name]["command"]]
    options = filled(services[name]["environment"]["TRITON_OPTIONS"], TRITON_OPTIONS="--mine=1")
    run = subprocess.run(
        command, env={**os.environ, "TRITON_OPTIONS": options}, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [*server_options("/models"), *more]


@pytest.mark.parametrize("name", TRITON_SERVICES)
def test_only_folders_with_a_configuration_are_loaded(
    name: str, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By itself Triton takes every folder for a model, and ends."""
    install(monkeypatch, tmp_path, "tritonserver", "printf '%s\\n' \"$@\"")
    models = tmp_path / "models"
    for folder in ("lost+found", "@eaDir", ".trash", "alexnet", "alexnet_int8"):
        (models / folder).mkdir(parents=True)
    for folder in (".trash", "alexnet", "alexnet_int8"):
        (models / folder / "config.pbtxt").touch()
    command = [filled(word).replace("/models", str(models)) for word in services[name]["command"]]
    environment = {**os.environ, "TRITON_OPTIONS": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = [option for option in run.stdout.splitlines() if option.startswith("--load-model")]
    assert loaded == ["--load-model=alexnet", "--load-model=alexnet_int8"]


@pytest.mark.parametrize("name", TRITON_SERVICES)
def test_the_health_check_asks_for_readiness(
    name: str, server: EmbeddedServer, services: dict[str, dict[str, Any]]
) -> None:
    kind, *command = services[name]["healthcheck"]["test"]
    assert kind == "CMD"
    here = [word.replace("http://127.0.0.1:8000", server.http_url) for word in command]
    assert here != command
    subprocess.run(here, check=True, capture_output=True)
    gone = [word.replace("http://127.0.0.1:8000", "http://127.0.0.1:9") for word in command]
    assert subprocess.run(gone, check=False, capture_output=True).returncode == 1


def test_the_dockerfile_installs_what_was_tested() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    installed = re.findall(r"^\s+([\w.-]+)==(\S+)", text, re.MULTILINE)
    constraints = (ROOT / "constraints.txt").read_text()
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE))
    assert {name for name, _ in installed} == {"numpy", "openvino", "pillow"}
    assert {name: tested[name] for name, _ in installed} == dict(installed)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000:1000"


def test_the_dockerfile_is_built_from_the_repository() -> None:
    assert f"#   {BUILD_CPU_IMAGE}\n" in (DEPLOY / "Dockerfile").read_text()


def test_the_dockerfile_copies_the_backends_and_nothing_else(tmp_path: Path) -> None:
    """Run its COPY lines, and compare the folders with those that the embedded server assembles."""
    root = ROOT
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    copied = []
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        mode, *sources, target = shlex.split(line)
        assert mode == "--chmod=0555"
        copied += sources
        folder = tmp_path / "image" / Path(target).relative_to("/opt/tritonserver/backends")
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            found = list(root.glob(source))
            assert found, source
            for path in found:
                shutil.copy(path, folder / path.name)
    # BuildKit reads the one beside a Dockerfile before the context's own.
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert [line for line in ignored if not line.startswith("#")] == ["*", *(f"!{s}" for s in copied)]

    assemble_backends(wheel_of_this_python(), tmp_path / "embedded")
    for backend in ("openvino_dynamic", "image_decoder"):
        assert contents_of(tmp_path / "image" / backend) == contents_of(tmp_path / "embedded" / backend)


def test_prometheus_asks_whichever_triton_runs(services: dict[str, dict[str, Any]]) -> None:
    (job,) = loaded(DEPLOY / "monitoring" / "prometheus.yml")["scrape_configs"]
    (targets,) = job["static_configs"]
    assert targets == {"targets": ["triton:8002"]}
    assert services["triton-cpu"]["networks"]["default"]["aliases"] == ["triton"]
    mounted = services["prometheus"]["volumes"][0].split(":")
    assert mounted[:2] == ["./monitoring/prometheus.yml", "/etc/prometheus/prometheus.yml"]
    assert f"--config.file={mounted[1]}" in services["prometheus"]["command"]


def test_grafana_finds_prometheus_and_its_dashboards(services: dict[str, dict[str, Any]]) -> None:
    provisioning = DEPLOY / "monitoring" / "grafana" / "provisioning"
    (source,) = loaded(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert (
        source["jsonData"]["timeInterval"]
        == (loaded(DEPLOY / "monitoring" / "prometheus.yml")["global"]["scrape_interval"])
    )
    (provider,) = loaded(provisioning / "dashboards" / "dashboards.yml")["providers"]
    folder = provider["options"]["path"]
    assert f"./monitoring/grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
    assert "./monitoring/grafana/provisioning:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in {f"{folder}/{path.name}" for path in DASHBOARDS}
    for path in DASHBOARDS:
        assert set(re.findall(r'"uid": "(prometheus)"', path.read_text())) == {source["uid"]}


def queries_of(dashboard: Path) -> list[str]:
    found = json.loads(dashboard.read_text())
    panels = [panel for panel in found["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return [*queries, *(variable["query"]["query"] for variable in found["templating"]["list"])]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_every_metric_of_the_dashboard_is_one_that_triton_exports(
    dashboard: Path, server: EmbeddedServer
) -> None:
    with urllib.request.urlopen(server.metrics_url) as response:
        samples = re.findall(r"^(nv_\w+)\{([^}]*)\}", response.read().decode(), re.MULTILINE)
    exported = {name: set(re.findall(r"(\w+)=", labels)) for name, labels in samples}
    queried = {name for query in queries_of(dashboard) for name in re.findall(r"\bnv_\w+", query)}
    assert {
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_count",
        "nv_inference_exec_count",
        *GPU_METRICS,
    } <= queried
    assert queried - GPU_METRICS <= exported.keys()
    for query in queries_of(dashboard):
        names = set(re.findall(r"\bnv_\w+", query)) - GPU_METRICS
        labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        for name in names:
            assert labels - {"instance"} <= exported[name], query  # which Prometheus adds


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_the_panels_of_a_dashboard_do_not_overlap(dashboard: Path) -> None:
    panels = json.loads(dashboard.read_text())["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ["Queue", "Replicas"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_prometheus_parses_every_query(dashboard: Path, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here")
    rules = [
        {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries_of(dashboard))
        if not query.startswith("label_values(")
    ]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "rules.json"], check=True, capture_output=True)
    subprocess.run(
        ["promtool", "check", "config", DEPLOY / "monitoring" / "prometheus.yml"],
        check=True,
        capture_output=True,
    )
