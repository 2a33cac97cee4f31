"""Give an unpacked model another name."""

from __future__ import annotations

from pathlib import Path

from builder.packages.content import spec_of
from builder.packages.package import VERSION
from builder.packages.writing import write_config
from tritonkit.errors import InputError
from tritonkit.repository.artifact_files import SIGNATURE_FILE, SIGNED_FILE
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import file_sha256
from tritonkit.triton.model_config import read_config


def rename_model(staged: Path, name: str, signed: bool) -> None:
    """Write another name into spec, verdict, manifest and configuration of an unpacked model; its folder stays.

    signed: its signature has been checked, which covers the name: raises InputError.
    """
    if signed:
        raise InputError(
            f"--name {name}: the signature covers the name {staged.name}; leave the option out, or install without "
            "--require-signed and sign the model again",
            code="package.signed_name",
        )
    version = staged / VERSION
    for file in (SIGNATURE_FILE, SIGNED_FILE):
        (version / file).unlink(missing_ok=True)
    spec = spec_of(staged).renamed(name)
    spec.write(staged)
    spec_of(version).renamed(name).write(version)
    verdict, manifest = Verdict.read(version), Manifest.read(version)
    if verdict is not None and manifest is not None:  # `check_content` has read them
        verdict.model_copy(update={"model": name}).write(version)
        changed = {
            file: FileEntry(sha256=file_sha256(version / file), bytes=(version / file).stat().st_size)
            for file in (ModelSpec.FILE, Verdict.FILE)
        }
        manifest.model_copy(update={"files": {**manifest.files, **changed}}).write(version)
    config = read_config(staged)
    config.name = name
    config.parameters[METADATA_KEY].string_value = spec.public().to_json()
    write_config(staged, config)
