"""A model of a repository as Triton reads it: its `config.pbtxt`, its versions, and those of them that are loaded.

Schema: triton-inference-server/common, protobuf/model_config.proto, as `tritonclient` ships it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.errors import ArtifactError
from model.triton_backends import ModelConfig

CONFIG_FILE = "config.pbtxt"
LAST_VERSION = "last_version"
"""Parameter with the highest version ever published, so that a number is not used again after a deletion."""


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
    if not model.is_dir():
        return []
    names = [path.name for path in model.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal() and name.isascii() and not name.startswith("0"))


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


def sizes_named(config: ModelConfig) -> tuple[int, ...]:
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
