"""Lint the models of the builder that take encoded pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from builder.repository.encoded import CODE, PREPROCESS_FILE, preprocess_json
from model.encoded import belongs_to, decoder_of, ensemble_of
from model.errors import TritonkitError
from model.finding import Finding, error, warning
from model.spec import METADATA_KEY, ModelSpec
from model.triton_backends import ModelConfig
from model.triton_config import CONFIG_FILE, read_config, versions_of

_EXPORT = "export the model again"


def check_encoded(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Whether a decoder or an ensemble of the builder's does what the model it belongs to was proven with."""
    owner = belongs_to(config)
    folder = model.parent / owner
    if not folder.is_dir():
        yield warning(model, f"is for encoded pictures of {owner}, which is not here", f"export {owner}, or delete it")
    elif model.name == decoder_of(owner):
        yield from _check_decoder(model, folder)


def _check_decoder(model: Path, owner: Path) -> Iterator[Finding]:
    version = model / str(max(versions_of(model), default=1))
    if changed := [name for name, path in CODE.items() if _content(version / name) != path.read_bytes()]:
        yield warning(
            version, f"{' and '.join(changed)}: not as in this version of the kit, which clients may decode by", _EXPORT
        )
    try:
        spec = ModelSpec.from_json(
            read_config(owner).parameters[METADATA_KEY].string_value, origin=str(owner / CONFIG_FILE)
        )
    except (TritonkitError, ValidationError):  # which is told of where that model is checked
        return
    if _content(version / PREPROCESS_FILE) != preprocess_json(spec.preprocess):
        finding = error if (model.parent / ensemble_of(owner.name)).is_dir() else warning
        yield finding(version / PREPROCESS_FILE, f"is not how {owner.name} has pictures prepared", _EXPORT)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
