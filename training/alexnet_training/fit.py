"""Train a network from a dataset to a checkpoint."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_model.checkpoint import Checkpoint, save_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import canonical_json
from alexnet_model.datasets import ImageDataset, Unreadable, splits_from
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import UsageError
from alexnet_model.extras import needs
from alexnet_model.progress import Progress, silent

from .loop import Accuracy, EpochRecord, Loop, accuracy_of
from .options import TrainingOptions
from .recipe import Augmentation, has_bf16_instructions
from .resume import restore_state, resume_path, save_state
from .splits import PreparedSplits, notes_on_copies, prepared_from_splits
from .start import Start, start_of

with needs("train"):
    import torch

NAMED_UNREADABLE = 20  # names of unreadable images in the checkpoint; the report has all of them


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The result of `train`.

    Args:
        checkpoint: what was written.
        epochs: one record for each epoch, also for those of the run that was resumed.
        epochs_resumed: how many epochs the resumed run had finished; 0 if none was resumed.
        held_out: the accuracy on the test split.
        missing_classes: the classes of which the test split has no image, so that the accuracy says nothing
            about them.
        unreadable: the images of all splits that were left out.
        notes: sentences about what was chosen, converted and replaced in the weights, and about images that
            are in the data twice.
    """

    checkpoint: Checkpoint
    epochs: tuple[EpochRecord, ...]
    epochs_resumed: int
    held_out: Accuracy
    missing_classes: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The time of all epochs together."""
        return sum(epoch.seconds for epoch in self.epochs)


def train(
    options: TrainingOptions, out: Path, *, resume: bool = True, progress: Progress = silent
) -> TrainingReport:
    """Train a network, from random weights or from pretrained ones, and write its checkpoint.

    With `options.weights` the last layer is replaced by one for the classes of the dataset, and images are
    prepared by the contract of the weights, if they are a checkpoint.

    After every epoch but the last, the state of the run is written to `<out>.resume`. If the run is stopped,
    the same call continues after the last finished epoch and gives the same weights. The state is removed
    once the checkpoint is written.

    Args:
        options: the dataset, the network and how it is trained.
        out: the checkpoint to create or replace; an error leaves an existing one as it was.
        resume: continue the run that `<out>.resume` belongs to; False starts again and replaces the state.
        progress: called after every step, image and batch.

    Raises:
        UsageError: an option has a wrong value, or `out` is a folder.
        CheckpointError: the weights are missing, broken or of another architecture.
        ExportError: the network does not map images to one logit for each class.
        DatasetError: the dataset is missing, or a split or a class of it has no readable image.
        ImageError: an image became unreadable during training.
        TrainingError: the loss is not finite, or `<out>.resume` is broken or belongs to another run.
        OSError: a file cannot be written.
    """
    splits = splits_from(options.data)
    class_names = splits.train.class_names
    notes: list[str] = []
    with _reproducible():
        torch.manual_seed(options.seed)
        start = start_of(options, len(class_names), note=notes.append)
        network, contract, optimiser = start.network, start.contract, start.optimiser()
        _check_writable(out)
        state = resume_path(out)
        run = _run_identity(options, start, splits.train)
        history = restore_state(state, network, optimiser, run=run) if resume and state.exists() else []
        epochs_resumed = len(history)

        prepared = prepared_from_splits(splits, contract, progress=progress)
        notes += notes_on_copies(splits, prepared)
        classifier = Classifier(network, contract)
        augmentation = Augmentation(contract.size, mirrorable=splits.train.mirrorable)
        frozen = tuple(network.get_submodule(name) for name in start.frozen)
        loop = Loop(options, classifier, optimiser, augmentation, prepared.train, frozen)
        epochs = options.epochs_or_default
        for epoch in range(epochs_resumed, epochs):
            started = time.perf_counter()
            loss, accuracy = loop.train_epoch(epoch, progress)
            validation = accuracy_of(
                classifier, prepared.validation, f"validating epoch {epoch + 1}/{epochs}", progress
            )
            history.append(EpochRecord(loss, accuracy, validation, time.perf_counter() - started))
            if epoch + 1 < epochs:
                save_state(state, network, optimiser, run=run, history=history)
        held_out = history[-1].validation
        if prepared.test is not prepared.validation:
            held_out = accuracy_of(classifier, prepared.test, "held-out accuracy", progress)

    present = set(prepared.test.labels.tolist())
    missing_classes = tuple(name for label, name in enumerate(class_names) if label not in present)
    report = TrainingReport(
        checkpoint=Checkpoint(
            architecture=start.architecture,
            options=start.options,
            class_names=class_names,
            contract=contract,
            training=_training_record(loop, start, prepared, history, held_out, missing_classes),
            weights=network.state_dict(),
        ),
        epochs=tuple(history),
        epochs_resumed=epochs_resumed,
        held_out=held_out,
        missing_classes=missing_classes,
        unreadable=prepared.unreadable,
        notes=tuple(notes),
    )
    save_checkpoint(report.checkpoint, out)
    state.unlink(missing_ok=True)
    return report


def _check_writable(out: Path) -> None:
    """Raise before the training, not after it, if `out` cannot be written."""
    if out.is_dir():
        raise UsageError("out", got=f"the folder {out}", expected="a file to write the checkpoint to")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


def _training_record(
    loop: Loop,
    start: Start,
    splits: PreparedSplits,
    history: list[EpochRecord],
    held_out: Accuracy,
    missing_classes: tuple[str, ...],
) -> dict[str, Any]:
    """Return the checkpoint's `training` as JSON: where the weights come from."""
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
        "batch_size": options.batch_size,
        "optimiser": "Adam, linear warm-up and decay",
        "learning_rate": start.learning_rate,
        "computed_in": "bf16 autocast" if has_bf16_instructions() else "fp32",
        "loss": last.loss,
        "validation_accuracy": asdict(last.validation),
        "held_out_accuracy": asdict(held_out),
        "classes_without_held_out_images": list(missing_classes),
        "seconds": round(sum(epoch.seconds for epoch in history), 1),
        "machine": machine_name(),
        "versions": versions_of("torch", "kornia", "numpy", "pillow", "scikit-learn", "alexnet-serving"),
    }


def _run_identity(options: TrainingOptions, start: Start, images: ImageDataset) -> dict[str, Any]:
    """Return, as JSON, what two runs must have in common for one to continue the other."""
    digest = hashlib.sha256()
    for image in images.images:
        size = image.source.stat().st_size if isinstance(image.source, Path) else 0
        digest.update(canonical_json([image.name, image.label, size]).encode())
    run = {
        **asdict(options),
        "epochs": options.epochs_or_default,
        "architecture": start.architecture,
        "weights": start.pretrained and start.pretrained["weights_sha256"][:12],  # not their path
        "images": digest.hexdigest()[:12],
        "contract": start.contract.digest[:12],
    }
    as_read_back: dict[str, Any] = json.loads(canonical_json(run))
    return as_read_back


@contextmanager
def _reproducible() -> Iterator[None]:
    """Use deterministic algorithms; restore the caller's setting and random generator afterwards."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
