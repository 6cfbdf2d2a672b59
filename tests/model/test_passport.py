"""Passports: what they say, beside the engine and in the record, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import ManifestError
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import Engine, verify_engine
from alexnet_model.passport import Passport, Profile, passport_of, passport_path, write_passport

PLAN = b"a plan" * 100


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """An engine of TensorRT's with its passport beside it."""
    path = tmp_path / "alexnet_int8.sm90.plan"
    path.write_bytes(PLAN)
    passport = Passport(
        runtime="tensorrt",
        runtime_version="11.1.0.106",
        precision="int8",
        profile=Profile(min=1, opt=8, max=64),
        onnx_sha256="a" * 64,
        engine_sha256=sha256_of_file(path),
        engine_size_bytes=len(PLAN),
        gpu_name="NVIDIA H200",
        compute_capability="9.0",
        driver="580.95.05",
        build_seconds=20.5,
        built_at="2026-01-01T00:00:00+00:00",
    )
    write_passport(passport, path)
    return path


def engine_of(plan: Path) -> Engine:
    passport = passport_of(plan)
    return Engine(file=plan.name, passport=passport, passport_digest=passport.digest)


def edited(plan: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = passport_path(plan)
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("engine", "passport"),
    [
        ("model.plan", "model.passport.json"),
        ("model_sm90.plan", "model_sm90.passport.json"),
        ("model_sm90.pt2", "model_sm90.passport.json"),
        ("alexnet_int8.rtx-sm89.plan", "alexnet_int8.rtx-sm89.passport.json"),
        ("other.engine", "other.engine.passport.json"),
    ],
)
def test_the_path_is_beside_the_engine(engine: str, passport: str, tmp_path: Path) -> None:
    assert passport_path(tmp_path / engine) == tmp_path / passport


def test_a_passport_is_read_as_it_was_written(plan: Path) -> None:
    passport = passport_of(plan)
    assert passport.profile == Profile(min=1, opt=8, max=64)
    assert passport.driver == "580.95.05"
    assert passport_of(plan).digest == passport.digest
    verify_engine(engine_of(plan), plan)


def test_built_for_in_words(plan: Path) -> None:
    passport = passport_of(plan)
    assert passport.built_for == "TensorRT 11.1.0.106 on NVIDIA H200 (9.0)"
    rtx = {
        "runtime": "tensorrt-rtx",
        "gpu_name": None,
        "compute_capability": None,
        "targets": ("sm86", "sm89"),
    }
    assert passport.model_copy(update=rtx).built_for == "TensorRT-RTX 11.1.0.106 on sm86, sm89"


def test_the_digest_depends_on_every_field(plan: Path) -> None:
    passport = passport_of(plan)
    others: dict[str, Any] = {
        "runtime": "tensorrt-rtx",
        "precision": "fp32",
        "profile": Profile(min=1, opt=8, max=32),
        "targets": ("sm89",),
        "hardware_compatibility": "ampere-plus",
        "version_compatible": True,
        "layer_precisions": {"Half": 8},
        "engine_size_bytes": 1,
        "build_seconds": 1.5,
        "schema_version": 4,
        "cpu_extensions": ("avx2",),
        "autotuned": True,
    }
    for name in Passport.model_fields:
        other = passport.model_copy(update={name: others.get(name, "another")})
        assert other.digest != passport.digest, name


@pytest.mark.parametrize(
    ("minimum", "best", "most"), [(0, 1, 1), (2, 1, 3), (1, 4, 3), (-1, -1, -1), (1, 0, 1)]
)
def test_invalid_profiles_are_refused(minimum: int, best: int, most: int) -> None:
    with pytest.raises(ValueError, match="1 <= min <= opt <= max"):
        Profile(min=minimum, opt=best, max=most)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda values: values.update(schema_version=1), "schema_version"),
        (lambda values: values.pop("runtime_version"), "runtime_version"),
        (lambda values: values.update(runtime="openvino"), "runtime"),
        (lambda values: values.update(extra=1), "extra"),
        (lambda values: values["profile"].update(max=4), "profile"),
        (lambda values: values["profile"].update(max="many"), "profile.max"),
        (lambda values: values.update(hardware_compatibility="all"), "hardware_compatibility"),
    ],
)
def test_wrong_fields_are_refused(edit: Callable[[dict[str, Any]], object], word: str, plan: Path) -> None:
    edited(plan, edit)
    with pytest.raises(ManifestError) as caught:
        passport_of(plan)
    assert str(caught.value).startswith(f"{passport_path(plan)}: {word}: got ")
    assert "Build the engine again." in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_broken(content: bytes, plan: Path) -> None:
    passport_path(plan).write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        passport_of(plan)
    assert str(caught.value).startswith(str(passport_path(plan)))


def test_missing(plan: Path) -> None:
    passport_path(plan).unlink()
    with pytest.raises(ManifestError, match=r"got no such file.*the passport of alexnet_int8\.sm90\.plan"):
        passport_of(plan)


class TestVerifying:
    """An engine against its record: the passport by every field, the plan by every byte."""

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda values: values.update(gpu_name="NVIDIA L4"), "gpu_name NVIDIA L4, not NVIDIA H200"),
            (
                lambda values: values.update(runtime_version="11.2.1.2"),
                "runtime_version 11.2.1.2, not 11.1",
            ),
            (lambda values: values.update(version_compatible=True), "version_compatible True, not False"),
        ],
    )
    def test_a_passport_edited_by_hand(
        self, edit: Callable[[dict[str, Any]], object], words: str, plan: Path
    ) -> None:
        engine = engine_of(plan)
        edited(plan, edit)
        with pytest.raises(ManifestError) as caught:
            verify_engine(engine, plan)
        assert f"passport of {plan}: got {words}" in str(caught.value)

    @pytest.mark.parametrize("content", [PLAN[:-1], PLAN + b"x", b"", PLAN[:-1] + b"x"])
    def test_another_plan(self, content: bytes, plan: Path) -> None:
        engine = engine_of(plan)
        plan.write_bytes(content)
        with pytest.raises(ManifestError) as caught:
            verify_engine(engine, plan)
        assert f"{plan}: got {len(content):,} bytes with SHA-256" in str(caught.value)
        assert f"expected {len(PLAN):,} bytes" in str(caught.value)

    def test_no_plan(self, plan: Path) -> None:
        engine = engine_of(plan)
        plan.unlink()
        with pytest.raises(ManifestError, match="got no such file"):
            verify_engine(engine, plan)
