"""A model of a repository as Triton reads it: its `config.pbtxt`, its versions, and those of them that are loaded.

Schema: triton-inference-server/common, protobuf/model_config.proto, as `tritonclient` ships it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from model.errors import ArtifactError
from model.spec import METADATA_KEY
from model.triton_backends import ModelConfig, backend_of

CONFIG_FILE = "config.pbtxt"
LAST_VERSION = "last_version"
"""Parameter with the highest version ever published, so that a number is not used again after a deletion."""

_BACKEND_FILES = {
    "model.plan": "tensorrt",
    "model.onnx": "onnxruntime",
    "model.xml": "openvino",
    "model.pt": "pytorch",
    "model.py": "python",
}
"""Files by which Triton knows a backend that no configuration names, in its order."""
_MODEL_SUFFIXES = {*(Path(name).suffix for name in _BACKEND_FILES), ".pt2", ".pth", ".engine", ".trt", ".safetensors"}
_COMPLETING = ("onnxruntime", "openvino", "tensorrt", "python")
"""Backends that fill in the inputs and outputs that a configuration leaves out; Python's by the model's own code."""


def config_from_text(text: str, origin: str) -> ModelConfig:
    """Parse a `config.pbtxt`. Raises ArtifactError with the line and what is wrong."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ArtifactError(f"{origin}: not a Triton model configuration ({error})") from error


def read_config(model_folder: Path) -> ModelConfig:
    """Read the `config.pbtxt` of a model folder. Raises ArtifactError."""
    path = model_folder / CONFIG_FILE
    return given_config(path)


def completed_config(model: Path) -> ModelConfig:
    """The configuration of a model folder with the backend that Triton finds by the files where none is named.

    A model that was not published by `builder` needs no `config.pbtxt`. Raises ArtifactError.
    Source: triton-inference-server/core, src/model_config_utils.cc, `AutoCompleteBackendFields`.
    """
    present = os.path.lexists(model / CONFIG_FILE) or is_published(model)
    config = read_config(model) if present else config_from_text("", str(model))
    if not backend_of(config) and not config.HasField("ensemble_scheduling"):
        config.backend = _backend_by_files(model, config.default_model_filename)
    return config


def completes_tensors(config: ModelConfig) -> bool:
    """Whether the backend fills in inputs and outputs, as the configuration leaves some out."""
    return backend_of(config) in _COMPLETING and not (config.input and config.output)


def is_published(model: Path) -> bool:
    """Whether `builder` has published the model of this folder."""
    return os.path.isfile(model / METADATA_KEY)  # noqa: PTH113 - False too where the folder may not be entered


def holds_model(folder: Path) -> bool:
    """Whether a folder of a repository is a model to Triton, be it one that does not load.

    Folders such as `.git`, `docs` and `lost+found` are none: they have no configuration and no model's files.
    """
    if os.path.lexists(folder / CONFIG_FILE) or is_published(folder):
        return True
    versions = [folder / str(number) for number in versions_of(folder)]
    return any(Path(name).suffix in _MODEL_SUFFIXES for version in versions for name in _names(version))


def models_in(repository: Path) -> list[Path]:
    """The folders of a repository that hold a model, in order."""
    return [folder for folder in sorted(repository.iterdir()) if folder.is_dir() and holds_model(folder)]


def other_folders_in(repository: Path) -> list[Path]:
    """The other folders of a repository, in order."""
    return [folder for folder in sorted(repository.iterdir()) if folder.is_dir() and not holds_model(folder)]


def _backend_by_files(model: Path, filename: str) -> str:
    """Empty where Triton finds none: it looks into the first folder alone, and only for names that it knows."""
    if filename:
        return _BACKEND_FILES.get(filename, "")
    folders = _folders(model)
    names = _names(model / folders[0]) if folders else []
    return next((backend for name, backend in _BACKEND_FILES.items() if name in names), "")


def _folders(folder: Path) -> list[str]:
    return [name for name in _names(folder) if os.path.isdir(folder / name)]  # noqa: PTH112 - as above


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing, where it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def given_config(path: Path) -> ModelConfig:
    """Read a `config.pbtxt` that someone wrote. Raises ArtifactError with the line and what is wrong."""
    return config_from_text(_read_text(path), origin=str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: is not UTF-8 text ({error})") from error


def versions_of(model: Path) -> list[int]:
    """The published versions of a model folder, ascending, as Triton counts them."""
    return sorted(int(name) for name in _folders(model) if re.fullmatch(r"0|[1-9][0-9]*", name))


def misread_versions(model: Path, config: ModelConfig) -> dict[str, int]:
    """Folders such as `2_old`, by name, that Triton takes for a version to load: it reads the leading digits."""
    known = versions_of(model)
    found = {name: re.match(r"[1-9][0-9]*", name) for name in _folders(model)}
    numbers = {name: int(digits[0]) for name, digits in found.items() if digits and int(digits[0]) not in known}
    loaded = versions_loaded(config, [*known, *numbers.values()])
    return {name: number for name, number in numbers.items() if number in loaded}


def last_version(config: ModelConfig) -> int:
    """The highest version ever published, 0 where `builder` has published none."""
    text: str = config.parameters[LAST_VERSION].string_value if LAST_VERSION in config.parameters else ""
    return int(text) if text.isdecimal() else 0


def versions_loaded(config: ModelConfig, versions: Sequence[int]) -> set[int]:
    """Those that Triton loads by the version policy of a `ModelConfig`: the newest one, unless it says otherwise."""
    policy = config.version_policy
    if policy.HasField("all"):
        return set(versions)
    if policy.HasField("specific"):
        return set(versions) & set(policy.specific.versions)
    count = policy.latest.num_versions if policy.HasField("latest") else 1
    return set(sorted(versions, reverse=True)[:count])


def configured_sizes(config: ModelConfig) -> tuple[int, ...]:
    """The batch sizes that a configuration names: those it prefers, and those captured as CUDA graphs."""
    captured = (spec.batch_size for spec in config.optimization.cuda.graph_spec)
    return tuple(sorted({*config.dynamic_batching.preferred_batch_size, *captured} - {0}))


def described_policy(config: ModelConfig) -> str:
    """A version policy in the words that `--versions` takes."""
    policy = config.version_policy
    if policy.HasField("all"):
        return "all"
    if policy.HasField("specific"):
        return ",".join(map(str, policy.specific.versions))
    return f"latest:{policy.latest.num_versions if policy.HasField('latest') else 1}"
