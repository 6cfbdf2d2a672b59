"""What the demo measures: every precision at each batch, in process and served, and the ratios that count.

    measurements = measure(manifest, folder, server.grpc_url)

In process means the runtime that serves the precision, with the options that it is served with, in this
process. The server must be on this machine and have nothing else to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_clients import Client, ServedModel, ServerUrl, transport_from_url
from alexnet_export import Runner, runner_from_artifact
from alexnet_model.contract import Uint8Array
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import BadResponse, UsageError
from alexnet_model.manifest import PRECISIONS, Manifest, Precision
from alexnet_model.progress import Progress, silent

from .lanes import InProcessLane, Lane, ServedLane, pool_of_images
from .records import Case, Measurements, Through
from .side_by_side import Plan, side_by_side

# Batch and requests in flight through the server, against a batch in process: few large and many small.
SERVED_AGAINST_IN_PROCESS = ((32, 2, 32), (1, 16, 16))
# The batch at which a precision is held against FP32.
PRECISIONS_BATCH = 32
# The same runtime with the same options differs only by the order of its additions.
_SAME_PROBABILITY = 1e-3


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Ratios get longer slices and more rounds than the ladder of batches; about 40 s in all."""

    batches: tuple[int, ...] = (1, 8, 32)
    sweep: Plan = field(default_factory=lambda: Plan(rounds=3, slice_s=0.1))
    ratios: Plan = field(default_factory=lambda: Plan(rounds=5, slice_s=0.5))

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise UsageError("batches", got=f"{self.batches}", expected="at least one, each of 1 or more")


def measure(
    manifest: Manifest,
    folder: Path,
    url: str,
    *,
    options: MeasureOptions | None = None,
    progress: Progress = silent,
) -> Measurements:
    """Measure every accepted precision of the export in `folder`, in process and on the server at `url`.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        ExportError: a file cannot be loaded in process.
        BadResponse: the server answers otherwise than in process: it serves another model.
        ClientError: the server cannot be reached, or did not answer.
    """
    options = options or MeasureOptions()
    started = time.perf_counter()
    contract = manifest.contract
    images = pool_of_images(contract, 4 * manifest.max_batch)
    with ExitStack() as opened:
        transport = transport_from_url(ServerUrl.parse(url))
        client = opened.enter_context(Client(url, contract=contract, transport=transport))
        models: dict[Precision, LoadedModel] = {}
        for artifact in manifest.accepted:
            progress("loading in process", len(models), len(manifest.accepted), artifact.precision)
            runner = opened.enter_context(runner_from_artifact(artifact, folder))
            model = LoadedModel(
                artifact.precision, manifest.max_batch, runner, client.model(f"alexnet_{artifact.precision}")
            )
            check_same_answers(model, client, images[: min(2, manifest.max_batch)])
            models[artifact.precision] = model
        progress("loading in process", len(models), len(models))

        def lane(case: Case) -> Lane:
            model = models[case.precision]
            if case.through == "in process":
                return InProcessLane(case, model.runner, images)
            return ServedLane(case, transport, model.served.name, images, contract=contract)

        return _measured(models, lane, options, started, progress)


@dataclass(frozen=True)
class LoadedModel:
    """One precision, loaded in process and found on the server."""

    precision: Precision
    max_batch: int
    runner: Runner
    served: ServedModel

    def in_process(self, batch: int) -> Case:
        return self._case("in process", self.runner.runtime.computes_in, batch, 1)

    def through_server(self, batch: int, in_flight: int) -> Case:
        return self._case("server", self.served.computes_in, batch, in_flight)

    def _case(self, through: Through, computes_in: str, batch: int, in_flight: int) -> Case:
        runtime = self.runner.runtime
        return Case(
            precision=self.precision,
            through=through,
            runtime=runtime.name,
            device=runtime.device,
            computes_in=computes_in,
            batch=min(batch, self.max_batch),
            in_flight=in_flight,
        )


def _measured(
    models: Mapping[Precision, LoadedModel],
    lane: Callable[[Case], Lane],
    options: MeasureOptions,
    started: float,
    progress: Progress,
) -> Measurements:
    precisions, serving = precision_pairs(models), serving_pairs(models)
    paired_cases = list(dict.fromkeys(case for pair in precisions + serving for case in pair))
    sweep_cases = [case for case in sweep(models, options.batches) if case not in paired_cases]
    paired = side_by_side(
        [lane(case) for case in paired_cases], options.ratios, progress=progress, stage="measuring ratios"
    )
    breakdown = side_by_side(
        [lane(case) for case in sweep_cases], options.sweep, progress=progress, stage="measuring batches"
    )
    return Measurements(
        machine=machine_name(),
        versions=versions_of("grpcio", "numpy", "onnxruntime", "openvino", "tritonclient"),
        rows=tuple(sorted(paired.rows() + breakdown.rows(), key=lambda row: _order(row.case))),
        precisions=tuple(paired.ratio(of, against) for of, against in precisions),
        serving=tuple(paired.ratio(of, against) for of, against in serving),
        seconds=time.perf_counter() - started,
    )


def precision_pairs(models: Mapping[Precision, LoadedModel]) -> list[tuple[Case, Case]]:
    """Every other precision against FP32, in process at the same batch."""
    if "fp32" not in models:
        return []
    fp32 = models["fp32"].in_process(PRECISIONS_BATCH)
    return [
        (model.in_process(PRECISIONS_BATCH), fp32) for model in models.values() if model.precision != "fp32"
    ]


def serving_pairs(models: Mapping[Precision, LoadedModel]) -> list[tuple[Case, Case]]:
    """INT8 through the server against the same runtime in process: there the server costs the most."""
    if "int8" not in models:
        return []
    int8 = models["int8"]
    return [
        (int8.through_server(batch, in_flight), int8.in_process(batch_in_process))
        for batch, in_flight, batch_in_process in SERVED_AGAINST_IN_PROCESS
    ]


def sweep(models: Mapping[Precision, LoadedModel], batches: Sequence[int]) -> list[Case]:
    """Every precision at every batch, in process and through the server with one request at a time."""
    return [
        case
        for model in models.values()
        for batch in batches
        if batch <= model.max_batch
        for case in (model.in_process(batch), model.through_server(batch, 1))
    ]


def check_same_answers(model: LoadedModel, client: Client, images: Uint8Array) -> None:
    """Make sure that what is served is what is loaded in process.

    Raises:
        BadResponse: the probabilities of `images` differ.
        ClientError: no answer.
    """
    here = model.runner.infer(images).probabilities
    there = client.probabilities(images, model=model.served.name)
    furthest = float(np.abs(here - there).max()) if here.shape == there.shape else 1.0
    if furthest > _SAME_PROBABILITY:
        raise BadResponse(
            f"{client.url} {model.served.name}",
            got=f"probabilities up to {furthest:.2g} from those in process",
            expected=f"the same within {_SAME_PROBABILITY:g}",
            next_step="It serves another export: write its repository again.",
        )


def _order(case: Case) -> tuple[bool, int, int, int]:
    return (case.through == "server", PRECISIONS.index(case.precision), case.batch, case.in_flight)
