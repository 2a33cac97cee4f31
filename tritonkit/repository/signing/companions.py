"""What makes a decoder or an ensemble for encoded images one that needs no verdict of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.artifact_files import artifact_files
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.triton.backends import PYTHON, ModelConfig, backend_of
from tritonkit.triton.companions import (
    ENCODED_INPUT,
    ONE_PROCESS,
    ONE_PROCESS_BACKEND,
    companions_of,
    decoder_of,
)
from tritonkit.triton.model_config import read_config, read_config_file

PREPROCESS_FILE = "preprocess.json"
"""The file with the model's `Preprocess` in the decoder's version folder."""


def companion_problem(model: ModelFolder) -> str | None:
    """Why a model that carries `encoded_of` is not the decoder or the ensemble of that model; None where it is."""
    owner = model.path.parent / model.owner
    if model.name not in companions_of(model.owner) or not owner.is_dir():
        return f"says that it takes encoded images for {model.owner!r}, but is none of the models that do"
    try:
        config = read_config(owner)
        if model.name == decoder_of(model.owner):
            return _decoder_problem(model, config)
        return _ensemble_problem(model, config)
    except (TritonkitError, OSError, ValueError) as error:
        return f"cannot be compared with {model.owner}: {error}"


def _decoder_problem(model: ModelFolder, owner: ModelConfig) -> str | None:
    """A decoder is Python code, and gives the pixels that its model takes."""
    config, expected = model.config, [(entry.name, entry.data_type, list(entry.dims)) for entry in owner.input]
    if backend_of(config) != PYTHON or model.is_ensemble or [entry.name for entry in config.input] != [ENCODED_INPUT]:
        return "is no decoder: expected Python code that takes encoded images"
    if [(entry.name, entry.data_type, list(entry.dims)) for entry in config.output] != expected:
        return f"does not give what {model.owner} takes"
    spec = ModelSpec.from_json(owner.parameters[METADATA_KEY].string_value, origin=model.owner)
    for version in model.loaded_versions:
        if other := [path.name for path in artifact_files(version.path) if not _is_of_decoder(path)]:
            return f"has {', '.join(other)}, which no decoder has"
        settings = json.loads((version.path / PREPROCESS_FILE).read_text(encoding="utf-8"))
        if settings != json.loads(json.dumps(dataclasses.asdict(spec.preprocess))):
            return f"prepares images otherwise than {model.owner} expects"
    return None


def _is_of_decoder(path: Path) -> bool:
    return path.suffix == ".py" or path.name == PREPROCESS_FILE


def _ensemble_problem(model: ModelFolder, owner: ModelConfig) -> str | None:
    """An ensemble calls the decoder and then its model, with all tensors under their own names."""
    steps = model.config.ensemble_scheduling.step
    called = [(step.model_name, step.model_version) for step in steps]
    maps = [entries for step in steps for entries in (step.input_map, step.output_map)]
    if called != [(decoder_of(model.owner), -1), (model.owner, -1)]:
        return f"does not call {decoder_of(model.owner)} and then {model.owner}"
    images, answers = ([entry.name for entry in tensors] for tensors in (owner.input, owner.output))
    expected = ([ENCODED_INPUT], images, images, answers)
    if [dict(entries) for entries in maps] != [{name: name for name in names} for names in expected]:
        return f"does not pass the tensors of {model.owner} on under their own names"
    for path in sorted((model.path / "configs").rglob("*")):
        if path.name != f"{ONE_PROCESS}.pbtxt" or backend_of(read_config_file(path)) != ONE_PROCESS_BACKEND:
            return f"has {path.name}, which is not the configuration of tritonkit's own backend"
    return None
