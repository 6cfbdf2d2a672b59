"""Repositories read back as Triton's protobuf messages, and folders that are never overwritten."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_UINT8, ModelConfig, ModelInstanceGroup

from alexnet_model.contract import Contract
from alexnet_model.errors import ManifestError, RepositoryError, UsageError
from alexnet_model.files import link_or_copy
from alexnet_model.manifest import Manifest, RuntimeInfo
from alexnet_serving import RepositoryOptions, lint, models_of_repository, packed_export, write_repository
from alexnet_serving.repositories import writing
from alexnet_serving.repositories.model_config import config_from_text

from ..folders import contents_of

NETWORKS = ("alexnet_fp32", "alexnet_int8")
PACKAGED = ("alexnet", "alexnet_decode", *NETWORKS)
ROOT = ("repository.json", "alexnet.1.export.json")


def config_of(repository: Path, model: str) -> Any:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


def test_one_model_an_accepted_precision_and_two_for_encoded_images(repository: Path, artifacts: Any) -> None:
    assert set(contents_of(repository)) == {
        *ROOT,
        *(f"{model}/{file}" for model in NETWORKS for file in ("1/model.onnx", "config.pbtxt", "labels.txt")),
        *(f"alexnet/{file}" for file in ("1/README.md", "config.pbtxt", "labels.txt")),
        *(f"alexnet_decode/{file}" for file in ("1/README.md", "config.pbtxt")),
    }
    assert models_of_repository(repository) == PACKAGED
    assert packed_export(repository).manifest == artifacts.manifest
    assert packed_export(repository).options == RepositoryOptions()


def test_config(repository: Path, artifacts: Any) -> None:
    config = config_of(repository, "alexnet_int8")
    assert (config.name, config.backend, config.max_batch_size) == ("alexnet_int8", "openvino_dynamic", 8)
    assert list(config.version_policy.specific.versions) == [1]
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("image", TYPE_UINT8, [224, 224, 3])
    ]
    assert [(o.name, o.data_type, list(o.dims), o.label_filename) for o in config.output] == [
        ("probabilities", TYPE_FP32, [10], "labels.txt"),
        ("logits", TYPE_FP32, [10], ""),
    ]
    assert [(g.kind, g.count) for g in config.instance_group] == [(ModelInstanceGroup.KIND_CPU, 1)]
    assert sorted(warmup.batch_size for warmup in config.model_warmup) == [1, 8]
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert Contract.from_json(parameters["contract"]) == Contract()
    assert json.loads(parameters.pop("runtime_options")) == {"INFERENCE_PRECISION_HINT": "f32"}
    assert parameters == {
        "labels": '["0","1","2","3","4","5","6","7","8","9"]',
        "contract": Contract().to_json(),
        "contract_digest": Contract().digest,
        "precision": "int8",
        "computes_in": "i8",
        "weights_sha256": artifacts.manifest.model.weights_sha256,
        "export_sha256": artifacts.manifest.digest,
    }
    onnxruntime = config_of(repository, "alexnet_fp32")
    assert onnxruntime.parameters["default"].string_value == "true", "the most precise one"
    assert onnxruntime.backend == "onnxruntime"
    assert [(g.kind, g.count) for g in onnxruntime.instance_group] == [(ModelInstanceGroup.KIND_AUTO, 1)]
    assert (repository / "alexnet_int8" / "labels.txt").read_text().splitlines() == list("0123456789")


def test_the_queue_is_limited_only_on_request(repository: Path, artifacts: Any) -> None:
    assert not config_of(repository, "alexnet_int8").dynamic_batching.HasField("default_queue_policy")
    options = RepositoryOptions(queue_size=7, queue_timeout_s=1.5, queue_delay_us=20)
    write_repository(artifacts.manifest, artifacts.folder, repository, options)
    batching = config_of(repository, "alexnet_int8").dynamic_batching
    policy = batching.default_queue_policy
    assert batching.max_queue_delay_microseconds == 20
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 1_500_000)
    assert policy.timeout_action == policy.REJECT
    assert policy.allow_timeout_override
    write_repository(artifacts.manifest, artifacts.folder, repository, RepositoryOptions(queue_size=7))
    policy = config_of(repository, "alexnet_int8").dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 0)
    assert not policy.allow_timeout_override, "there is nothing that a request's own could be shorter than"


@pytest.mark.parametrize(
    "wrong",
    [
        {"runtime": "openvino_dynamic"},
        {"runtime": "pytorch"},
        {"queue_size": -1},
        {"queue_size": 1_000_001},
        {"queue_timeout_s": -0.1},
        {"queue_timeout_s": 3601},
        {"queue_timeout_s": float("nan")},
        {"queue_delay_us": -1},
        {"instances": 0},
        {"instances": 17},
        {"max_batch": 0},
        {"triton_release": "2.71"},
    ],
)
def test_options_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RepositoryOptions(**wrong)


@pytest.mark.parametrize(
    "options",
    [
        RepositoryOptions(),
        RepositoryOptions(runtime="tensorrt", queue_size=0, queue_timeout_s=2, queue_delay_us=3),
        RepositoryOptions(queue_size=9, queue_timeout_s=0.5),
        RepositoryOptions(instances=2, max_batch=8),
        RepositoryOptions(encoded=True),
        RepositoryOptions(encoded=False),
    ],
)
def test_options_come_back_equal(options: RepositoryOptions) -> None:
    assert RepositoryOptions.from_json(options.to_json()) == options


def test_instances_and_the_largest_batch_are_written(artifacts: Any, tmp_path: Path) -> None:
    options = RepositoryOptions(instances=2, max_batch=4)
    write_repository(artifacts.manifest, artifacts.folder, tmp_path / "tuned", options)
    config = config_from_text((tmp_path / "tuned" / "alexnet_int8" / "config.pbtxt").read_text())
    assert (config.instance_group[0].count, config.max_batch_size) == (2, 4)
    assert [warm.batch_size for warm in config.model_warmup] == [1, 4]
    assert lint(tmp_path / "tuned") == ()


def test_no_larger_batch_is_served_than_was_proved(artifacts: Any, tmp_path: Path) -> None:
    write_repository(
        artifacts.manifest, artifacts.folder, tmp_path / "tuned", RepositoryOptions(max_batch=10**6)
    )
    config = config_from_text((tmp_path / "tuned" / "alexnet_int8" / "config.pbtxt").read_text())
    assert config.max_batch_size == artifacts.manifest.max_batch


def test_writing_again_drops_what_is_refused_now_and_keeps_the_readers_files(
    repository: Path, artifacts: Any
) -> None:
    (repository / "README.md").write_text("about this folder")
    (repository / ".gitignore").write_text("*")
    only_int8 = without_precisions(artifacts.manifest, "fp32")
    packaged = ("alexnet", "alexnet_decode", "alexnet_int8")
    assert write_repository(only_int8, artifacts.folder, repository) == packaged
    assert models_of_repository(repository) == packaged
    assert (repository / "README.md").read_text() == "about this folder"
    assert (repository / ".gitignore").read_text() == "*"


def test_a_symbolic_link_stays_one(artifacts: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere")
    for _ in range(2):
        write_repository(artifacts.manifest, artifacts.folder, link)
    assert link.is_symlink()
    assert models_of_repository(tmp_path / "elsewhere") == PACKAGED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link"]


class TestNothingIsLost:
    """After any error the folder is unchanged and nothing was added beside it."""

    @pytest.mark.parametrize(
        "fault",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            KeyboardInterrupt(),
        ],
        ids=["full disk", "interrupt"],
    )
    def test_a_fault_at_the_last_model(
        self, fault: BaseException, repository: Path, artifacts: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents_of(repository)

        def link_or_fail(source: Path, target: Path) -> None:
            if "int8" in str(target):
                raise fault
            link_or_copy(source, target)

        monkeypatch.setattr(writing, "link_or_copy", link_or_fail)
        with pytest.raises((RepositoryError, KeyboardInterrupt)) as caught:
            write_repository(artifacts.manifest, artifacts.folder, repository)
        if isinstance(fault, OSError):
            assert "no space left on device" in str(caught.value)
            assert "unchanged" in str(caught.value)
        assert contents_of(repository) == before
        assert [path.name for path in repository.parent.iterdir()] == [repository.name]

    def test_an_altered_artifact(self, repository: Path, artifacts: Any, tmp_path: Path) -> None:
        before = contents_of(repository)
        folder = tmp_path / "altered"
        folder.mkdir()
        (folder / "fp32.onnx").write_bytes(b"another")
        with pytest.raises(ManifestError, match="SHA-256"):
            write_repository(artifacts.manifest, folder, repository)
        assert contents_of(repository) == before

    @pytest.mark.parametrize("file", ["thesis.docx", "alexnet_int8/config.pbtxt", ".ssh/id_rsa"])
    def test_a_folder_that_is_not_ours(self, file: str, artifacts: Any, tmp_path: Path) -> None:
        home = tmp_path / "home"
        (home / file).parent.mkdir(parents=True)
        (home / file).write_text("precious")
        with pytest.raises(RepositoryError, match="nothing was changed"):
            write_repository(artifacts.manifest, artifacts.folder, home)
        assert contents_of(home) == {file: b"precious"}

    def test_a_folder_with_files_that_export_did_not_write(self, repository: Path, artifacts: Any) -> None:
        (repository / "resnet").mkdir()
        (repository / "resnet" / "config.pbtxt").write_text("precious")
        before = contents_of(repository)
        with pytest.raises(RepositoryError, match="holds resnet"):
            write_repository(artifacts.manifest, artifacts.folder, repository)
        assert contents_of(repository) == before

    def test_the_artifacts_own_folder(self, artifacts: Any) -> None:
        before = contents_of(artifacts.folder)
        with pytest.raises(RepositoryError):
            write_repository(artifacts.manifest, artifacts.folder, artifacts.folder)
        assert contents_of(artifacts.folder) == before

    def test_a_file(self, artifacts: Any, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("precious")
        with pytest.raises(RepositoryError, match="got a file"):
            write_repository(artifacts.manifest, artifacts.folder, tmp_path / "file")
        assert (tmp_path / "file").read_text() == "precious"

    def test_nothing_was_accepted(self, repository: Path, artifacts: Any) -> None:
        before = contents_of(repository)
        nothing = without_precisions(artifacts.manifest, "fp32", "int8")
        with pytest.raises(RepositoryError, match="no accepted precision"):
            write_repository(nothing, artifacts.folder, repository)
        assert contents_of(repository) == before


def test_a_runtime_that_no_backend_serves(artifacts: Any, tmp_path: Path) -> None:
    (fp32, *_) = artifacts.manifest.artifacts
    pytorch = RuntimeInfo(name="pytorch", device="CPU", computes_in="f32")
    report = fp32.reports[0].model_copy(update={"runtime": pytorch})
    manifest = artifacts.manifest.model_copy(
        update={"artifacts": (fp32.model_copy(update={"reports": (report,)}),)}
    )
    with pytest.raises(RepositoryError, match="got pytorch"):
        write_repository(manifest, artifacts.folder, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_class_names_that_are_no_lines(name: str, artifacts: Any, tmp_path: Path) -> None:
    names = (name, *artifacts.manifest.model.class_names[1:])
    model = artifacts.manifest.model.model_copy(update={"class_names": names})
    manifest = artifacts.manifest.model_copy(update={"model": model})
    with pytest.raises(RepositoryError, match="class name 0"):
        write_repository(manifest, artifacts.folder, tmp_path / "repository")


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "a;b", "ä"])
def test_model_names_that_a_shell_would_read(name: str, repository: Path) -> None:
    (repository / "alexnet_int8").rename(repository / name)
    with pytest.raises(RepositoryError, match="unsafe"):
        models_of_repository(repository)


def test_no_repository_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        models_of_repository(tmp_path / "missing")
    with pytest.raises(RepositoryError, match="no model"):
        models_of_repository(tmp_path)


def without_precisions(manifest: Manifest, *refused: str) -> Manifest:
    kept = tuple(artifact for artifact in manifest.artifacts if artifact.precision not in refused)
    return manifest.model_copy(update={"artifacts": kept})


def test_a_repository_that_a_killed_process_left_beside_is_served_again(
    artifacts: Any, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_repository(artifacts.manifest, artifacts.folder, repository)
    before = contents_of(repository)
    for read in (models_of_repository, packed_export, lint):
        left = tmp_path / ".alexnet-abcdefgh.part"
        (left / "old").mkdir(parents=True)
        repository.rename(left / "old" / "models")
        read(repository)
        assert contents_of(repository) == before
        assert [path.name for path in tmp_path.iterdir()] == ["models"]
