"""A model of a repository as Triton reads it: its `config.pbtxt`, its versions, and the loaded versions.

Schema: triton-inference-server/common, protobuf/model_config.proto, as `tritonclient` ships it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

from tritonkit.errors import ArtifactError
from tritonkit.runtimes.formats import ONNX, OPENVINO, TORCHSCRIPT, TRT, format_of
from tritonkit.spec import METADATA_KEY
from tritonkit.triton.backends import PYTHON, PYTHON_FILE, ModelConfig, backend_of

CONFIG_FILE = "config.pbtxt"
WARMUP_FOLDER = "warmup"
ENSEMBLE = "ensemble"
"""Triton's name for a model that only calls others."""
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 2, 8: 4, 9: 8, 10: 2, 11: 4, 12: 8, 13: 0, 14: 2}
"""Bytes per element by the number of Triton's `DataType`, TYPE_BOOL to TYPE_BF16; 0 for strings of any length."""
LAST_VERSION = "last_version"
"""Parameter with the highest version ever published, so that a deleted version's number is not reused."""

_BACKEND_FILES = {
    **{known.file: known.backend for known in (TRT, ONNX, OPENVINO, TORCHSCRIPT)},
    PYTHON_FILE: PYTHON,
}
"""Files from which Triton derives the backend if the configuration names none, in Triton's order."""
_FOREIGN_SUFFIXES = {".py", ".pt2", ".pth", ".engine", ".trt", ".safetensors"}
"""Files of models that Triton loads, or that people put into a repository by mistake."""
_AUTO_COMPLETING = (ONNX.backend, OPENVINO.backend, TRT.backend, PYTHON)
"""Backends that complete missing inputs and outputs of a configuration; Python models do so in their own code."""
_MAX_VERSION = 2**63 - 1
"""Triton's versions are int64."""


def config_from_text(text: str, origin: str) -> ModelConfig:
    """Parse a `config.pbtxt`. Raises ArtifactError with line and reason."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ArtifactError(
            f"{origin}: not a Triton model configuration ({error})", code="config_pbtxt.syntax"
        ) from error


def config_to_text(config: ModelConfig) -> str:
    """The text of `config.pbtxt`. Raises ArtifactError where reading it back gives another configuration."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config, as_utf8=True)
    if config_from_text(text, origin=config.name) != config:
        raise ArtifactError(
            f"{config.name}: its configuration changes when it is written as text and read back",
            code="config.round_trip",
        )
    return text


def read_config(model_folder: Path) -> ModelConfig:
    """Read the `config.pbtxt` of a model folder. Raises ArtifactError."""
    return read_config_file(model_folder / CONFIG_FILE)


def completed_config(model: Path) -> ModelConfig:
    """Read the configuration of a model folder; a missing backend is derived from the files, as in Triton.

    A model that was not published by `builder` needs no `config.pbtxt`. Raises ArtifactError.
    Source: triton-inference-server/core, src/model_config_utils.cc, `AutoCompleteBackendFields`.
    """
    present = os.path.lexists(model / CONFIG_FILE) or is_published(model)
    config = read_config(model) if present else config_from_text("", str(model))
    if not backend_of(config) and not config.HasField("ensemble_scheduling"):
        # Triton searches only the first folder, and only for known names.
        names = [name for folder in _folders(model)[:1] for name in _names(model / folder)]
        names = [config.default_model_filename] if config.default_model_filename else names
        config.backend = next((backend for name, backend in _BACKEND_FILES.items() if name in names), "")
    return config


def backend_completes_tensors(config: ModelConfig) -> bool:
    """Whether the backend completes inputs or outputs that the configuration omits."""
    return backend_of(config) in _AUTO_COMPLETING and not (config.input and config.output)


def is_published(model: Path) -> bool:
    """Whether `builder` published the model of this folder."""
    return os.path.isfile(model / METADATA_KEY)  # noqa: PTH113 - also False without permission to enter the folder


def holds_model(folder: Path) -> bool:
    """Whether a folder of a repository is a model for Triton, even one that cannot load.

    Folders such as `.git`, `docs` and `lost+found` are not: they have no configuration and no model files.
    """
    if os.path.lexists(folder / CONFIG_FILE) or is_published(folder):
        return True
    versions = [folder / str(number) for number in versions_of(folder)]
    names = [name for version in versions for name in _names(version)]
    return any(Path(name).suffix in _FOREIGN_SUFFIXES or format_of(name) is not None for name in names)


