"""The two models that take encoded images: when they are packed, and what they say of themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_STRING, TYPE_UINT8, ModelInstanceGroup

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.manifest import Manifest
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE
from alexnet_serving import (
    RepositoryOptions,
    is_repository,
    lint,
    models_of_repository,
    packed_export,
    write_repository,
)
from alexnet_serving.engine_compatibility import rebuild_command
from alexnet_serving.repositories.backends import backends_of_repository, can_use_gpu, image_for

from .conftest import ENCODED, ONNXRUNTIME, Artifacts
from .recorded_engines import H200, L4, engine_of, with_engines, with_engines_of
from .test_repository import config_of, without_precisions


def parameters_of(repository: Path, model: str) -> dict[str, str]:
    return {name: value.string_value for name, value in config_of(repository, model).parameters.items()}


def on_onnxruntime(manifest: Manifest) -> Manifest:
    """Served by NVIDIA's stock image."""
    changed = [
        artifact.model_copy(
            update={"reports": (artifact.reports[0].model_copy(update={"runtime": ONNXRUNTIME}),)}
        )
        for artifact in manifest.artifacts
    ]
    return manifest.model_copy(update={"artifacts": tuple(changed)})


def test_the_decoder(repository: Path) -> None:
    config = config_of(repository, "alexnet_decode")
    assert (config.name, config.backend, config.max_batch_size) == ("alexnet_decode", "image_decoder", 8)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        (ENCODED_INPUT_NAME, TYPE_STRING, [1])
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("image", TYPE_UINT8, [224, 224, 3])
    ]
    assert [(g.kind, g.count) for g in config.instance_group] == [(ModelInstanceGroup.KIND_CPU, 1)]
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.ListFields()
    parameters = parameters_of(repository, "alexnet_decode")
    assert parameters.keys() == {"contract", "contract_digest", "export_sha256"}
    assert Contract.from_json(parameters["contract"]) == Contract()
    assert parameters["contract_digest"] == Contract().digest


def test_the_ensemble(repository: Path) -> None:
    config = config_of(repository, "alexnet")
    assert (config.name, config.platform, config.backend) == ("alexnet", "ensemble", "")
    assert config.max_batch_size == 8
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        (ENCODED_INPUT_NAME, TYPE_STRING, [1])
    ]
    assert [(o.name, o.data_type, list(o.dims), o.label_filename) for o in config.output] == [
        ("probabilities", TYPE_FP32, [10], "labels.txt"),
        ("logits", TYPE_FP32, [10], ""),
    ]
    decoding, network = config.ensemble_scheduling.step
    assert (decoding.model_name, network.model_name) == ("alexnet_decode", "alexnet_int8")
    assert dict(decoding.input_map) == {ENCODED_INPUT_NAME: ENCODED_INPUT_NAME}
    assert dict(decoding.output_map) == dict(network.input_map) == {"image": "image"}
    assert dict(network.output_map) == {"probabilities": "probabilities", "logits": "logits"}
    # Triton refuses an ensemble with any of these.
    for field in ("instance_group", "model_warmup"):
        assert not getattr(config, field)
    for field in ("dynamic_batching", "optimization"):
        assert not config.HasField(field)
    inside = parameters_of(repository, "alexnet_int8")
    del inside["runtime_options"]
    assert parameters_of(repository, "alexnet") == inside
    assert (repository / "alexnet" / "labels.txt").read_bytes() == (
        repository / "alexnet_int8" / "labels.txt"
    ).read_bytes()


def test_labels_come_back_as_they_were(artifacts: Artifacts, tmp_path: Path) -> None:
    names = ('an "x"', "a, b", "é\t", "[", "日本", *"56789")
    model = artifacts.manifest.model.model_copy(update={"class_names": names})
    manifest = artifacts.manifest.model_copy(update={"model": model})
    write_repository(manifest, artifacts.folder, tmp_path / "models")
    for name in ("alexnet", "alexnet_fp32", "alexnet_int8"):
        assert tuple(json.loads(parameters_of(tmp_path / "models", name)["labels"])) == names
    assert lint(tmp_path / "models") == ()


