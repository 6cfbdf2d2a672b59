"""The precisions and engines that the gate refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from alexnet_model.errors import PrecisionRefused
from alexnet_model.manifest import Manifest
from alexnet_model.records import Precision


@dataclass(frozen=True)
class Refusal:
    """One file that the gate refused.

    Attributes:
        precision: Its precision.
        file: The name of the ONNX file or engine.
        reason: The gate's reason.
        is_engine: Whether it is an engine.
    """

    precision: Precision
    file: str
    reason: str
    is_engine: bool = False


def refusals_of(manifest: Manifest, engine_files: Collection[str] = ()) -> tuple[Refusal, ...]:
    """Return what the gate refused of an export.

    Args:
        manifest: The export's record.
        engine_files: Names of the engines to report on, as those that were just built. Others are left out.
    """
    refusals = []
    for artifact in manifest.artifacts:
        if not artifact.decision.accepted:
            refusals.append(Refusal(artifact.precision, artifact.file, artifact.decision.reason))
        for engine in artifact.engines:
            if engine.file in engine_files and engine.decision and not engine.accepted:
                reason = engine.decision.reason
                refusals.append(Refusal(artifact.precision, engine.file, reason, is_engine=True))
    return tuple(refusals)


def raise_if_refused(refusals: Collection[Refusal], precisions: Collection[str]) -> None:
    """Raise an error if a precision that was requested by name is among the refusals.

    Args:
        refusals: What `refusals_of` returned.
        precisions: The precisions that were requested by name.

    Raises:
        PrecisionRefused: the gate refused one of them.
    """
    for refusal in refusals:
        if refusal.precision in precisions:
            cure = "the ONNX file: --runtime openvino" if refusal.is_engine else "calibrate on other images"
            raise PrecisionRefused(
                f"{refusal.precision} engine" if refusal.is_engine else refusal.precision,
                got=refusal.reason,
                expected="the same model",
                next_step=f"Serve another precision, or {cure}.",
            )
