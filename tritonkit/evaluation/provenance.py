"""Where the images of a table came from: the group of a collection, and how objects were cut out of pictures.

`train collect` and `train crop` write it into the table, and training stores it in the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tritonkit.errors import DataError
from tritonkit.images.crops import CropSettings
from tritonkit.spec import Frozen, validation_problems
from tritonkit.system.files import atomic_write

TABLE_FILE = "images.json"
"""The table of a folder that `train collect` or `train crop` wrote; the folder is read as this table."""
PARTS_FILE = "data.json"
"""In a folder of parts, next to their tables."""
IMAGES, PROVENANCE = "images", "provenance"
"""The keys of a table that is a JSON object: its rows, and their provenance."""


class Provenance(Frozen):
    """Where images came from."""

    url: str | None = None
    """The address of the collection service, without secrets."""
    group: str | None = None
    """The group of the collection."""
    crop: CropSettings | None = None
    """How the images were cut out of pictures; None for whole pictures."""
    keep_together: str | None = None
    """The column whose equal values stay in one part, unless the configuration says how to split."""


UNKNOWN = Provenance()


def table_of(path: Path) -> Path:
    """Return the table of a folder that has one, else the path itself."""
    return path / TABLE_FILE if (path / TABLE_FILE).is_file() else path


def read_provenance(path: Path) -> Provenance:
    """Read the provenance of a table or of a folder of parts; an empty one where nothing is known.

    Raises DataError for a provenance that cannot be used.
    """
    path = table_of(path)
    file = path / PARTS_FILE if path.is_dir() else path
    document: Any = None
    if file.suffix == ".json":
        with suppress(OSError, ValueError, RecursionError):  # the reader of the table reports them
            document = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(document, dict) or PROVENANCE not in document:
        return UNKNOWN
    try:
        return Provenance.model_validate(document[PROVENANCE])
    except ValidationError as error:
        raise DataError(
            f"{file}: its {PROVENANCE} cannot be used; write the table again:\n{validation_problems(error)}",
            code="data.provenance",
        ) from error


def write_table(path: Path, provenance: Provenance, images: Iterable[Mapping[str, Any]], **further: Any) -> None:
    """Write a table and its provenance as one JSON object, with a line for each image. Raises OSError."""
    header = {PROVENANCE: provenance.model_dump(mode="json", exclude_none=True), **further}
    fields = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in images)
    with atomic_write(path) as temporary:
        text = ",\n".join([*fields, f'"{IMAGES}": [\n{rows}\n]'])
        temporary.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
