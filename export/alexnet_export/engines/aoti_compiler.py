"""Compile an ONNX file with AOTInductor: `engine_from_onnx`, and the process of its own that it compiles in.

A process of its own can be ended at a time limit or an interrupt, together with the C++ compilers and the
tuning processes that it starts. It leaves this process's PyTorch as it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from alexnet_model.contract import Contract
from alexnet_model.cxx_compiler import INSTALL, advice_after_failure, compiler_or_problem
from alexnet_model.environment import cpu_extensions, machine_name, versions_of
from alexnet_model.errors import EngineError
from alexnet_model.files import atomic_file, folder_beside, temporary_folder
from alexnet_model.gpus import Gpu
from alexnet_model.passport import Passport, Profile
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from .options import EngineOptions
from .passports import write_engine_passport
from .torch_from_onnx import torch_from_onnx

AUTOTUNE_LIMIT_S = 300.0  # then kernels are chosen without measuring them
COMPILE_LIMIT_S = 1200.0
POLL_S = 0.5
SHORT_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
HEAVY = ("convolution", "conv2d", "linear", "addmm", "mm", "matmul", "bmm")


@dataclass(frozen=True, kw_only=True)
class CompileJob:
    """What the compiling process is given, as JSON.

    Attributes:
        onnx: The ONNX file.
        engine: The `.pt2` to write.
        facts: The JSON file to write, with the types of the heavy layers.
        image_shape: The shape of one image, `(S, S, 3)`.
        opt_batch: The batch that kernels are chosen for.
        max_batch: The largest batch.
        gpu: PyTorch's number of the GPU to compile for; None compiles for the CPU.
        autotune: Whether to measure kernels and take the fastest.
    """

    onnx: str
    engine: str
    facts: str
    image_shape: tuple[int, ...]
    opt_batch: int
    max_batch: int
    gpu: int | None = None
    autotune: bool = False


def check_compiler() -> None:
    """Check that this machine has a C++ compiler that works, without which nothing can be compiled.

    Raises:
        EngineError: it has none.
    """
    _, problem = compiler_or_problem()
    if problem:
        raise EngineError(
            "C++ compiler",
            got=problem,
            expected="one that works, with which AOTInductor compiles",
            next_step=f"Install one: {INSTALL}",
        )


def engine_from_onnx(
    onnx: Path,
    engine: Path,
    options: EngineOptions,
    *,
    precision: Precision,
    profile: Profile,
    contract: Contract,
    gpu: Gpu | None = None,
    gpu_index: int | None = None,
    cuda: str | None = None,
    progress: Progress = silent,
) -> Passport:
    """Compile an engine, and write it with its passport beside it; neither on an error or interrupt.

    For a GPU, PyTorch measures several kernels for each layer. If this takes longer than `AUTOTUNE_LIMIT_S`,
    it is ended, and the engine is compiled without.

    Args:
        onnx: The ONNX file.
        engine: The `.pt2` to write.
        options: How to build.
        precision: The precision of the ONNX file, for the passport.
        profile: The batches that the engine takes.
        contract: The model's input contract.
        gpu: The GPU to compile for. None: this machine's CPU.
        gpu_index: PyTorch's number of that GPU.
        cuda: The newest CUDA version that the driver supports, for the passport.
        progress: Called with the progress of the build, in seconds of the time limit.

    Raises:
        EngineError: there is no C++ compiler, an operator is not covered, or PyTorch cannot compile the file.
        OSError: the engine cannot be written.
    """
    check_compiler()
    torch_from_onnx(onnx)  # raises for an operator that is not covered, without a traceback of the child
    started = time.perf_counter()
    with folder_beside(engine) as folder:
        job = CompileJob(
            onnx=str(onnx.absolute()),
            engine=str(folder / engine.name),
            facts=str(folder / "facts.json"),
            image_shape=contract.image_shape,
            opt_batch=profile.opt,
            max_batch=profile.max,
            gpu=gpu_index,
            autotune=gpu_index is not None,
        )
        autotuned = _compile(job, folder, f"building {precision} engine", progress)
        facts = json.loads(Path(job.facts).read_text(encoding="utf-8"))
        with atomic_file(engine) as part:
            Path(job.engine).replace(part)
    return write_engine_passport(
        engine,
        onnx,
        options,
        runtime_version=versions_of("torch")["torch"],
        precision=precision,
        profile=profile,
        build_seconds=time.perf_counter() - started,
        gpu=gpu,
        cuda=cuda,
        cpu=machine_name() if gpu is None else None,
        cpu_extensions=cpu_extensions(),  # of the code around a GPU's kernels too
        autotuned=autotuned,
        layer_precisions=facts["layer_precisions"],
    )


def _compile(job: CompileJob, folder: Path, stage: str, progress: Progress) -> bool:
    """Run the compiling process, again without tuning if that took too long; return whether it tuned."""
    limits = {True: AUTOTUNE_LIMIT_S, False: COMPILE_LIMIT_S}
    for autotune in (True, False) if job.autotune else (False,):
        limit = round(limits[autotune])
        note = "measuring kernels" if autotune else "compiling"
        job = replace(job, autotune=autotune)
        report = partial(_report, progress, stage, limit, note)
        if _run(job, folder, limits[autotune], report):
            progress(stage, limit, limit)
            return autotune
    raise EngineError(
        job.onnx,
        got=f"not compiled after {COMPILE_LIMIT_S:g} s",
        expected="AOTInductor to finish",
        next_step="Check what else runs on this machine.",
    )


def _report(progress: Progress, stage: str, limit: int, note: str, seconds: int) -> None:
    progress(stage, min(seconds, limit), limit, note)


def _run(job: CompileJob, folder: Path, limit_s: float, report: Callable[[int], None]) -> bool:
    """Run the compiling process to its end or the time limit; return whether it finished.

    Raises:
        EngineError: it failed; its last line is in the message.
    """
    log = folder / "log.txt"
    # The sources are not in `folder`, in whose path may be a space, with which PyTorch cannot compile.
    with temporary_folder("alexnet-aoti-") as cache, log.open("wb") as output:
        process = subprocess.Popen(
            # -P: no module in the current folder replaces an installed one.
            [sys.executable, "-P", "-m", __name__, json.dumps(asdict(job))],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
            stdin=subprocess.PIPE,  # it ends when this process does, also if that was killed
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group with the compilers, which Ctrl-C does not reach
        )
        started = time.monotonic()
        try:
            while process.poll() is None:
                seconds = time.monotonic() - started
                if seconds > limit_s:
                    return False
                report(int(seconds))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
    if process.returncode or not Path(job.facts).is_file():
        raise EngineError(
            job.onnx,
            got=_reason_from(log.read_text(encoding="utf-8", errors="replace"), process.returncode),
            expected="a network that AOTInductor can compile",
            next_step=advice_after_failure(
                "Check this machine: alexnet doctor. Or serve the ONNX file: --runtime onnxruntime"
            ),
        )
    return True


def _reason_from(log: str, returncode: int) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # PyTorch wraps the reason in sentences of its own, and advice follows it.
    errors = [line for line in lines if "Error: " in line or line.startswith("error: ")]
    ending = f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return (errors or lines or [ending])[-1]


def write_pt2(job: CompileJob) -> None:
    """Compile the file of a job in this process: what the process of its own does.

    Args:
        job: What to compile. Existing files are replaced.
    """
    import torch
    from torch._inductor import aoti_compile_and_package

    device = torch.device("cpu" if job.gpu is None else f"cuda:{job.gpu}")
    # TF32 is not FP32; the flags are compiled into the kernels.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    module = torch_from_onnx(Path(job.onnx)).to(device)
    # At least two images: PyTorch would take an example batch of one for a constant.
    example = min(max(2, job.opt_batch), job.max_batch)
    images = torch.zeros(example, *job.image_shape, dtype=torch.uint8, device=device)
    batch = torch.export.Dim("batch", min=1, max=job.max_batch) if job.max_batch > 1 else None
    with torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes={"image": {0: batch}}, strict=False)
        aoti_compile_and_package(program, package_path=job.engine, inductor_configs=_settings(job))
    facts = {"layer_precisions": _types_of_layers(program)}
    Path(job.facts).write_text(json.dumps(facts), encoding="utf-8")


def _settings(job: CompileJob) -> dict[str, Any]:
    """Return Inductor's settings: tuned kernels on a GPU, weights packed for oneDNN on a CPU."""
    # Precompiled headers would leave 300 MB in the temporary folder and take longer than they save.
    settings: dict[str, Any] = {"aot_inductor.precompile_headers": False}
    if job.gpu is None:
        return {**settings, "freezing": True}
    return {**settings, "max_autotune": job.autotune, "coordinate_descent_tuning": job.autotune}


def _types_of_layers(program: Any) -> dict[str, int]:
    """Count the convolutions and matrix products of a program by the type of their inputs."""
    types: Counter[str] = Counter()
    for node in program.graph.nodes:
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op == "call_function" and name in HEAVY:
            dtype = str(node.args[0].meta["val"].dtype).removeprefix("torch.")
            types[SHORT_TYPES.get(dtype, dtype)] += 1
    return dict(sorted(types.items()))


def _end_with_parent() -> None:
    """Kill this process and those that it started when the parent's end of standard input closes."""
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    fields = json.loads(sys.argv[1])
    write_pt2(CompileJob(**{**fields, "image_shape": tuple(fields["image_shape"])}))
