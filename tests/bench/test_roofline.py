"""The counted work of a network, the limits that follow from it, and measured ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_bench.engines import ceilings
from alexnet_bench.engines.ceilings import (
    KEPT,
    CeilingBench,
    Shape,
    Sizes,
    large_copy,
    large_read,
    products,
)
from alexnet_bench.engines.roofline import Layer, layers_from_onnx, limit_at, multiply_adds, roof_over
from alexnet_bench.engines.timing import time_on_host
from alexnet_bench.schema import Roof
from alexnet_export.convert import fp16_from_onnx, int8_from_onnx, onnx_from_checkpoint
from alexnet_model.architectures import build, parameter_count
from alexnet_model.architectures import multiply_adds as multiply_adds_of_network
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Contract
from alexnet_model.errors import ExportError
from alexnet_model.records import Precision

from ..networks import random_checkpoint
from .sweep_fakes import FakeClock, engine

# Of the H200's data sheet: bytes/s, and operations/s by precision.
H200_BYTES_PER_S = 4.8e12
H200 = {"fp32": ("tf32", 494.7e12), "fp16": ("f16", 989.4e12), "int8": ("i8", 1978.9e12)}


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layer, ...]:
    """torchvision's network at its full size; zeros would be optimised away."""
    with torch.device("meta"):
        network = build("alexnet", 1000)
    checkpoint = Checkpoint(
        architecture="alexnet",
        class_names=tuple(map(str, range(1000))),
        contract=Contract(),
        training={},
        weights={name: torch.full(value.shape, 0.01) for name, value in network.state_dict().items()},
    )
    path = tmp_path_factory.mktemp("full") / "fp32.onnx"
    onnx_from_checkpoint(checkpoint, path, max_batch=64)
    return layers_from_onnx(path)


def test_the_work_of_torchvisions_alexnet_is_counted_correctly(alexnet: tuple[Layer, ...]) -> None:
    layers = alexnet
    assert [layer.multiply_adds for layer in layers] == [
        *(70_276_800, 223_948_800, 112_140_288, 149_520_384, 99_680_256),
        *(37_748_736, 16_777_216, 4_096_000),
    ]
    assert multiply_adds(layers) == 714_188_480
    assert sum(layer.weights for layer in layers) == 61_100_840
    assert sum(layer.weight_bytes for layer in layers) == 4 * 61_100_840
    # Three colours in, 64 channels of 55 x 55 out.
    assert layers[0].activations == 3 * 224 * 224 + 64 * 55 * 55
    assert layers[-1].activations == 4096 + 1000


@pytest.mark.parametrize(
    ("precision", "microseconds"),
    [
        ("fp32", {1: 52.5, 8: 73, 32: 147, 128: 441, 256: 839}),
        ("fp16", {1: 26.3, 8: 37, 32: 73, 128: 220, 256: 420}),
        ("int8", {1: 13.1, 8: 18, 32: 37, 128: 110, 256: 210}),
    ],
)
def test_limits_agree_with_published_arithmetic(
    alexnet: tuple[Layer, ...], precision: Precision, microseconds: dict[int, float]
) -> None:
    """The published ones also count the activations of pooling and normalisation, up to a seventh more."""
    width = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    layers = [replace(layer, weight_bytes=layer.weights * width) for layer in alexnet]
    computes_in, operations_per_s = H200[precision]
    roof = Roof(
        device="NVIDIA H200",
        computes_in=computes_in,
        operations_per_s=operations_per_s,
        bytes_per_s=H200_BYTES_PER_S,
    )
    for batch, expected in microseconds.items():
        limit = limit_at(layers, precision, batch, roof)
        assert 0.87 * expected < 1e3 * limit.ms <= expected
        assert limit.bound_by == ("memory" if batch <= 8 else "compute" if batch >= 128 else limit.bound_by)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("alexnet", 0.1), ("alexnet-2012", 0.1), ("alexnet-lecture", 0.1), ("lenet", 1.0)],
)
def test_every_architecture_is_counted_as_pytorch_runs_it(
    tmp_path: Path, architecture: str, width: float
) -> None:
    checkpoint = random_checkpoint(architecture, width)
    path = tmp_path / "fp32.onnx"
    onnx_from_checkpoint(checkpoint, path, max_batch=4)
    layers = layers_from_onnx(path)
    assert multiply_adds(layers) == multiply_adds_of_network(checkpoint.network())
    assert sum(layer.weights for layer in layers) == parameter_count(checkpoint.network())


