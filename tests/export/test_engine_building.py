"""Real engines: every precision through TensorRT-RTX's own parser and builder, on a machine without a GPU."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from alexnet_export import EngineOptions
from alexnet_export.engines.tensorrt_api import TensorRt, tensorrt_api
from alexnet_export.engines.tensorrt_compiler import engine_from_onnx
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import EngineError, UsageError
from alexnet_model.files import sha256_of_file
from alexnet_model.passport import Passport, Profile, passport_of, passport_path
from alexnet_model.progress import Progress, silent
from alexnet_model.records import PRECISIONS, Precision

PROFILE = Profile(min=1, opt=4, max=8)


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    return tensorrt_api("tensorrt-rtx")


def build(
    rtx: TensorRt,
    onnx_file: Path,
    engine: Path,
    *targets: str,
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> Passport:
    options = EngineOptions(runtime="tensorrt-rtx", targets=targets or ("sm89",))
    return engine_from_onnx(
        rtx,
        onnx_file,
        engine,
        options,
        precision=precision,
        profile=PROFILE,
        contract=Contract(),
        progress=progress,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_builds_and_gets_its_passport(
    precision: Precision, rtx: TensorRt, files: dict[str, Path], tmp_path: Path
) -> None:
    engine = tmp_path / "engine.plan"
    passport = build(rtx, files[precision], engine, precision=precision)
    assert passport_of(engine) == passport
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.passport.json", "engine.plan"]
    assert passport.runtime == "tensorrt-rtx"
    assert passport.runtime_version == rtx.version
    assert passport.targets == ("sm89",)
    assert passport.gpu_name is None
    assert passport.profile == PROFILE
    assert passport.onnx_sha256 == sha256_of_file(files[precision])
    assert passport.engine_sha256 == sha256_of_file(engine)
    assert passport.engine_size_bytes == engine.stat().st_size
    assert passport.layer_precisions is None, "it was not run"
    # The weights are in it, in the file's own precision, and some 2 MB of kernels.
    assert 0 <= passport.engine_size_bytes - files[precision].stat().st_size < 4_000_000


def test_several_targets_in_one_engine(rtx: TensorRt, files: dict[str, Path], tmp_path: Path) -> None:
    passport = build(rtx, files["int8"], tmp_path / "engine.plan", "sm89", "sm120", precision="int8")
    assert passport.targets == ("sm89", "sm120")
    assert passport.built_for == f"TensorRT-RTX {rtx.version} on sm89, sm120"


def test_two_builds_of_a_file_are_equal(rtx: TensorRt, files: dict[str, Path], tmp_path: Path) -> None:
    """FP16 is equal to the byte. In the others TensorRT-RTX numbers inner names (`__mye4668`) differently in
    each build, and in INT8 it also reorders a few scalar steps; the weights are the same bytes.
    """
    for precision in PRECISIONS:
        plans = []
        for name in ("one.plan", "two.plan"):
            build(rtx, files[precision], tmp_path / name, precision=precision)
            plans.append((tmp_path / name).read_bytes())
        one, two = plans
        assert len(one) == len(two)
        if precision == "fp16":
            assert one == two
        elif precision == "fp32":
            assert re.sub(rb"__mye\d+", b"__mye", one) == re.sub(rb"__mye\d+", b"__mye", two)
        program = 256 * 1024
        assert one[program:] == two[program:]
        assert len(one) > 2 * program


def test_quantised_biases_are_refused_with_the_node(
    rtx: TensorRt, files: dict[str, Path], digits: Uint8Array, tmp_path: Path
) -> None:
    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = [digits[:8]]

        def get_next(self) -> dict[str, Any] | None:
            return {"image": self._left.pop()} if self._left else None

    quantize_static(files["fp32"], tmp_path / "default.onnx", Images())
    with pytest.raises(EngineError) as caught:
        build(rtx, tmp_path / "default.onnx", tmp_path / "engine.plan")
    line = str(caught.value)
    assert re.search(r"default\.onnx: node \S*bias_DequantizeLinear \(DequantizeLinear\): got ", line)
    assert "has type Int32 but must have type" in line
    assert "Keep biases in float" in line
    assert "\n" not in line
    assert not (tmp_path / "engine.plan").exists()


def test_an_unknown_operator_is_named(rtx: TensorRt, files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["fp32"])
    (node, *_) = [node for node in model.graph.node if node.op_type == "Conv"]
    node.op_type = "Frobnicate"
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(EngineError, match=r"\(Frobnicate\): .*lacks this operator") as caught:
        build(rtx, tmp_path / "foreign.onnx", tmp_path / "engine.plan")
    assert node.name in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_file_that_is_not_onnx_is_refused(content: bytes | None, rtx: TensorRt, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"broken\.onnx") as caught:
        build(rtx, path, tmp_path / "engine.plan")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("engine*"))


def test_a_truncated_file_is_refused(rtx: TensorRt, files: dict[str, Path], tmp_path: Path) -> None:
    content = files["fp16"].read_bytes()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(EngineError, match=r"half\.onnx"):
        build(rtx, tmp_path / "half.onnx", tmp_path / "engine.plan")


def test_unsupported_targets_are_refused(rtx: TensorRt, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got sm90, expected some of .*sm89.*sm120"):
        build(rtx, files["fp32"], tmp_path / "engine.plan", "sm89", "sm90")
    with pytest.raises(EngineError, match=r"Turing \(SM75\)"):
        build(rtx, files["fp32"], tmp_path / "engine.plan", "sm75")
    assert list(tmp_path.iterdir()) == []


def test_progress_increases_to_100_percent(rtx: TensorRt, files: dict[str, Path], tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    build(
        rtx,
        files["int8"],
        tmp_path / "engine.plan",
        precision="int8",
        progress=lambda stage, done, total, note="": reported.append((stage, done, total)),
    )
    assert {(stage, total) for stage, _, total in reported} == {("building int8 engine", 100)}
    steps = [done for _, done, _ in reported]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 100)
    assert len(set(steps)) > 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build_between_two_steps(
    number: signal.Signals, rtx: TensorRt, files: dict[str, Path], tmp_path: Path
) -> None:
    """As from the terminal: TensorRT's own frames must not see an exception."""
    before = build(rtx, files["fp32"], tmp_path / "engine.plan")

    class Ended(BaseException):
        pass

    def end(*_: object) -> None:
        raise Ended

    handler = signal.signal(number, end)
    try:
        with pytest.raises(Ended):
            build(
                rtx,
                files["int8"],
                tmp_path / "engine.plan",
                progress=lambda stage, done, total, note="": (
                    signal.raise_signal(number) if done > 20 else None
                ),
            )
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, handler)
    assert passport_of(tmp_path / "engine.plan") == before, "the engine that was there is still there"
    assert sorted(tmp_path.iterdir()) == [passport_path(tmp_path / "engine.plan"), tmp_path / "engine.plan"]


def test_a_signal_while_tensorrt_parses_is_not_lost(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT calls its logger then, and swallows what is raised there."""
    rtx = tensorrt_api("tensorrt-rtx")

    class Logger(rtx.trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.messages = 0

        def log(self, severity: Any, message: str) -> None:
            self.messages += 1
            if self.messages == 3:
                signal.raise_signal(signal.SIGINT)

    logger = Logger()
    monkeypatch.setattr(rtx, "logger", lambda: logger)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(rtx, files["fp32"], tmp_path / "engine.plan")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert logger.messages >= 3
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_progress_callback_ends_a_build(
    rtx: TensorRt, files: dict[str, Path], tmp_path: Path
) -> None:
    def broken(stage: str, done: int, total: int, note: str = "") -> None:
        if done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(rtx, files["fp32"], tmp_path / "engine.plan", progress=broken)
    assert list(tmp_path.iterdir()) == []
