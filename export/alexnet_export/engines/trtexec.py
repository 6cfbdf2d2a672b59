"""NVIDIA's `trtexec` inside the image that will serve the engine, so that versions match by construction.

`engine_from_onnx_in_docker` builds an engine and `TrtexecRunner` runs it, for the gate. This machine needs
Docker and a GPU, but no TensorRT of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import time
from pathlib import Path
from typing import Self

import numpy as np

from alexnet_model import docker
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import DockerError, EngineError
from alexnet_model.files import atomic_file, folder_beside, link_or_copy
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.passport import HardwareCompatibility, Passport, Profile
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from ..runners import Outputs
from .options import EngineOptions, timing_cache_name
from .passports import layer_precisions_from_json, runtime_info, write_engine_passport
from .tensorrt_api import reason_from_log
from .tensorrt_compiler import advice_for

BUILD_TIMEOUT_S = 3600.0
RUN_TIMEOUT_S = 120.0
START_TIMEOUT_S = 180.0  # without persistence mode, a GPU takes a while to initialise
ONE_ITERATION = ("--iterations=1", "--warmUp=0", "--duration=0")
TRTEXEC_PATH = (
    "/usr/src/tensorrt/bin:/opt/tensorrt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
CONTAINER_LIFETIME_S = 7200  # after it, a container that was not removed ends by itself
_HARDWARE: dict[HardwareCompatibility, str] = {
    "none": "none",
    "same-compute-capability": "sameComputeCapability",
    "ampere-plus": "ampere+",
}


def engine_from_onnx_in_docker(
    onnx: Path,
    engine: Path,
    options: EngineOptions,
    *,
    precision: Precision,
    profile: Profile,
    contract: Contract,
    gpu: Gpu,
    cuda: str | None = None,
    progress: Progress = silent,
) -> Passport:
    """Build an engine in a container, and write it with its passport beside it; neither on an error.

    Args:
        onnx: The ONNX file.
        engine: The file to write.
        options: How to build; `options.image` is the image to build in.
        precision: The precision of the ONNX file, for the passport.
        profile: The batches that the engine takes.
        contract: The model's input contract.
        gpu: The GPU to build on.
        cuda: The newest CUDA version that the driver supports, for the passport.
        progress: Called with the progress of the build.

    Raises:
        DockerError: no Docker engine, no GPU runtime, or no such image.
        EngineError: TensorRT cannot parse or build the file; its last error is in the message.
        OSError: the engine cannot be written.
    """
    version = docker.tensorrt_of_image(options.image)
    digest = docker.digest_of_image(options.image)
    options.timing_caches.mkdir(parents=True, exist_ok=True)
    stage = f"building {precision} engine"
    progress(stage, 0, 1, "in Docker")
    started = time.perf_counter()
    with folder_beside(engine) as work:
        link_or_copy(onnx, work / "model.onnx")
        command = [
            *_container(options.image, gpu, work, options.timing_caches),
            options.image,
            *trtexec_build_command(options, profile, contract, timing_cache_name("tensorrt", version, gpu)),
        ]
        _run(command, f"{onnx} in {options.image}", BUILD_TIMEOUT_S, makes=work / "model.plan")
        layers = work / "layers.json"
        layer_precisions = layer_precisions_from_json(layers.read_text()) if layers.is_file() else None
        with atomic_file(engine) as part:
            (work / "model.plan").replace(part)
    seconds = time.perf_counter() - started
    progress(stage, 1, 1, "in Docker")
    return write_engine_passport(
        engine,
        onnx,
        options,
        runtime_version=version,
        precision=precision,
        profile=profile,
        build_seconds=seconds,
        gpu=gpu,
        cuda=cuda,
        layer_precisions=layer_precisions,
        image=options.image,
        image_digest=digest,
    )


def trtexec_build_command(
    options: EngineOptions, profile: Profile, contract: Contract, timing_cache: str
) -> list[str]:
    """Return trtexec's command line: true FP32, strongly typed (11 always is), run once to be inspected.

    With `--skipInference`, trtexec would inspect without shapes and not report a dynamic engine's types.
    """

    def shapes(batch: int) -> str:
        return f"{contract.input_name}:{'x'.join(map(str, (batch, *contract.image_shape)))}"

    command = [
        "trtexec",
        "--onnx=/job/model.onnx",
        "--saveEngine=/job/model.plan",
        "--stronglyTyped",
        "--noTF32",
        f"--minShapes={shapes(profile.min)}",
        f"--optShapes={shapes(profile.opt)}",
        f"--maxShapes={shapes(profile.max)}",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=/job/layers.json",
        f"--timingCacheFile=/cache/{timing_cache}",
        *ONE_ITERATION,
    ]
    if options.hardware_compatibility != "none":
        command.append(f"--hardwareCompatibilityLevel={_HARDWARE[options.hardware_compatibility]}")
    if options.version_compatible:
        command.append("--versionCompatible")
    return command


class TrtexecRunner:
    """Run an engine with `trtexec` in the image that it was built in: slow, and to six digits.

    One container lives as long as the `with`. Each request is one `trtexec` inside it, which starts CUDA and
    loads the engine.

    Args:
        engine: The engine's file.
        passport: Its passport, which names the image.
        gpu: The GPU to run on.
        contract: The model's input contract.

    Raises (on entering):
        DockerError: no Docker engine, no GPU runtime, or no such image.
    """

    def __init__(self, engine: Path, passport: Passport, *, gpu: Gpu, contract: Contract) -> None:
        assert passport.image is not None
        self._engine = engine
        self._passport = passport
        self._image = passport.image
        self._gpu = gpu
        self._contract = contract
        self._name = f"alexnet-{secrets.token_hex(6)}"

    def __enter__(self) -> Self:
        self._opened = contextlib.ExitStack()
        self._work = self._opened.enter_context(folder_beside(self._engine))
        try:
            link_or_copy(self._engine, self._work / "model.plan")
            docker.ask(
                *_container(self._image, self._gpu, self._work)[1:],
                "--detach",
                f"--name={self._name}",
                "--entrypoint=sleep",
                self._image,
                str(CONTAINER_LIFETIME_S),
                timeout_s=START_TIMEOUT_S,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self._name)
        self._opened.close()

    @property
    def runtime(self) -> RuntimeInfo:
        return runtime_info(self._passport, self._gpu.name)

    def infer(self, images: Uint8Array) -> Outputs:
        shape = "x".join(map(str, images.shape))
        (self._work / "images.raw").write_bytes(np.ascontiguousarray(images).tobytes())
        command = [docker.PROGRAM, "exec", self._name, "trtexec", "--loadEngine=/job/model.plan"]
        command += [f"--shapes={self._contract.input_name}:{shape}"]
        command += [f"--loadInputs={self._contract.input_name}:/job/images.raw"]
        command += ["--exportOutput=/job/outputs.json", *ONE_ITERATION]
        if self._passport.version_compatible:
            command.append("--versionCompatible")
        outputs = self._work / "outputs.json"
        outputs.unlink(missing_ok=True)  # do not read an earlier request's file
        _run(command, f"{self._engine} in {self._image}", RUN_TIMEOUT_S, makes=outputs)
        return _outputs_from_json(outputs.read_text(), self._contract)


def _container(image: str, gpu: Gpu, work: Path, cache: Path | None = None) -> list[str]:
    """Return `docker run` with one GPU, no network, and only the work folder and the cache writable."""
    return [
        docker.PROGRAM,
        "run",
        "--rm",
        "--pull=never",
        "--network=none",
        f"--gpus=device={gpu.index}",
        f"--user={os.getuid()}:{os.getgid()}",  # so that this user owns what it writes
        # The image's own PATH may lack the folder of trtexec.
        f"--env=PATH={TRTEXEC_PATH}",
        *docker.CONFINED,
        docker.mount(work, "/job", read_only=False),
        *([docker.mount(cache, "/cache", read_only=False)] if cache else []),
    ]


def _run(command: list[str], subject: str, timeout_s: float, *, makes: Path) -> None:
    """Run a command to its end, and raise the error that trtexec or Docker printed.

    An interrupt or the deadline also removes a new container: killing the client alone leaves it running.
    """
    name = None
    if command[1] == "run":
        name = f"alexnet-{secrets.token_hex(6)}"
        command = [*command[:2], f"--name={name}", *command[2:]]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise docker.no_docker() from error
    with process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException as error:
            process.kill()
            process.wait()
            if name:
                _remove(name)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise EngineError(
                subject,
                got=f"not finished after {timeout_s:g} s",
                expected="trtexec to finish",
                next_step="Check what else runs on the GPU: nvidia-smi",
            ) from error
    if process.returncode == 0 and makes.is_file():
        return
    if "[E]" not in output + errors and process.returncode:
        raise docker.error_from_output(f"docker {command[1]}", errors or output, process.returncode)
    raise _error_from_trtexec(output + errors, subject, makes)


def _error_from_trtexec(text: str, subject: str, makes: Path) -> EngineError:
    """Make an error with the node, if one is named, and the reason, from the lines marked as errors.

    The parser prints the node first (`While parsing node number 7 [Conv -> "x"]`) and the reason later.
    """
    where = re.search(r'While parsing node number \d+ \[(\w+) -> "([^"]*)"', text)
    named = re.search(r"Node name: (\S+)", text)
    if where:
        subject = f"{subject}: node {named[1] if named else where[2]} ({where[1]})"
    why = re.search(r"In function \w+:\s*\n\[\d+\] (.+(?:\n(?!\[|&&&&).+)*)", text)
    errors = re.findall(r"\[E\] (?:\[TRT\] )?(?:Error\[\d+\]: )?(.+)", text)
    reason = why[1] if why else errors[0] if errors else f"no {makes.name} and no error message"
    return EngineError(
        subject,
        got=reason_from_log(reason),
        expected="success from trtexec",
        next_step=advice_for(text) if where else "Check this machine: alexnet doctor",
    )


def _remove(name: str) -> None:
    with contextlib.suppress(DockerError):  # the error before it is the one to report
        docker.ask("rm", "--force", name)


def _outputs_from_json(text: str, contract: Contract) -> Outputs:
    """Parse `[{"name": "logits", "dimensions": "8x10", "values": [...]}, ...]`, with C++'s `nan`."""
    text = re.sub(r"-?\bnan\b", "NaN", text)
    text = re.sub(r"\binf\b", "Infinity", text)
    arrays = {}
    for tensor in json.loads(text):
        shape = tuple(int(side) for side in tensor["dimensions"].split("x"))
        arrays[tensor["name"]] = np.array(tensor["values"], np.float32).reshape(shape)
    return Outputs(arrays[contract.probabilities_name], arrays[contract.logits_name])