@pytest.mark.parametrize(
    ("refused", "inside"), [((), "int8"), (("int8",), "fp16"), (("int8", "fp16"), "fp32")]
)
def test_the_smallest_accepted_file_is_inside(
    refused: tuple[str, ...], inside: str, artifacts: Artifacts, tmp_path: Path
) -> None:
    accepted = artifacts.manifest.artifacts[0].decision
    manifest = artifacts.manifest.model_copy(
        update={
            "artifacts": tuple(
                a.model_copy(update={"decision": accepted}) for a in artifacts.manifest.artifacts
            )
        }
    )
    options = RepositoryOptions(encoded=True)  # fp32 is served by ONNX Runtime here
    write_repository(without_precisions(manifest, *refused), artifacts.folder, tmp_path / "models", options)
    assert (
        config_of(tmp_path / "models", "alexnet").ensemble_scheduling.step[1].model_name
        == f"alexnet_{inside}"
    )
    assert parameters_of(tmp_path / "models", "alexnet")["precision"] == inside


@pytest.mark.parametrize(("encoded", "packed"), [(None, True), (True, True), (False, False)])
def test_encoded_images_by_default_with_openvino(
    encoded: bool | None, packed: bool, artifacts: Artifacts, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    options = RepositoryOptions(encoded=encoded)
    written = write_repository(artifacts.manifest, artifacts.folder, repository, options)
    assert written == models_of_repository(repository)
    assert (set(ENCODED) <= set(written)) == packed
    assert image_for(set(backends_of_repository(repository).values())) == CPU_IMAGE
    assert packed_export(repository).options == options
    assert lint(repository) == ()


@pytest.mark.parametrize(("encoded", "packed"), [(None, False), (True, True), (False, False)])
@pytest.mark.parametrize("runtime", [None, "onnxruntime", "tensorrt"])
def test_encoded_images_on_the_stock_image_only_on_request(
    runtime: str | None, encoded: bool | None, packed: bool, artifacts: Artifacts, tmp_path: Path
) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200, L4)
    repository = tmp_path / "models"
    options = RepositoryOptions(encoded=encoded, runtime=runtime)
    written = write_repository(on_onnxruntime(export.manifest), export.folder, repository, options)
    assert (set(ENCODED) <= set(written)) == packed
    backends = set(backends_of_repository(repository).values())
    assert image_for(backends) == (CPU_IMAGE if packed else TRITON_IMAGE)
    assert can_use_gpu(backends), "decoding on the CPU keeps nothing from the GPU"
    assert packed_export(repository).options == options
    assert lint(repository) == ()
    if runtime == "tensorrt":
        command = rebuild_command(repository)
        assert ("--encoded" in command) == packed, "the command that rebuilds it keeps what it has"


