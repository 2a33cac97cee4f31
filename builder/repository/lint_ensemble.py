"""Lint the decoder and the ensemble that the builder publishes for encoded images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from builder.repository.encoded import DECODER_MODULES, PREPROCESS_FILE, preprocess_json
from tritonkit.errors import TritonkitError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.companions import companion_owner, decoder_of, ensemble_of
from tritonkit.triton.model_config import CONFIG_FILE, read_config, versions_of

_EXPORT = "export the model again"


def check_encoded(model: Path, config: ModelConfig) -> Iterator[Finding]:
    """Check that a decoder or an ensemble fits the model it belongs to."""
    owner = companion_owner(config)
    folder = model.parent / owner
    if not folder.is_dir():
        yield warning(
            model,
            f"decodes images for {owner}, which is not here",
            f"export {owner}, or delete it",
            code="repository.owner_missing",
        )
    elif model.name == decoder_of(owner):
        yield from _check_decoder(model, folder)


def _check_decoder(model: Path, owner: Path) -> Iterator[Finding]:
    version = model / str(max(versions_of(model), default=1))
    if changed := [name for name, path in DECODER_MODULES.items() if _content(version / name) != path.read_bytes()]:
        yield warning(
            version,
            f"{' and '.join(changed)}: differs from this version of tritonkit, so clients may decode images otherwise",
            _EXPORT,
            code="repository.decoder_version",
        )
    try:
        spec = ModelSpec.from_json(
            read_config(owner).parameters[METADATA_KEY].string_value, origin=str(owner / CONFIG_FILE)
        )
    except (TritonkitError, ValidationError):  # reported where that model is checked
        return
    if _content(version / PREPROCESS_FILE) != preprocess_json(spec.preprocess):
        finding = error if (model.parent / ensemble_of(owner.name)).is_dir() else warning
        yield finding(
            version / PREPROCESS_FILE,
            f"differs from the preprocessing of {owner.name}",
            _EXPORT,
            code="repository.decoder_preprocess",
        )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
