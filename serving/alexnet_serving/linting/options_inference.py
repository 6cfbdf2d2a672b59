"""What a repository was written with, where its models do not all say the same: what most of them say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_model.manifest import Manifest

from ..repositories.layout import Backend, RepositoryOptions, holds_encoded, holds_engines
from ..repositories.model_entries import TENSORRT, ModelEntry, entries_of, takes_encoded


def entries_and_options(
    repository: Path, manifest: Manifest, written: Sequence[RepositoryOptions]
) -> tuple[dict[str, ModelEntry], RepositoryOptions]:
    """The networks that it should hold, by name, and its options; `written` has those of each configuration.

    What files there are has a vote for the backend, since it says what they are of, and decides every tie.

    Raises:
        RepositoryError: the record cannot be packed for that backend.
    """
    most = Counter(written).most_common(1)[0][0] if written else RepositoryOptions()
    of_files: Backend = TENSORRT if holds_engines(repository) else "onnx"
    backend = Counter([of_files, *(options.backend for options in written)]).most_common(1)[0][0]
    entries = entries_of(manifest, replace(most, backend=backend))

    def as_files(encoded: bool | None) -> bool:
        return takes_encoded(entries, encoded) == holds_encoded(repository)

    votes = Counter([options.encoded for options in written] or [None])
    encoded = max(votes, key=lambda value: (votes[value], as_files(value)))
    return {entry.name: entry for entry in entries}, replace(most, backend=backend, encoded=encoded)
