from __future__ import annotations

import sys
from pathlib import Path

import pytest

from alexnet_model.errors import MissingExtra
from alexnet_training.logs import curves_to


def test_curves_without_tensorboard_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtra) as missing, curves_to(tmp_path / "curves"):
        pass
    assert str(missing.value) == (
        "module tensorboard: got no such module, expected the [tensorboard] extra to be installed. "
        "Run: pip install 'alexnet-serving[tensorboard]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_curves_are_drawn_by_the_step_of_the_whole_run(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, loss in (("start", 2.0), ("resume", 0.5)):
        finished = 0 if first == "start" else 5
        with curves_to(tmp_path) as log:
            log(first, epoch=1, step=finished, steps_per_epoch=20)
            log("step", epoch=1, step=10, loss=loss, accuracy=0.5, learning_rate=0.1, images_per_s=9.0)
    with curves_to(tmp_path) as log:
        log("resume", epoch=2, step=0, steps_per_epoch=20)
        log("step", epoch=2, step=10, loss=0.25, accuracy=0.5, learning_rate=0.1, images_per_s=9.0)
        log("epoch", epoch=2, loss=0.2, validation={"correct": 3, "images": 4})
    curves = accumulators.EventAccumulator(str(tmp_path))
    curves.Reload()
    # The resumed run replaces what the first one drew after its saved state.
    assert [(point.step, point.value) for point in curves.Scalars("loss/training")] == [(10, 0.5), (30, 0.25)]
    assert [(point.step, point.value) for point in curves.Scalars("accuracy/validation")] == [(40, 0.75)]
    assert {"accuracy/training", "learning_rate", "images_per_s"} <= set(curves.Tags()["scalars"])
