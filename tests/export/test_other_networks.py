"""Networks of other families than AlexNet: exported, quantised, and built by TensorRT-RTX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from alexnet_export import EngineOptions, OnnxOptions, export_onnx
from alexnet_export.convert import onnx_from_checkpoint
from alexnet_export.engines.tensorrt_api import tensorrt_api
from alexnet_export.engines.tensorrt_compiler import engine_from_onnx
from alexnet_export.openvino_runner import OpenVinoRunner
from alexnet_model import Contract, Manifest, WeightsOptions, checkpoint_from, prepared_from_set, splits_from
from alexnet_model.errors import ExportError
from alexnet_model.files import sha256_of_file
from alexnet_model.passport import Profile
from alexnet_model.records import PRECISIONS, Precision

from ..networks import trained_on_digits
from ..stand_ins import small_networks
from ..stand_ins.small_networks import SmallMobileNet, SmallResNet
from ..weights_files import WAYS, rounded

CONTRACT = Contract(size=32, resize=32)
DIGITS = tuple(map(str, range(10)))


@pytest.fixture(scope="module", params=[SmallResNet, SmallMobileNet])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Manifest, Path]:
    """The real export of a network, in three precisions, checked on digits by both CPU runtimes."""
    module = trained_on_digits(request.param, CONTRACT, steps=200, learning_rate=0.02, last_rate=0.02)
    checkpoint = checkpoint_from(module, WeightsOptions(classes=DIGITS, contract=CONTRACT))
    folder = tmp_path_factory.mktemp("other") / "export"
    return export_onnx(checkpoint, folder, OnnxOptions(calibration="digits", max_batch=8)), folder


def test_every_precision_is_close_to_pytorch_and_float_is_accepted(exported: tuple[Manifest, Path]) -> None:
    """In INT8 so narrow a network may lose too much, which depends on the weights."""
    manifest, _ = exported
    mobile = manifest.model.architecture == "SmallMobileNet"
    least_db = {"fp32": 90, "fp16": 40, "int8": 14 if mobile else 25}
    for artifact in manifest.artifacts:
        in_int8 = artifact.precision == "int8"
        assert artifact.decision.accepted or in_int8, artifact.decision.reason
        assert [report.runtime.name for report in artifact.reports] == ["openvino", "onnxruntime"]
        served, brief = artifact.reports
        assert served.signal_to_noise_db > least_db[artifact.precision]
        assert served.agreement >= (0.99 if not in_int8 else 0.9 if mobile else 0.97)
        assert brief.signal_to_noise_db == pytest.approx(served.signal_to_noise_db, abs=6)
    assert manifest.artifacts[2].served_by.computes_in == ("i8" if mobile else "f32+i8")


def test_batch_norm_is_folded_into_the_convolutions(exported: tuple[Manifest, Path]) -> None:
    for artifact in exported[0].artifacts:
        assert "BatchNormalization" not in artifact.operators


def test_convolutions_and_gemms_have_quantised_inputs(exported: tuple[Manifest, Path]) -> None:
    """All but 1x1 convolutions with a stride and 8 input channels, which OpenVINO computes wrongly."""
    manifest, folder = exported
    graph = onnx.load(folder / manifest.artifacts[2].file).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    inputs = {
        node.name: [made_by.get(name) for name in node.input[:2]]
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }
    quantised = [name for name, makers in inputs.items() if makers == ["DequantizeLinear"] * 2]
    in_float = [name for name, makers in inputs.items() if makers[1] is None]
    assert len(quantised) >= 6
    assert len(in_float) == (1 if manifest.model.architecture == "SmallResNet" else 0)
    assert len(quantised) + len(in_float) == len(inputs)


@pytest.mark.parametrize("exported", [SmallResNet], indirect=True)
def test_int8_answers_the_same_each_time(exported: tuple[Manifest, Path]) -> None:
    manifest, folder = exported
    images = prepared_from_set(splits_from("digits").test, CONTRACT).images[:8]
    with OpenVinoRunner(
        folder / manifest.artifacts[2].file, CONTRACT, {"INFERENCE_NUM_THREADS": "2"}
    ) as runner:
        first = runner.infer(images).logits
        for _ in range(100):
            np.testing.assert_array_equal(runner.infer(images).logits, first)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_rtx_parses_and_builds_every_precision(
    precision: Precision, exported: tuple[Manifest, Path], tmp_path: Path
) -> None:
    manifest, folder = exported
    (artifact,) = [a for a in manifest.artifacts if a.precision == precision]
    passport = engine_from_onnx(
        tensorrt_api("tensorrt-rtx"),
        folder / artifact.file,
        tmp_path / "engine.plan",
        EngineOptions(runtime="tensorrt-rtx", targets=("sm89",)),
        precision=precision,
        profile=Profile(min=1, opt=4, max=8),
        contract=CONTRACT,
    )
    assert passport.onnx_sha256 == artifact.sha256
    assert (tmp_path / "engine.plan").stat().st_size > 0


@pytest.mark.slow
def test_every_way_of_saving_exports_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is a function of the checkpoint: equal checkpoints are exported once."""
    monkeypatch.syspath_prepend(str(Path(small_networks.__file__).parent))
    torch.manual_seed(0)
    state = rounded(small_networks.MeanColour(5).state_dict())
    options = WeightsOptions(architecture="small_networks:MeanColour", contract=CONTRACT)
    read = {}
    for number, (way, save) in enumerate(WAYS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        read[way] = checkpoint_from(save(state, folder), options)
    first = read[".pth"]
    for way, checkpoint in read.items():
        assert checkpoint.weights.keys() == first.weights.keys(), way
        assert checkpoint.weights_sha256 == first.weights_sha256, way
        for name in ("architecture", "options", "class_names", "contract"):
            assert getattr(checkpoint, name) == getattr(first, name), way
    written = {}
    for way in (".pth", "reversed", "lightning"):  # the orders of their weights differ
        onnx_from_checkpoint(read[way], tmp_path / "model.onnx", max_batch=4)
        written[way] = sha256_of_file(tmp_path / "model.onnx")
    assert set(written.values()) == {written[".pth"]}, written


class Branches(nn.Module):
    """Decides by the values of the image, which a graph cannot."""

    def forward(self, x: Tensor) -> Any:
        pooled = x.mean(dim=(2, 3))
        if pooled.sum() > 0:
            pooled = pooled * 2
        return pooled


class Bessel(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Any:
        pooled = x.mean(dim=(2, 3))
        return torch.special.bessel_j0(pooled)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Branches(), [r"data-dependent", r"Change test_other_networks\.py:\d+: if pooled\.sum\(\) > 0"]),
        (
            Bessel(),
            [r"operator prims\.bessel_j0", r"Change test_other_networks\.py:\d+: return torch\.special"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_that_pytorch_cannot_export_is_one_line_with_the_place(
    network: nn.Module, words: list[str], tmp_path: Path
) -> None:
    checkpoint = checkpoint_from(network, WeightsOptions(contract=CONTRACT))
    with pytest.raises(ExportError) as refused:
        onnx_from_checkpoint(checkpoint, tmp_path / "model.onnx", max_batch=4)
    line = str(refused.value)
    assert line.startswith(f"{type(network).__name__} to ONNX: got ")
    assert "\n" not in line
    for word in words:
        assert re.search(word, line), line
    assert not (tmp_path / "model.onnx").exists()


def test_a_network_that_returns_a_tuple_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Two(SmallResNet):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    module = SmallResNet(3)
    checkpoint = checkpoint_from(module, WeightsOptions(contract=CONTRACT))
    broken = Two(3)
    object.__setattr__(checkpoint, "module", broken)
    with pytest.raises(ExportError, match="got an output of type tuple of 2"):
        export_onnx(checkpoint, tmp_path / "out", OnnxOptions(max_batch=2))
    assert not (tmp_path / "out").exists()
