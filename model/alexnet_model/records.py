"""The base class of records on disk, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError

from .errors import ManifestError, os_error_reason
from .model_names import PRECISIONS as PRECISIONS  # which imports no pydantic, for clients
from .model_names import Precision as Precision
from .reading import text_of_file, value_from_json


class Record(BaseModel):
    """A frozen record; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_dump_json(self, **options: Any) -> str:
        """Return the record as JSON, as pydantic does, also with a path in it that is not UTF-8.

        Args:
            options: as of pydantic's method.
        """
        try:
            return super().model_dump_json(**options)
        except PydanticSerializationError:  # Python has such a path with surrogates, which UTF-8 cannot have
            return json.dumps(self.model_dump(mode="json"), indent=options.get("indent"))


AnyRecord = TypeVar("AnyRecord", bound=Record)


def record_from_file(kind: type[AnyRecord], path: Path, *, what: str, make: str) -> AnyRecord:
    """Read a record from JSON.

    Args:
        kind: The class of the record.
        path: The file.
        what: What the file is, for error messages.
        make: How to make such a file, for error messages.

    Raises:
        ManifestError: the file is missing, no JSON, or of another schema; the field is named.
    """
    try:
        return kind.model_validate(value_from_json(text_of_file(path)))
    except OSError as error:
        got = os_error_reason(error)
        raise ManifestError(str(path), got=got, expected=what, next_step=make) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        version = kind.model_fields["schema_version"].default
        raise ManifestError(
            f"{path}: {where or 'root'}",
            got=first["msg"].lower(),
            expected=f"{what} of schema version {version}",
            next_step=make,
        ) from error
    except ValueError as error:
        raise ManifestError(str(path), got=f"{error}", expected=what, next_step=make) from error