def test_engines_with_a_smaller_profile_bound_the_whole_way(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export")
    int8 = export.manifest.artifacts[2]
    manifest = with_engines_of(export.manifest, "int8", engine_of(int8, export.folder, max_batch=4))
    options = RepositoryOptions(runtime="tensorrt", encoded=True)
    write_repository(manifest, export.folder, tmp_path / "models", options)
    sizes = {name: config_of(tmp_path / "models", name).max_batch_size for name in (*ENCODED, "alexnet_fp32")}
    assert sizes == {"alexnet": 4, "alexnet_decode": 4, "alexnet_fp32": 8}


def test_images_wait_for_the_decoder_as_for_the_network_but_for_no_others(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    export = with_engines(artifacts, tmp_path / "export")
    options = RepositoryOptions(runtime="tensorrt", encoded=True, queue_delay_us=20)
    write_repository(export.manifest, export.folder, tmp_path / "models", options)
    decoder, network = (
        config_of(tmp_path / "models", name).dynamic_batching for name in ("alexnet_decode", "alexnet_int8")
    )
    assert decoder.default_queue_policy == network.default_queue_policy
    assert decoder.default_queue_policy.max_queue_size == 32
    assert (decoder.max_queue_delay_microseconds, network.max_queue_delay_microseconds) == (0, 20)


def test_no_folder_is_empty(repository: Path) -> None:
    """Git and object stores would lose it, and Triton then find no version."""
    assert all(any(folder.iterdir()) for folder in repository.rglob("*") if folder.is_dir())


def test_is_replaced_and_known_as_ours(repository: Path, artifacts: Artifacts) -> None:
    for model in ("alexnet_fp32", "alexnet_int8"):
        shutil.rmtree(repository / model)
    assert is_repository(repository)
    write_repository(artifacts.manifest, artifacts.folder, repository, RepositoryOptions(encoded=False))
    assert models_of_repository(repository) == ("alexnet_fp32", "alexnet_int8")


def test_options_of_an_earlier_version_are_no_options() -> None:
    values = json.loads(RepositoryOptions().to_json())
    assert values.pop("encoded", "none") is None
    with pytest.raises(ValueError, match="encoded"):
        RepositoryOptions.from_json(json.dumps(values))


@pytest.mark.parametrize("encoded", [0, 1, "true", [], 1.0])
def test_encoded_is_yes_no_or_left_open(encoded: object) -> None:
    values = {**json.loads(RepositoryOptions().to_json()), "encoded": encoded}
    with pytest.raises(ValueError, match="encoded is true, false or null"):
        RepositoryOptions.from_json(json.dumps(values))


class TestLint:
    """What is missing or altered of them is named."""

    @pytest.fixture
    def engines(self, artifacts: Artifacts, tmp_path: Path) -> Path:
        """Engines of one precision, with encoded images."""
        export = with_engines(artifacts, tmp_path / "engines")
        options = RepositoryOptions(runtime="tensorrt", encoded=True)
        manifest = without_precisions(export.manifest, "fp32")
        write_repository(manifest, export.folder, tmp_path / "models", options)
        return tmp_path / "models"

    @pytest.mark.parametrize("model", ENCODED)
    def test_a_missing_model(self, model: str, repository: Path, engines: Path) -> None:
        for folder in (repository, engines):
            shutil.rmtree(folder / model)
            assert [str(finding) for finding in lint(folder)] == [
                f"{model}: got no such folder, expected a model that alexnet.1.export.json accepts"
            ]

    def test_both_missing(self, repository: Path, engines: Path) -> None:
        for folder in (repository, engines):
            for model in ENCODED:
                shutil.rmtree(folder / model)
            assert [finding.file for finding in lint(folder)] == list(ENCODED)

    @pytest.mark.parametrize("file", ["config.pbtxt", "labels.txt", "1/README.md"])
    def test_a_missing_file(self, file: str, repository: Path) -> None:
        (repository / "alexnet" / file).unlink()
        (finding,) = lint(repository)
        assert (finding.file, finding.got.split(" (")[0]) in [
            (f"alexnet/{file}", "no such file"),
            (f"alexnet/{file}", "no such file or directory"),
        ]

    def test_a_lost_version(self, repository: Path) -> None:
        shutil.rmtree(repository / "alexnet_decode" / "1")
        (finding,) = lint(repository)
        assert finding.file == "alexnet_decode/1/README.md"

    @pytest.mark.parametrize(
        "file", ["alexnet/1/model.py", "alexnet_decode/1/model.py", "alexnet_decode/labels.txt", "alexnet/2"]
    )
    def test_a_file_that_was_not_written(self, file: str, repository: Path) -> None:
        """Above all a `model.py`: Triton's Python backend would run it."""
        (repository / file).write_text("precious")
        (finding,) = lint(repository)
        assert finding.file == file

    def test_a_model_that_the_options_do_not_have(self, artifacts: Artifacts, repository: Path) -> None:
        aside = (repository / "alexnet").rename(repository.parent / "aside")
        write_repository(artifacts.manifest, artifacts.folder, repository, RepositoryOptions(encoded=False))
        aside.rename(repository / "alexnet")
        assert "alexnet: got a folder, expected only models that the record of an export accepts" in map(
            str, lint(repository)
        )

    def test_another_network_inside(self, repository: Path) -> None:
        path = repository / "alexnet" / "config.pbtxt"
        path.write_text(path.read_text().replace("alexnet_int8", "alexnet_fp32"))
        (finding,) = lint(repository)
        assert str(finding) == (
            "alexnet/config.pbtxt: ensemble_scheduling.step[1].model_name: "
            'got "alexnet_fp32", expected "alexnet_int8"'
        )
