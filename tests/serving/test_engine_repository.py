"""A repository of TensorRT engines: its layout, and its configuration read back as Triton's own protobuf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from alexnet_model.errors import ManifestError, RepositoryError
from alexnet_model.passport import Profile, passport_of, passport_path
from alexnet_serving import (
    PackedExport,
    RepositoryOptions,
    lint,
    models_of_repository,
    packed_export,
    raise_if_findings,
    write_repository,
)

from ..folders import contents_of
from .conftest import Artifacts
from .recorded_engines import H200, L4, TENSORRT, engine_of, with_engines, with_engines_of
from .test_repository import config_of

ENGINES = RepositoryOptions(runtime="tensorrt")
PACKAGED = ("alexnet_fp32", "alexnet_int8")


@pytest.fixture
def export(artifacts: Artifacts, tmp_path: Path) -> Artifacts:
    return with_engines(artifacts, tmp_path / "export")


@pytest.fixture
def repository(export: Artifacts, tmp_path: Path) -> Path:
    write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
    return tmp_path / "models"


def refused(artifacts: Artifacts, repository: Path) -> str:
    """The message; what stood there stands there after, and nothing lies beside it."""
    before = contents_of(repository)
    beside = sorted(repository.parent.iterdir())
    with pytest.raises((RepositoryError, ManifestError)) as caught:
        write_repository(artifacts.manifest, artifacts.folder, repository, ENGINES)
    assert contents_of(repository) == before
    assert sorted(repository.parent.iterdir()) == beside
    return str(caught.value)


def test_layout(repository: Path, export: Artifacts) -> None:
    files = ("1/model.onnx", "1/model.plan", "1/model.passport.json", "config.pbtxt", "labels.txt")
    assert set(contents_of(repository)) == {
        "repository.json",
        "alexnet.1.export.json",
        "alexnet.1.reference.safetensors",
    } | {f"{model}/{file}" for model in PACKAGED for file in files}
    assert models_of_repository(repository) == PACKAGED
    assert packed_export(repository) == PackedExport(
        manifest=export.manifest, options=ENGINES, is_served=True
    )
    for artifact in export.manifest.accepted:
        (engine,) = artifact.engines
        version = repository / f"alexnet_{artifact.precision}" / "1"
        assert (version / "model.plan").samefile(export.folder / engine.file)
        assert (version / "model.onnx").samefile(export.folder / artifact.file)
        assert passport_of(version / "model.plan") == engine.passport


def test_config(repository: Path, export: Artifacts) -> None:
    config = config_of(repository, "alexnet_int8")
    (engine,) = export.manifest.artifacts[2].engines
    assert (config.backend, config.max_batch_size) == ("tensorrt", 8)
    assert [(g.kind, g.count) for g in config.instance_group] == [(ModelInstanceGroup.KIND_GPU, 1)]
    assert not config.cc_model_filenames
    assert not config.default_model_filename
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["engine_sha256"] == engine.passport.engine_sha256
    assert parameters["tensorrt_version"] == TENSORRT
    assert parameters["computes_in"] == "f16", "the engine's, not the ONNX file's"
    assert parameters["runtime_options"] == "{}"


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 12]),
        (48, [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 48]),
        (64, [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]),
    ],
)
def test_every_usual_batch_is_a_graph_and_warm(
    max_batch: int, sizes: list[int], artifacts: Artifacts, tmp_path: Path
) -> None:
    export = with_engines(artifacts, tmp_path / "export", max_batch=max_batch)
    write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
    config = config_of(tmp_path / "models", "alexnet_fp32")
    assert config.max_batch_size == max_batch
    cuda = config.optimization.cuda
    assert cuda.graphs
    assert [graph.batch_size for graph in cuda.graph_spec] == sizes
    assert all(list(graph.input["image"].dim) == [224, 224, 3] for graph in cuda.graph_spec)
    assert not any(graph.HasField("graph_lower_bound") for graph in cuda.graph_spec)
    assert [warmup.batch_size for warmup in config.model_warmup] == sizes
    assert all(list(warmup.inputs["image"].dims) == [224, 224, 3] for warmup in config.model_warmup)


def test_a_smaller_profile_makes_smaller_batches(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200, L4)
    (fp32, *_) = export.manifest.artifacts
    small = engine_of(fp32, export.folder, L4, max_batch=4)
    manifest = with_engines_of(export.manifest, "fp32", fp32.engines[0], small)
    write_repository(manifest, export.folder, tmp_path / "models", ENGINES)
    config = config_of(tmp_path / "models", "alexnet_fp32")
    assert config.max_batch_size == 4
    assert [graph.batch_size for graph in config.optimization.cuda.graph_spec] == [1, 2, 3, 4]
    assert config_of(tmp_path / "models", "alexnet_int8").max_batch_size == 8


def test_the_queue_of_an_engine_is_bounded_by_default(export: Artifacts, tmp_path: Path) -> None:
    def policy_of(**options: Any) -> Any:
        packing = RepositoryOptions(runtime="tensorrt", **options)
        write_repository(export.manifest, export.folder, tmp_path / "models", packing)
        return config_of(tmp_path / "models", "alexnet_int8").dynamic_batching

    policy = policy_of().default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (32, 1_000_000)
    assert policy.timeout_action == policy.REJECT
    assert policy.allow_timeout_override
    policy = policy_of(queue_size=5).default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (5, 1_000_000)
    policy = policy_of(queue_timeout_s=0).default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (32, 0)
    assert not policy.allow_timeout_override
    assert not policy_of(queue_size=0, queue_timeout_s=0).HasField("default_queue_policy")


@pytest.mark.parametrize(("release", "timeout_us"), [("26.07", 0), ("26.08", 1_000_000), (None, 1_000_000)])
def test_an_old_triton_gets_no_queue_timeout(
    release: str | None, timeout_us: int, export: Artifacts, tmp_path: Path
) -> None:
    options = RepositoryOptions(runtime="tensorrt", triton_release=release)
    write_repository(export.manifest, export.folder, tmp_path / "models", options)
    policy = config_of(tmp_path / "models", "alexnet_int8").dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (32, timeout_us)
    assert policy.allow_timeout_override == bool(timeout_us)
    assert lint(tmp_path / "models", hashes=False) == ()


def test_lint_says_why_an_old_triton_must_have_no_queue_timeout(repository: Path) -> None:
    assert lint(repository, hashes=False, triton_release="26.08") == ()
    findings = lint(repository, hashes=False, triton_release="26.07")
    policy = "dynamic_batching.default_queue_policy"
    names = [(finding.file, finding.field) for finding in findings]
    fields = ("default_timeout_microseconds", "allow_timeout_override")
    assert sorted(names) == sorted(
        (f"{model}/config.pbtxt", f"{policy}.{field}") for model in PACKAGED for field in fields
    )
    for finding in findings:
        assert "on Triton 26.07 a queue timeout lowers throughput over time" in finding.expected
        assert "server#8870" in finding.expected
    with pytest.raises(RepositoryError, match=r"--image triton:26\.07 --runtime tensorrt --build docker"):
        raise_if_findings(repository, findings, image="triton:26.07")


def test_a_newer_triton_may_serve_a_repository_without_queue_timeouts(
    export: Artifacts, tmp_path: Path
) -> None:
    options = RepositoryOptions(runtime="tensorrt", triton_release="26.07")
    write_repository(export.manifest, export.folder, tmp_path / "models", options)
    assert lint(tmp_path / "models", hashes=False, triton_release="26.11") == ()


def test_one_repository_for_several_gpus(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200, L4)
    write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
    for artifact in export.manifest.accepted:
        name = f"alexnet_{artifact.precision}"
        config = config_of(tmp_path / "models", name)
        assert dict(config.cc_model_filenames) == {"9.0": "model_sm90.plan", "8.9": "model_sm89.plan"}
        version = tmp_path / "models" / name / "1"
        assert not (version / "model.plan").exists(), "what another GPU would fall back to"
        for engine in artifact.engines:
            capability = str(engine.passport.compute_capability)
            plan = version / config.cc_model_filenames[capability]
            assert plan.samefile(export.folder / engine.file)
            assert passport_of(plan) == engine.passport
            target = plan.stem.removeprefix("model")
            parameter = config.parameters[f"engine_sha256{target}"]
            assert parameter.string_value == engine.passport.engine_sha256
        assert config.parameters["tensorrt_version"].string_value == TENSORRT


def test_two_engines_for_one_kind_of_gpu(export: Artifacts, repository: Path) -> None:
    (fp32, *_) = export.manifest.artifacts
    manifest = with_engines_of(export.manifest, "fp32", fp32.engines[0], fp32.engines[0])
    message = refused(Artifacts(manifest, export.folder), repository)
    assert "two engines for compute capability 9.0" in message


@pytest.mark.parametrize(
    ("accepted", "word"), [(False, "another model"), (None, "never run")], ids=["refused", "unjudged"]
)
def test_only_engines_that_passed_the_gate(
    accepted: bool | None, word: str, export: Artifacts, repository: Path
) -> None:
    fp32, _, int8 = export.manifest.artifacts
    engine = engine_of(int8, export.folder, accepted=accepted)
    manifest = with_engines_of(export.manifest, "int8", engine)
    assert write_repository(manifest, export.folder, repository, ENGINES) == ("alexnet_fp32",)
    assert models_of_repository(repository) == ("alexnet_fp32",)

    manifest = with_engines_of(manifest, "fp32", engine_of(fp32, export.folder, accepted=accepted))
    message = refused(Artifacts(manifest, export.folder), repository)
    assert f"int8: alexnet_int8.sm90.plan{'' if accepted is None else ':'}" in message
    assert message.count(word) == 2
    assert "fp16: refused" in message, "the gate's reason against the ONNX file itself"


def test_nothing_was_built(artifacts: Artifacts, repository: Path) -> None:
    message = refused(artifacts, repository)
    assert "fp32: no engine was built; fp16: refused; int8: no engine was built" in message


def test_an_engine_of_a_refused_file_is_not_packed(export: Artifacts, repository: Path) -> None:
    engine = engine_of(export.manifest.artifacts[1], export.folder)
    manifest = with_engines_of(export.manifest, "fp16", engine)
    assert write_repository(manifest, export.folder, repository, ENGINES) == PACKAGED


def test_rtx_engines_have_no_backend(artifacts: Artifacts, tmp_path: Path) -> None:
    rtx: dict[str, Any] = {
        "runtime": "tensorrt-rtx",
        "gpu_name": None,
        "compute_capability": None,
        "targets": ("sm89",),
    }
    export = with_engines(artifacts, tmp_path / "export", **rtx)
    with pytest.raises(RepositoryError, match="TensorRT-RTX engine, for which Triton has no backend"):
        write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
    assert not (tmp_path / "models").exists()
    assert set(PACKAGED) < set(write_repository(export.manifest, export.folder, tmp_path / "models")), (
        "as ONNX"
    )


@pytest.mark.parametrize(
    ("passport", "words"),
    [
        ({"profile": Profile(min=1, opt=8, max=16)}, ["got 1,8,16", "at most 8"]),
        ({"profile": Profile(min=2, opt=8, max=8)}, ["got 2,8,8", "from 1"]),
        ({"precision": "fp16"}, ["got fp16", "fp32, as the file"]),
        ({"compute_capability": None}, ["no compute capability"]),
    ],
)
def test_engines_that_are_not_what_was_promised(
    passport: dict[str, Any], words: list[str], export: Artifacts, repository: Path
) -> None:
    engine = engine_of(export.manifest.artifacts[0], export.folder, **passport)
    manifest = with_engines_of(export.manifest, "fp32", engine)
    message = refused(Artifacts(manifest, export.folder), repository)
    assert "alexnet_fp32.sm90.plan" in message
    assert all(word in message for word in words)


class TestFilesThatAreNotTheRecordedOnes:
    def test_a_truncated_plan(self, export: Artifacts, repository: Path) -> None:
        plan = export.folder / "alexnet_int8.sm90.plan"
        whole = plan.read_bytes()
        plan.unlink()  # the repository's is the same file
        plan.write_bytes(whole[:-1])
        message = refused(export, repository)
        assert f"{len(whole) - 1:,} bytes" in message
        assert "truncated" in message

    def test_plans_swapped_between_models(self, export: Artifacts, repository: Path) -> None:
        one, other = (export.folder / f"alexnet_{precision}.sm90.plan" for precision in ("fp32", "int8"))
        aside = one.rename(export.folder / "aside")
        other.rename(one)
        aside.rename(other)
        assert "SHA-256" in refused(export, repository)

    def test_the_passport_of_another_plan(self, export: Artifacts, repository: Path) -> None:
        one, other = (export.folder / f"alexnet_{precision}.sm90.plan" for precision in ("fp32", "int8"))
        text = passport_path(other).read_text()
        passport_path(one).unlink()
        passport_path(one).write_text(text)
        assert "passport of" in refused(export, repository)

    def test_no_plan_and_no_passport(self, export: Artifacts, repository: Path) -> None:
        plan = export.folder / "alexnet_int8.sm90.plan"
        plan.unlink()
        assert f"{plan}: got no such file" in refused(export, repository)
        passport_path(plan).unlink()
        assert f"{passport_path(plan)}: got no such file" in refused(export, repository)

    def test_another_reference(self, export: Artifacts, repository: Path) -> None:
        reference = export.folder / "reference.safetensors"
        reference.unlink()
        assert f"{reference}: got no such file" in refused(export, repository)
        reference.write_bytes(b"other answers")
        assert f"{reference}: got SHA-256" in refused(export, repository)