def test_weights_are_counted_in_the_files_own_types(tmp_path: Path) -> None:
    fp32, fp16, int8 = (tmp_path / f"{name}.onnx" for name in ("fp32", "fp16", "int8"))
    onnx_from_checkpoint(random_checkpoint(), fp32, max_batch=4)
    fp16_from_onnx(fp32, fp16)
    images = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
    int8_from_onnx(fp32, int8, images)
    plain, half, quantised = (layers_from_onnx(path) for path in (fp32, fp16, int8))
    assert [layer.multiply_adds for layer in half] == [layer.multiply_adds for layer in plain]
    assert [layer.multiply_adds for layer in quantised] == [layer.multiply_adds for layer in plain]
    assert [layer.weights for layer in quantised] == [layer.weights for layer in plain]
    for first, second, third in zip(plain, half, quantised, strict=True):
        assert 2 * second.weight_bytes == first.weight_bytes == 4 * first.weights
        # A byte a weight; a float bias, a float scale and a zero point an output.
        outputs = (third.weight_bytes - third.weights) / (3 + 4 + 1)
        assert outputs == int(outputs)
        assert third.weight_bytes < first.weight_bytes / 2


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"broken\.onnx") as caught:
        layers_from_onnx(path)
    assert "\n" not in str(caught.value)


def test_a_limit_is_the_longer_of_computing_and_moving_layer_by_layer() -> None:
    roof = Roof(device="CPU", computes_in="f32", operations_per_s=1000, bytes_per_s=100)
    computing = Layer(name="conv", multiply_adds=500, weights=5, weight_bytes=20, activations=5)
    moving = Layer(name="gemm", multiply_adds=10, weights=10, weight_bytes=40, activations=5)
    # 1 s of computing against 0.4 s of moving; 0.02 s against 0.6 s. Weights are read once for all images.
    one = limit_at([computing, moving], "fp32", 1, roof)
    assert one.ms == pytest.approx(1600)
    assert one.bound_by == "compute"
    three = limit_at([moving], "fp32", 3, roof)
    assert three.ms == pytest.approx(1e3 * (40 + 3 * 5 * 4) / 100)
    assert three.bound_by == "memory"
    assert limit_at([moving], "int8", 3, roof).ms == pytest.approx(1e3 * (40 + 3 * 5) / 100)


def roof(computes_in: str, operations_per_s: float, bytes_per_s: float = 1.0, device: str = "CPU") -> Roof:
    return Roof(
        device=device, computes_in=computes_in, operations_per_s=operations_per_s, bytes_per_s=bytes_per_s
    )


def test_the_roof_is_that_of_the_engines_type_and_device() -> None:
    roofs = [roof("f32", 1), roof("i8", 4), roof("f16", 9, device="NVIDIA H200")]
    assert roof_over(engine(computes_in="i8"), roofs) == roofs[1]
    assert roof_over(engine(computes_in="f32+i8"), roofs) == roofs[1]
    assert roof_over(engine(computes_in="f16"), roofs) is None
    assert roof_over(engine(computes_in="f32+f16"), roofs) is None
    assert roof_over(engine(computes_in="unknown"), roofs) is None


SHAPES = tuple(Shape(side, side) for side in (100, 200, 400))


class FakeKernels:
    """Kernels that take a given time on a fake clock."""

    def __init__(
        self, operations_per_s: dict[str, float], bytes_per_s: float = 1e9, read_bytes_per_s: float = 1e8
    ) -> None:
        self.clock = FakeClock()
        self.slowness = 1.0  # of the machine at this moment
        self.gain: dict[int, float] = {}  # how much faster a product of this side is
        self.slow_kinds: dict[str, float] = {}  # and of a type alone
        self._operations_per_s = operations_per_s
        self._bytes_per_s = bytes_per_s
        self._read_bytes_per_s = read_bytes_per_s
        self.copies = self.reads = 0
        self.sides: dict[str, list[int]] = {}

    def bench(self, patch: pytest.MonkeyPatch) -> CeilingBench:
        self.clock.use(patch)
        patch.setattr(ceilings, "products", self._products)
        patch.setattr(ceilings, "large_copy", self._copy)
        patch.setattr(ceilings, "large_read", self._read)
        sizes = Sizes(shapes=SHAPES, buffer_bytes=10**6)
        return CeilingBench("CPU", "cpu", sizes, time_on_host)

    def _products(self, kind: str, shape: Shape, place: str) -> Sequence[Callable[[], object]]:
        side = shape.rows
        if kind not in self._operations_per_s:
            raise NotImplementedError(kind)
        self.sides.setdefault(kind, []).append(side)
        seconds = shape.operations / self._operations_per_s[kind] / self.gain.get(side, 1.0)
        return [self._work(2 * seconds, kind), self._work(seconds, kind)]

    def _copy(self, size_bytes: int, place: str) -> Callable[[], object]:
        self.copies += 1
        return self._work(2 * size_bytes / self._bytes_per_s, "copy")

    def _read(self, size_bytes: int, place: str) -> Callable[[], object]:
        self.reads += 1
        return self._work(size_bytes / self._read_bytes_per_s, "read")

    def _work(self, seconds: float, kind: str) -> Callable[[], object]:
        return lambda: self.clock.spend(self.slowness * self.slow_kinds.get(kind, 1.0) * seconds)


