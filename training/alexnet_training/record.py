"""What the checkpoint records about a training, and what identifies a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from alexnet_model.contract import canonical_json
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.labelled_images import ImageDataset

from .loop import Loop
from .options import TrainingOptions
from .splits import PreparedSplits
from .start import Start
from .state import Accuracy, EpochRecord

NOT_OF_THE_RUN = (
    "device",
    "compile",
    "processes",
    "workers",
    "ten_crop",
)  # options that a resumed run may change
NAMED_UNREADABLE = 20  # names of unreadable images in the checkpoint; the report has all of them


def training_record(
    loop: Loop,
    start: Start,
    splits: PreparedSplits,
    history: list[EpochRecord],
    test: Accuracy,
    ten_crops: Accuracy | None,
    missing_classes: tuple[str, ...],
) -> dict[str, Any]:
    """Return the checkpoint's `training` as JSON: where the weights come from.

    Args:
        loop: has run all epochs.
        start: what it started with.
        splits: the images.
        history: one record for each epoch.
        test: the accuracy on the test split.
        ten_crops: that over ten crops of each image. None: it was not measured.
        missing_classes: the classes without an image in the test split.
    """
    options, last, epochs = loop.options, history[-1], len(history)
    return {
        "data": options.data,
        "images": {
            "train": len(splits.train.labels),
            "validation": len(splits.validation.labels),
            "test": len(splits.test.labels),
        },
        "unreadable": {
            "count": len(splits.unreadable),
            "names": [image.name for image in splits.unreadable[:NAMED_UNREADABLE]],
        },
        "pretrained": start.pretrained,
        "new_layers": list(start.new_layers),
        "frozen": list(start.frozen),
        "seed": options.seed,
        "epochs": epochs,
        "steps": epochs * loop.steps_per_epoch,
        "batch_size": options.batch_size_or_default,
        "recipe": asdict(options.recipe_values),
        "learning_rate": start.learning_rate,
        "processes": loop.ranks.count,
        "device": loop.compute.name,
        "computed_in": loop.compute.computes_in,
        "loss": last.loss,
        "validation_accuracy": asdict(last.validation),
        "test_accuracy": asdict(test),
        "ten_crop_accuracy": ten_crops and asdict(ten_crops),
        "classes_without_test_images": list(missing_classes),
        "seconds": round(sum(epoch.seconds for epoch in history), 1),
        "machine": machine_name(),
        "versions": versions_of("torch", "kornia", "numpy", "pillow", "scikit-learn", "alexnet-serving"),
    }


def run_identity(options: TrainingOptions, start: Start, images: ImageDataset) -> dict[str, Any]:
    """Return, as JSON, what two runs must have in common for one to continue the other.

    Args:
        options: the options of the run.
        start: the network that it starts with.
        images: the training images.
    """
    chosen = {name: value for name, value in asdict(options).items() if name not in NOT_OF_THE_RUN}
    run = {
        **chosen,
        "epochs": options.epochs_or_default,
        "batch_size": options.batch_size_or_default,
        "architecture": start.architecture,
        "weights": start.pretrained and start.pretrained["weights_sha256"][:12],  # not their path
        "images": images.digest[:12],
        "contract": start.contract.digest[:12],
    }
    as_read_back: dict[str, Any] = json.loads(canonical_json(run))
    return as_read_back
