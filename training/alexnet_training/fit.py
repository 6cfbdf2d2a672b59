"""`train`: an image dataset to a checkpoint. The same options on the same machine give the same weights."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_model.architectures import build
from alexnet_model.checkpoint import Checkpoint, save_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract, canonical_json
from alexnet_model.datasets import ImageDataset, Unreadable, splits_from
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import UsageError
from alexnet_model.extras import needs
from alexnet_model.progress import Progress, silent

from .augmentation import Augmentation
from .loop import Accuracy, EpochRecord, Loop, accuracy_of
from .options import TrainingOptions
from .parts import Parts, parts_from_splits
from .recipe import computes_bf16, initialise
from .resume import restore_state, resume_path, save_state

with needs("train"):
    import torch

NAMED_UNREADABLE = 20  # in the checkpoint; the report has them all


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The checkpoint that was written, and how it came to be; `epochs` holds the resumed ones too."""

    checkpoint: Checkpoint
    epochs: tuple[EpochRecord, ...]
    epochs_resumed: int
    held_out: Accuracy
    unreadable: tuple[Unreadable, ...]

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.epochs)


def train(
    options: TrainingOptions, out: Path, *, resume: bool = True, progress: Progress = silent
) -> TrainingReport:
    """Train a network and write its checkpoint to `out`, whole or not at all.

    After every epoch but the last the run's state goes to `<out>.resume`, from which the same call goes on
    after a kill, to the same weights; it is removed once the checkpoint is written. With `resume=False` such
    a state is ignored, and replaced after the first epoch.

    Raises:
        UsageError: an option, or `out`, cannot be.
        DatasetError: there is no such set, or a part or a class of it has no readable image.
        ImageError: an image became unreadable while training.
        TrainingError: the loss is no longer finite, or `<out>.resume` is broken or of another run.
        OSError: a file cannot be written.
    """
    contract, splits = Contract(), splits_from(options.data)
    with _reproducible():
        torch.manual_seed(options.seed)
        network = build(options.architecture, len(splits.train.class_names), options.width)
        initialise(network, options.architecture)
        optimiser = torch.optim.Adam(network.parameters(), fused=True)
        _check_writable(out)
        state = resume_path(out)
        run = _run_identity(options, splits.train, contract)
        history = restore_state(state, network, optimiser, run=run) if resume and state.exists() else []
        epochs_resumed = len(history)

        parts = parts_from_splits(splits, contract, progress=progress)
        classifier = Classifier(network, contract)
        augmentation = Augmentation(contract.size, mirrorable=splits.train.mirrorable)
        loop = Loop(options, classifier, optimiser, augmentation, parts.train)
        for epoch in range(epochs_resumed, options.epochs):
            started = time.perf_counter()
            loss, accuracy = loop.train_epoch(epoch, progress)
            validation = accuracy_of(
                classifier, parts.validation, f"validating epoch {epoch + 1}/{options.epochs}", progress
            )
            history.append(EpochRecord(loss, accuracy, validation, time.perf_counter() - started))
            if epoch + 1 < options.epochs:
                save_state(state, network, optimiser, run=run, history=history)
        held_out = history[-1].validation
        if parts.test is not parts.validation:
            held_out = accuracy_of(classifier, parts.test, "held-out accuracy", progress)

    report = TrainingReport(
        checkpoint=Checkpoint(
            architecture=options.architecture,
            width=options.width,
            class_names=splits.train.class_names,
            contract=contract,
            training=_training_record(loop, parts, history, held_out),
            weights=network.state_dict(),
        ),
        epochs=tuple(history),
        epochs_resumed=epochs_resumed,
        held_out=held_out,
        unreadable=parts.unreadable,
    )
    save_checkpoint(report.checkpoint, out)
    state.unlink(missing_ok=True)
    return report


def _check_writable(out: Path) -> None:
    """Find out before the first step, not after the last."""
    if out.is_dir():
        raise UsageError("out", got=f"the folder {out}", expected="a file to write the checkpoint to")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


def _training_record(
    loop: Loop, parts: Parts, history: list[EpochRecord], held_out: Accuracy
) -> dict[str, Any]:
    """The checkpoint's `training`: where the weights come from, as JSON."""
    options, last = loop.options, history[-1]
    return {
        "data": options.data,
        "images": {
            "train": len(parts.train.labels),
            "validation": len(parts.validation.labels),
            "test": len(parts.test.labels),
        },
        "unreadable": {
            "count": len(parts.unreadable),
            "names": [image.name for image in parts.unreadable[:NAMED_UNREADABLE]],
        },
        "seed": options.seed,
        "epochs": options.epochs,
        "steps": options.epochs * loop.steps_an_epoch,
        "batch_size": options.batch_size,
        "optimiser": "Adam, linear warm-up and decay",
        "learning_rate": loop.learning_rate,
        "computed_in": "bf16 autocast" if computes_bf16() else "fp32",
        "loss": last.loss,
        "validation_accuracy": asdict(last.validation),
        "held_out_accuracy": asdict(held_out),
        "seconds": round(sum(epoch.seconds for epoch in history), 1),
        "machine": machine_name(),
        "versions": versions_of("torch", "kornia", "numpy", "pillow", "scikit-learn", "alexnet-serving"),
    }


def _run_identity(options: TrainingOptions, images: ImageDataset, contract: Contract) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    digest = hashlib.sha256()
    for image in images.images:
        size = image.source.stat().st_size if isinstance(image.source, Path) else 0
        digest.update(canonical_json([image.name, image.label, size]).encode())
    return {**asdict(options), "images": digest.hexdigest()[:12], "contract": contract.digest[:12]}


@contextmanager
def _reproducible() -> Iterator[None]:
    """Deterministic algorithms and a generator of our own; the caller's are put back."""
    were, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(were, warn_only=warned)