def test_ceilings_are_of_the_fastest_product_and_copies_count_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = FakeKernels({"f32": 1e9, "i8": 4e9}, bytes_per_s=3e9)
    f32, i8 = kernels.bench(monkeypatch).roofs(0.1)
    assert (f32.computes_in, i8.computes_in) == ("f32", "i8")
    assert f32.operations_per_s == pytest.approx(1e9)
    assert i8.operations_per_s == pytest.approx(4e9)
    assert f32.bytes_per_s == i8.bytes_per_s == pytest.approx(3e9)


def test_memory_is_as_fast_as_the_faster_of_a_copy_and_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy moves its buffer twice, a read once."""
    for copy_per_s, read_per_s, expected in ((3e9, 2e9, 3e9), (3e9, 4e9, 4e9)):
        kernels = FakeKernels({"f32": 1e9}, bytes_per_s=copy_per_s, read_bytes_per_s=read_per_s)
        (f32,) = kernels.bench(monkeypatch).roofs(0.1)
        assert f32.bytes_per_s == pytest.approx(expected)


def test_the_best_of_several_measurements_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = FakeKernels({"f32": 1e9, "i8": 4e9}, bytes_per_s=3e9)
    bench = kernels.bench(monkeypatch)
    for slowness, expected in ((4, 0.25), (2, 0.5), (8, 0.5), (1, 1), (3, 1)):
        kernels.slowness = slowness
        f32, i8 = bench.roofs(0.1)
        assert f32.operations_per_s == pytest.approx(1e9 * expected)
        assert i8.operations_per_s == pytest.approx(4e9 * expected)
        assert f32.bytes_per_s == i8.bytes_per_s == pytest.approx(3e9 * expected)
    # The trial, and for i8 one more shape that is short enough: later measurements use the same kernels.
    assert kernels.sides == {"f32": [100], "i8": [100, 200]}
    assert (kernels.copies, kernels.reads) == (1, 1)


def test_a_type_whose_trial_was_slow_by_chance_gets_another_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = FakeKernels({"f32": 1e9, "bf16": 2e9, "i8": 4e9})
    kernels.slow_kinds = {"bf16": 20}
    bench = kernels.bench(monkeypatch)
    assert [found.computes_in for found in bench.roofs(0.1)] == ["f32", "i8"]
    kernels.slow_kinds = {}
    _, bf16, _ = bench.roofs(0.1)
    assert bf16.computes_in == "bf16"
    assert bf16.operations_per_s == pytest.approx(2e9)


def test_each_measurement_takes_about_the_given_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = FakeKernels({"f32": 1e9})
    bench = kernels.bench(monkeypatch)
    bench.roofs(0.1)
    before = kernels.clock()
    bench.roofs(0.2)
    assert 4 * 0.2 <= kernels.clock() - before < 4 * 0.3  # a copy, a read and two products


def test_the_calibration_of_a_device_is_the_rate_of_one_fixed_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = FakeKernels({"f32": 1e9})
    bench = kernels.bench(monkeypatch)
    assert bench.control_rate() == pytest.approx(0.5e9)  # the first kernel, which takes twice as long
    kernels.slowness = 2
    assert bench.control_rate() == pytest.approx(0.25e9)
    assert kernels.sides == {"f32": [4096]}  # made once


def test_a_type_without_a_fast_product_has_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = FakeKernels({"f32": 1e9, "f16": 0.8e9, "i8": 1e3})
    bench = kernels.bench(monkeypatch)
    assert [found.computes_in for found in bench.roofs(0.1)] == ["f32"]
    assert kernels.sides["i8"] == [100]  # a trial, and no more of it
    before = kernels.clock()
    assert [found.computes_in for found in bench.roofs(0.1)] == ["f32"]
    assert kernels.clock() - before < 1  # a trial takes i8 more than an hour


def test_all_shapes_are_tried_whose_product_is_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # 200 x 200 takes 16 ms, 400 x 400 would take 128; eight times as fast it takes 16.
    kernels = FakeKernels({"f32": 1e9, "bf16": 8e9})
    kernels.bench(monkeypatch).roofs(0.1)
    assert kernels.sides == {"f32": [100, 200], "bf16": [100, 200, 400]}


def test_a_hopeless_way_of_the_trial_computes_no_larger_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As PyTorch's INT8 products on a CPU without VNNI, beside ONNX Runtime's."""
    kernels = FakeKernels({"f32": 8e9})
    bench = kernels.bench(monkeypatch)
    computed: set[tuple[str, int]] = set()

    def products_of(kind: str, shape: Shape, place: str) -> Sequence[Callable[[], object]]:
        if kind != "f32":
            raise NotImplementedError(kind)

        def work(name: str, seconds: float) -> None:
            computed.add((name, shape.rows))
            kernels.clock.spend(seconds)

        seconds = shape.operations / 8e9
        return [partial(work, "slow", 100 * seconds), partial(work, "fast", seconds)]

    monkeypatch.setattr(ceilings, "products", products_of)
    (f32,) = bench.roofs(0.1)
    assert f32.operations_per_s == pytest.approx(8e9)
    assert computed == {("slow", 100), ("fast", 100), ("fast", 200), ("fast", 400)}


