"""The files of a bulk classification: `_bulk.json`, and the Parquet shards with their checks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import canonical_json
from alexnet_model.errors import BulkError, UsageError, os_error_reason
from alexnet_model.files import atomic_file, write_text_atomically
from alexnet_model.folders import is_junk
from alexnet_model.records import Record, record_from_file

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray: TypeAlias = npt.NDArray[np.float32]

RECORD = "_bulk.json"
ROWS_PER_GROUP = 8192  # of a shard, in memory at once
_RUN = b"alexnet_run"  # the key of a shard's metadata that names its run


class BulkRecord(Record):
    """What a folder of shards is of: `_bulk.json`. A run continues only with the same values."""

    schema_version: Literal[1] = 1
    model: str
    model_sha256: str
    contract_digest: str
    class_names: tuple[str, ...]
    inputs: int
    inputs_sha256: str
    top: int
    shards: int

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all values; shards carry it."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """One file of the results: the unit that is done or not done.

    Attributes:
        path: The file.
        names: The inputs that it has rows of, in order.
    """

    path: Path
    names: Sequence[str]


@dataclass(frozen=True)
class Classified:
    """The predictions of a batch: its errors by place, and the best classes of the other N images."""

    names: tuple[str, ...]
    errors: dict[int, str]
    indices: npt.NDArray[np.int64]  # (N, top)
    probabilities: FloatArray  # (N, top)


def write_or_compare_record(out: Path, record: BulkRecord) -> None:
    """Write the record of a new run, or compare it with the one that is there.

    Args:
        out: The folder of the shards.
        record: Of the run.

    Raises:
        UsageError: The folder is that of another run, or has other files.
        ManifestError: The record is broken.
    """
    path = out / RECORD
    if not path.exists():
        others = sorted(entry.name for entry in out.iterdir() if not is_junk(entry.name))
        if others:
            raise UsageError(
                str(out),
                got=f"a folder with other files ({others[0]})",
                expected="a new or empty folder, or one that an earlier run has begun",
                next_step="Choose another --out.",
            )
        write_text_atomically(path, record.model_dump_json(indent=2) + "\n")
        return
    begun = record_from_file(
        BulkRecord, path, what="a bulk classification's record", make="Choose another --out."
    )
    for name, value in begun.model_dump().items():
        if value != getattr(record, name):
            raise UsageError(
                f"{path}: {name}",
                got=_shown(getattr(record, name)),
                expected=f"{_shown(value)}, with which it was begun",
                next_step="Continue with the same images, model and options, or choose another --out.",
            )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


@contextmanager
def _opened(shard: Shard) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard.path, page_checksum_verification=True) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise _broken(shard, f"a broken file ({str(error).splitlines()[0]})") from error
    except OSError as error:
        raise _broken(shard, os_error_reason(error)) from error


def _broken(shard: Shard, got: str, record: BulkRecord | None = None) -> BulkError:
    run = f" of the run {record.digest[:12]}" if record else ""
    return BulkError(
        str(shard.path),
        got=got,
        expected=f"{len(shard.names)} rows{run}",
        next_step="Remove this file and run the same command again; it writes the file again.",
    )


def check_shard(shard: Shard, record: BulkRecord) -> int:
    """Compare the rows of a shard with its inputs, name by name, and return how many have an error.

    All names of a run differ, so none has two rows. All columns are read, because each has checksums.

    Args:
        shard: The shard.
        record: Of the run.

    Raises:
        BulkError: The shard is missing or altered, or its rows are not those of its inputs.
    """
    if not is_finished(shard, record):
        raise _broken(shard, "no such file")
    errors = position = 0
    with _opened(shard) as file:
        for rows in file.iter_batches(ROWS_PER_GROUP):
            names = rows.column("image").to_pylist()
            expected = list(map(_in_utf8, shard.names[position : position + len(names)]))
            if names != expected:
                raise _broken(shard, f"other images than the inputs from row {position}")
            position += len(names)
            errors += len(names) - rows.column("error").null_count
    return errors


def is_finished(shard: Shard, record: BulkRecord) -> bool:
    """Return whether a shard is there.

    Args:
        shard: The shard.
        record: Of the run.

    Raises:
        BulkError: Its file is broken, or of another run.
    """
    if not shard.path.exists():
        return False
    with _opened(shard) as file:
        run = (file.schema_arrow.metadata or {}).get(_RUN, b"").decode("ascii", "replace")
        if run != record.digest or file.metadata.num_rows != len(shard.names):
            raise _broken(shard, f"{file.metadata.num_rows} rows of the run {run[:12]}", record)
    return True


def write_shard(
    shard: Shard, results: Iterator[Classified], record: BulkRecord, report: Callable[[int], None]
) -> None:
    """Write one shard; a part of it is never seen.

    Args:
        shard: The shard.
        results: The predictions of its images, in order.
        record: Of the run.
        report: Called with the number of images of each batch.

    Raises:
        OSError: It cannot be written, or the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({_RUN: record.digest, b"model": record.model})
    labels = pa.array(record.class_names, pa.string())
    with (
        atomic_file(shard.path) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as file,
    ):
        rows: list[pa.RecordBatch] = []
        for result in results:
            rows.append(_rows_from(result, labels, schema))
            if sum(map(len, rows)) >= ROWS_PER_GROUP:
                file.write_table(pa.Table.from_batches(rows, schema))
                rows = []
            report(len(result.names))
        file.write_table(pa.Table.from_batches(rows, schema))


def _rows_from(result: Classified, labels: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    indices = pa.array(result.indices.ravel(), pa.int32())
    classes = pa.StructArray.from_arrays(
        [labels.take(indices), indices, pa.array(result.probabilities.ravel(), pa.float32())],
        fields=list(schema.field("classes").type.value_type),
    )
    counts = [0 if place in result.errors else result.indices.shape[1] for place in range(len(result.names))]
    offsets = np.cumsum([0, *counts], dtype=np.int32)  # (names + 1,)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(map(_in_utf8, result.names), pa.string()),
            pa.array(map(result.errors.get, range(len(result.names))), pa.string()),
            pa.ListArray.from_arrays(offsets, classes, type=schema.field("classes").type),
        ],
        schema=schema,
    )


def _schema() -> pa.Schema:
    import pyarrow as pa

    fields = [
        pa.field("label", pa.string()),
        pa.field("index", pa.int32()),
        pa.field("probability", pa.float32()),
    ]
    return pa.schema(
        [
            pa.field("image", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("classes", pa.list_(pa.struct(fields))),  # empty if there is an error
        ]
    )


def _in_utf8(name: str) -> str:
    """Return a name as Parquet can have it: a byte of a path that is not UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def digest_of(inputs: Sequence[str]) -> str:
    """Return the hex SHA-256 of names in their order.

    Args:
        inputs: The names; bytes of paths that are not UTF-8 are surrogates, as Python has them.
    """
    digest = hashlib.sha256()
    for name in inputs:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def shards_of(out: Path, inputs: Sequence[str], count: int) -> list[Shard]:
    """Divide the inputs into shards of almost equal length.

    Args:
        out: The folder of the shards.
        inputs: The sorted names.
        count: How many shards; at most as many as inputs.
    """
    ends = [number * len(inputs) // count for number in range(count + 1)]
    return [
        Shard(out / f"part-{number:05}-of-{count:05}.parquet", inputs[start:end])
        for number, (start, end) in enumerate(itertools.pairwise(ends))
    ]
