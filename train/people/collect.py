"""`train collect`: loads a group of labelled pictures from a collection service into a folder.

A picture's file is named by its SHA-256. So each content is fetched and stored once, a file that is there is whole, and
no name of the service becomes a path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.people.service import CollectionService, ContentError, PictureEntry
from tritonkit.errors import InputError
from tritonkit.evaluation.provenance import TABLE_FILE, UNKNOWN, Provenance, read_provenance, write_table
from tritonkit.evaluation.samples.sample import IMAGE, LABEL, LABELS, MASK
from tritonkit.images.picture_formats import picture_file
from tritonkit.images.preprocess import ImageError, decode_image
from tritonkit.remotes.addresses import public_name
from tritonkit.spec import Frozen
from tritonkit.system.console import track_progress
from tritonkit.system.files import atomic_write, delete_partial_files

PICTURES = "pictures"
"""The folder of the pictures, next to the table."""
_REJECTED = "rejected"
_RESERVED = {IMAGE, LABEL, LABELS, MASK, "id", "name", "sha256"}
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "HEIF": ".heic"}
"""By format, where the suffix is not the format's name."""


@dataclass(frozen=True)
class CollectOptions:
    """The options of `train collect`."""

    url: str
    group: str
    output: Path
    threads: int = 8
    retry_s: float = 60.0


class CollectedGroup(Frozen):
    """The result of `train collect`."""

    group: str
    table: Path
    images: int
    """The pictures in the table."""
    fetched: int
    bytes: int
    """Of the fetched pictures."""
    rejected: dict[str, str]
    """The reason for each picture that is not in the table, by id."""


def collect(options: CollectOptions) -> CollectedGroup:
    """Load the pictures of a group that are missing, and write the table of the group.

    Killed at any moment, it continues with the next call. Raises InputError, ExternalError, OSError.
    """
    service = CollectionService(options.url, options.threads, options.retry_s)
    provenance = Provenance(url=public_name(service.url), group=options.group)
    table = options.output / TABLE_FILE
    _check_same_group(table, provenance)
    listed = list({entry.id: entry for entry in service.pictures(options.group)}.values())
    if not listed:
        raise InputError(
            f"{service.url}: group {options.group!r} has no pictures; nothing was written", code="collection.empty"
        )
    pictures = options.output / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    delete_partial_files(pictures.glob(".*.partial"))
    by_content, rejected = _without_contradictions(listed)
    entries = [same[0] for same in by_content.values()]
    stored = {path.stem: path for path in pictures.iterdir() if not path.name.startswith(".")}
    broken = _rejected_before(table)
    missing = [same for content, same in by_content.items() if content not in stored and content not in broken]
    for entry, path, reason in _fetch_all(service, missing, pictures, options.threads):
        if path is not None:
            stored[entry.sha256] = path
        elif isinstance(reason, ImageError):
            broken[entry.sha256] = str(reason)
        else:
            rejected[entry.id] = str(reason)
    broken = {entry.sha256: broken[entry.sha256] for entry in entries if entry.sha256 in broken}
    rejected |= {entry.id: broken[entry.sha256] for entry in entries if entry.sha256 in broken}
    rows = [_row(entry, stored[entry.sha256]) for entry in entries if entry.sha256 in stored]
    write_table(table, provenance, rows, **({_REJECTED: broken} if broken else {}))
    fetched = [entry.bytes for entry, *_ in missing if entry.sha256 in stored]
    return CollectedGroup(
        group=options.group,
        table=table,
        images=len(rows),
        fetched=len(fetched),
        bytes=sum(fetched),
        rejected=dict(sorted(rejected.items())),
    )


def _check_same_group(table: Path, provenance: Provenance) -> None:
    """Refuse a folder with pictures of another group, whose table would be replaced."""
    before = read_provenance(table) if table.is_file() else UNKNOWN
    if table.is_file() and (before.url, before.group) != (provenance.url, provenance.group):
        raise InputError(
            f"{table}: is the table of group {before.group!r} of {before.url}; choose another --output",
            code="collection.other_group",
        )


def _without_contradictions(listed: Iterable[PictureEntry]) -> tuple[dict[str, list[PictureEntry]], dict[str, str]]:
    """Return the entries by content, in the order of their ids, and reasons for those with two truths."""
    by_content: dict[str, list[PictureEntry]] = {}
    for entry in sorted(listed, key=lambda entry: entry.id):
        by_content.setdefault(entry.sha256, []).append(entry)
    rejected: dict[str, str] = {}
    for content, entries in list(by_content.items()):
        # The order of labels says nothing.
        if len({(entry.label, None if entry.labels is None else frozenset(entry.labels)) for entry in entries}) > 1:
            ids = ", ".join(entry.id for entry in entries)
            rejected |= {entry.id: f"{ids} are the same picture with different labels" for entry in entries}
            del by_content[content]
    return by_content, rejected


def _rejected_before(table: Path) -> dict[str, str]:
    """Return the reasons for pictures that an earlier call fetched and could not decode, by SHA-256."""
    with suppress(OSError, ValueError):
        return dict(json.loads(table.read_text(encoding="utf-8")).get(_REJECTED, {}))
    return {}


def _fetch_all(
    service: CollectionService, missing: list[list[PictureEntry]], folder: Path, threads: int
) -> Iterable[tuple[PictureEntry, Path | None, Exception | None]]:
    """Fetch pictures in several threads; yield each with its path, or with the reason why it was not stored.

    missing: for each content, the entries that have it; the next one is tried where one is gone.
    """

    def store(same: list[PictureEntry]) -> tuple[PictureEntry, Path | None, Exception | None]:
        reasons: list[Exception] = []
        for entry in same:
            try:
                return entry, _store(service.content(entry), entry, folder), None
            except ContentError as error:
                reasons.append(error)
            except ImageError as error:
                return entry, None, error
        return same[0], None, reasons[0]

    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from track_progress(pool.map(store, missing), "fetching pictures", len(missing))
        finally:  # also after an error or Ctrl-C
            service.policy.stopped.set()
            pool.shutdown(cancel_futures=True)


def _store(data: bytes, entry: PictureEntry, folder: Path) -> Path:
    """Write a picture under its hash. Raises ImageError if it cannot be decoded."""
    decode_image(data)
    kind = picture_file(data).format
    path = folder / f"{entry.sha256}{_SUFFIXES.get(kind, f'.{kind.lower()}')}"
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def _row(entry: PictureEntry, path: Path) -> dict[str, Any]:
    """Return the row of a picture; each key of its meta is a column."""
    truth = {LABEL: entry.label, LABELS: entry.labels}
    return {
        IMAGE: f"{PICTURES}/{path.name}",
        **{column: value for column, value in truth.items() if value is not None},
        "id": entry.id,
        "name": entry.name,
        "sha256": entry.sha256,
        **{f"meta.{key}" if key in _RESERVED else key: value for key, value in entry.meta.items()},
    }