def test_the_fastest_shape_counts_and_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = FakeKernels({"f32": 8e9})
    kernels.gain = {200: 1.5}
    bench = kernels.bench(monkeypatch)
    (f32,) = bench.roofs(0.1)
    assert f32.operations_per_s == pytest.approx(12e9)
    assert bench._products["f32"][0].amount == SHAPES[1].operations
    assert len(bench._products["f32"]) == KEPT
    before = kernels.clock()
    bench.roofs(0.1)
    assert kernels.clock() - before < (2 + KEPT) * 0.15


def test_a_shape_that_does_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = FakeKernels({"f32": 8e9})
    bench, made = kernels.bench(monkeypatch), ceilings.products

    def products_of(kind: str, shape: Shape, place: str) -> Sequence[Callable[[], object]]:
        if shape.rows == 400:
            raise torch.OutOfMemoryError("out of memory")
        return made(kind, shape, place)

    monkeypatch.setattr(ceilings, "products", products_of)
    (f32,) = bench.roofs(0.1)
    assert f32.operations_per_s == pytest.approx(8e9)


def test_on_a_gpu_products_are_computed_by_each_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float: PyTorch has one way for INT8. The tensors are on the CPU here."""
    libraries: list[str] = []
    monkeypatch.setattr(torch.backends.cuda, "preferred_blas_library", libraries.append)
    on_host = torch.device("cpu")
    made = torch.randint
    monkeypatch.setattr(torch, "Generator", lambda _: torch._C.Generator(on_host))
    monkeypatch.setattr(torch, "randint", lambda *given, device, **more: made(*given, **more))
    found = [product() for product in products("f32", Shape(16, 32), "cuda:0")]
    assert libraries == ["cublas", "cublaslt"] * 2
    assert all(torch.equal(found[0], one) for one in found)  # type: ignore[arg-type]
    assert len(products("i8", Shape(32, 32), "cuda:0")) == 2


@pytest.mark.parametrize("kind", ["f32", "i8"])
def test_all_products_of_a_type_really_multiply(kind: str) -> None:
    rows, columns, of_onnxruntime = (product() for product in products(kind, Shape(64, 64), "cpu"))
    assert isinstance(rows, torch.Tensor)
    assert isinstance(columns, torch.Tensor)
    assert rows.shape == columns.shape == (64, 64)
    assert torch.equal(rows, columns)
    assert isinstance(of_onnxruntime, list)
    assert np.array_equal(of_onnxruntime[0], rows.numpy())


def test_a_copy_and_a_read_move_all_of_their_buffer() -> None:
    copied, total = large_copy(4000, "cpu")(), large_read(4000, "cpu")()
    assert isinstance(copied, torch.Tensor)
    assert isinstance(total, torch.Tensor)
    assert torch.equal(copied, torch.ones(1000))
    assert float(total) == 1000.0
