"""The files that belong to a checkpoint or an artifact and lie next to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tritonkit.golden import GOLDEN_FILE
from tritonkit.remotes import is_address, local_path
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.optimization import Optimization
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import format_of
from tritonkit.sketch import SKETCH_FILE
from tritonkit.spec import ModelSpec
from tritonkit.system.files import file_sha256

VERDICT_PAGE = "verdict.html"
"""The verdict as a page."""
MARK_FILE = "mark.json"
"""Protects a version from deletion; the only file of a version that changes later."""
SIGNATURE_FILE = "model.sig"
SIGNED_FILE = "signed.json"
"""The digests of the files outside the version folder that a signature covers too."""
RECORD_FILES = frozenset(
    {
        *(GOLDEN_FILE, SKETCH_FILE, VERDICT_PAGE, MARK_FILE, SIGNATURE_FILE, SIGNED_FILE),
        *(file.FILE for file in (Verdict, Manifest, BuildRecord, Optimization, ModelSpec)),
    }
)
"""Files of a version folder that describe its artifact; all others are the artifact."""


def artifact_files(version: Path) -> list[Path]:
    """Return the files of the artifact in a version folder."""
    return sorted(path for path in version.iterdir() if path.is_file() and path.name not in RECORD_FILES)


def artifact_sha256(files: Iterable[Path]) -> str:
    """Return one digest of all files of an artifact: the SHA-256 of the sorted lines `SHA-256  NAME`."""
    lines = sorted(f"{file_sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def local_artifact(location: str | Path, *others: str) -> Path:
    """Return the local path of a checkpoint or an artifact; with a remote one, fetch what lies next to it.

    That is its golden images, its drift sketch, the second file of its format, and the records of a published version.
    others: more names, relative to its folder. Raises what `local_path` raises.
    """
    text = str(location)
    if not is_address(text):
        return local_path(location)
    name = PurePosixPath(text.partition("#")[0].partition("?")[0]).name
    record = format_of(name)
    names = [GOLDEN_FILE, SKETCH_FILE] if name else []
    names += [PurePosixPath(name).with_suffix(f".{file}").name for file in names]
    if record is not None:
        weights = [PurePosixPath(name).with_suffix(record.weights_suffix).name] if record.weights_suffix else []
        names += [*weights, Verdict.FILE, Manifest.FILE, BuildRecord.FILE, Optimization.FILE, ModelSpec.FILE]
    return local_path(location, (*names, *others))