def _folders(folder: Path) -> list[str]:
    return [name for name in _names(folder) if os.path.isdir(folder / name)]  # noqa: PTH112 - as above


def _names(folder: Path) -> list[str]:
    """Return the sorted names in a folder; empty if it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def read_config_file(path: Path) -> ModelConfig:
    """Read the `config.pbtxt` at a path. Raises ArtifactError with line and reason."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", code="config_pbtxt.unreadable") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: is not UTF-8 text ({error})", code="config_pbtxt.not_text") from error
    return config_from_text(text, origin=str(path))


def versions_of(model: Path) -> list[int]:
    """Return the versions of a model folder in increasing order, by Triton's rules."""
    numbers = (int(name) for name in _folders(model) if re.fullmatch(r"0|[1-9][0-9]*", name))
    return sorted(number for number in numbers if number <= _MAX_VERSION)


def misread_versions(model: Path, config: ModelConfig) -> dict[str, int]:
    """Return folders such as `2_old` that Triton loads as a version, because it reads the leading digits.

    Numbers that Triton cannot hold are among them.
    """
    known = versions_of(model)
    prefixes = {name: re.match(r"[1-9][0-9]*", name) for name in _folders(model)}
    numbers = {name: int(digits[0]) for name, digits in prefixes.items() if digits and int(digits[0]) not in known}
    loaded = versions_loaded(config, [*known, *numbers.values()])
    return {name: number for name, number in numbers.items() if number in loaded or number > _MAX_VERSION}


def last_version(config: ModelConfig) -> int:
    """Return the highest version ever published, 0 if `builder` published none."""
    text: str = config.parameters[LAST_VERSION].string_value if LAST_VERSION in config.parameters else ""
    return int(text) if text.isdecimal() else 0


def versions_loaded(config: ModelConfig, versions: Sequence[int]) -> set[int]:
    """Return the versions that Triton loads by the version policy of a `ModelConfig`; by default the newest."""
    policy = config.version_policy
    if policy.HasField("all"):
        return set(versions)
    if policy.HasField("specific"):
        return set(versions) & set(policy.specific.versions)
    count = policy.latest.num_versions if policy.HasField("latest") else 1
    return set(sorted(versions, reverse=True)[:count])


def fit_sizes(config: ModelConfig, max_batch: int) -> None:
    """Remove preferred batches and CUDA graphs above the maximum, which Triton would refuse."""
    if config.HasField("dynamic_batching"):
        sizes = config.dynamic_batching.preferred_batch_size
        sizes[:] = [size for size in sizes if size <= max_batch]
    specs = config.optimization.cuda.graph_spec if config.optimization.HasField("cuda") else []
    for index in reversed(range(len(specs))):
        if specs[index].batch_size > max_batch:
            del specs[index]


def configured_batch_sizes(config: ModelConfig) -> tuple[int, ...]:
    """Return the batch sizes in a configuration: preferred sizes, and those captured as CUDA graphs."""
    captured = (spec.batch_size for spec in config.optimization.cuda.graph_spec)
    return tuple(sorted({*config.dynamic_batching.preferred_batch_size, *captured} - {0}))


def policy_text(config: ModelConfig) -> str:
    """Return the version policy as a value of the option `--versions`."""
    policy = config.version_policy
    if policy.HasField("all"):
        return "all"
    if policy.HasField("specific"):
        return ",".join(map(str, policy.specific.versions))
    return f"latest:{policy.latest.num_versions if policy.HasField('latest') else 1}"


def warmup_sizes(config: ModelConfig) -> dict[str, int]:
    """Return the warm-up files that a configuration reads, with the minimum size of each in bytes."""
    sizes: dict[str, int] = {}
    for sample in config.model_warmup:
        for entry in sample.inputs.values():
            if name := entry.input_data_file:
                sizes[name] = max(prod(entry.dims) * TYPE_BYTES.get(entry.data_type, 1), sizes.get(name, 0))
    return sizes


def shapes_fit(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes fit; -1 is a variable size."""
    return len(first) == len(second) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(first, second, strict=True)
    )
