"""`config.pbtxt`, made and read with Triton's own protobuf, never by string templates.

Schema: triton-inference-server/common, protobuf/model_config.proto, as `tritonclient` ships it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model.errors import ArtifactError
from model.spec import METADATA_KEY, ModelSpec, TensorSpec

CONFIG_FILE = "config.pbtxt"
LABEL_FILES = "labels*.txt"
"""`labels.txt`, or for each head with labels `labels.HEAD.txt`."""
ARTIFACTS = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""The file Triton's backends look for in a version folder."""
LAST_VERSION = "last_version"
"""Parameter with the highest version ever published, so that a number is not used again after a deletion."""

ModelConfig = Any
"""Triton's `ModelConfig` message; the generated module carries no types."""


def config_for(
    spec: ModelSpec,
    interface: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    max_batch: int,
    version: int,
    present: ModelConfig | None = None,
) -> ModelConfig:
    """The configuration of an artifact, whose own inputs and outputs are `interface`.

    What was tuned in the `present` configuration of the model (instances, batching, …) is kept.

    Raises ArtifactError when the artifact's interface is not the spec's.
    """
    if interface != ((spec.input,), spec.outputs):
        found = "; ".join(", ".join(map(str, side)) for side in interface)
        raise ArtifactError(
            f"{spec.name}: the artifact has {found}; its spec says {spec.input}; {', '.join(map(str, spec.outputs))}"
        )
    config = model_config_pb2.ModelConfig()
    if present is None:
        config.dynamic_batching.SetInParent()
    else:
        config.CopyFrom(present)
        del config.input[:], config.output[:]
        config.ClearField("default_model_filename")
        _fit_preferred_sizes(config, max_batch)
    config.name, config.backend, config.max_batch_size = spec.name, "onnxruntime", max_batch
    for tensor in interface[0]:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
    for tensor in interface[1]:
        config.output.add(
            name=tensor.name,
            data_type=_data_type(tensor),
            dims=tensor.shape,
            label_filename=_label_file(spec, tensor),
        )
    config.parameters[METADATA_KEY].string_value = public_json(spec)
    config.parameters[LAST_VERSION].string_value = str(version)
    return config


def public_json(spec: ModelSpec) -> str:
    """The spec as clients see it: without its lineage, which tells of the training machine."""
    return spec.model_copy(update={"lineage": type(spec.lineage)()}).to_json()


def label_texts(spec: ModelSpec) -> dict[str, str]:
    """The files of labels beside a model and their content: one label a line, in the order of the classes."""
    asked = {f"labels.{name}.txt": head for name, head in spec.heads.items()} or {"labels.txt": spec}
    return {
        name: "".join(f"{label}\n" for label in question.labels) for name, question in asked.items() if question.labels
    }


def config_to_text(config: ModelConfig) -> str:
    """The text of `config.pbtxt`; reading it back must give the same message."""
    text: str = text_format.MessageToString(config, as_utf8=True)
    if config_from_text(text, origin=config.name) != config:
        raise ArtifactError(f"{config.name}: its configuration does not survive being written as text")
    return text


def config_from_text(text: str, origin: str) -> ModelConfig:
    """Parse a `config.pbtxt`. Raises ArtifactError with the line and what is wrong."""
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ArtifactError(f"{origin}: not a Triton model configuration ({error})") from error


def read_config(model_folder: Path) -> ModelConfig:
    """Read the `config.pbtxt` of a model folder. Raises ArtifactError."""
    path = model_folder / CONFIG_FILE
    try:
        return config_from_text(path.read_text(encoding="utf-8"), origin=str(path))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: is not UTF-8 text ({error})") from error


def tensors_of(entries: Any) -> tuple[TensorSpec, ...]:
    """A configuration's `input` or `output` as tensor specs."""
    names = model_config_pb2.DataType
    return tuple(
        TensorSpec(
            name=entry.name,
            dtype=names.Name(entry.data_type).removeprefix("TYPE_").replace("STRING", "BYTES"),
            shape=tuple(entry.dims),
        )
        for entry in entries
    )


def _label_file(spec: ModelSpec, tensor: TensorSpec) -> str:
    """The file that names an output's values, empty for one whose last axis is no labels, such as a mask."""
    question = spec.heads.get(tensor.name, spec)
    if not question.labels or question.embedding_size is not None or tensor.shape != (len(question.labels),):
        return ""
    return f"labels.{tensor.name}.txt" if spec.heads else "labels.txt"


def _fit_preferred_sizes(config: ModelConfig, max_batch: int) -> None:
    """Triton refuses a preferred batch above the maximum."""
    if config.HasField("dynamic_batching"):
        sizes = config.dynamic_batching.preferred_batch_size
        fitting = [size for size in sizes if size <= max_batch]
        del sizes[:]
        sizes.extend(fitting)


def _data_type(tensor: TensorSpec) -> int:
    number: int = model_config_pb2.DataType.Value("TYPE_" + tensor.dtype.replace("BYTES", "STRING"))
    return number
