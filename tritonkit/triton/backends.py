"""Triton's backends: their names in a configuration, and the files they load from a version folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ModelConfig = Any
"""Triton's `ModelConfig` message; the generated module carries no types."""
ARTIFACTS = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "openvino": "model.xml",
    "pytorch": "model.pt",
}
"""The default file of each backend in a version folder."""
PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}
"""The backend of each value of the older field `platform`."""
OWN_PARAMETERS = {"openvino": ("ENABLE_BATCH_PADDING", "HINT_BF16")}
"""Parameters that belong to the artifact, not to the user, because they change how it is computed."""


@dataclass(frozen=True)
class BackendFiles:
    """The files and parameters that a backend loads from a version folder."""

    backend: str = "onnxruntime"
    filename: str | None = None
    """None means the backend's default file."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Backend parameters that the artifact needs."""
    plans: Mapping[str, str] = field(default_factory=dict)
    """Plans for several GPUs: file name by compute capability, such as 8.6."""

    @property
    def file(self) -> str:
        """Return the file name; empty for a backend with an unknown default."""
        return self.filename or ARTIFACTS.get(self.backend, "")

    @property
    def default_model_filename(self) -> str:
        """Return the value of this field of the configuration: empty for the backend's default file."""
        return "" if self.file == ARTIFACTS.get(self.backend, "") else self.file

    def __str__(self) -> str:
        files = ", ".join([self.file or "an artifact", *(f"{file} ({key})" for key, file in self.plans.items())])
        settings = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{files} for backend {self.backend}{f' with {settings}' if settings else ''}"

    def same(self, other: BackendFiles) -> bool:
        """Whether one configuration fits both."""
        return (self.backend, self.file, dict(self.plans), dict(self.parameters)) == (
            other.backend,
            other.file,
            dict(other.plans),
            dict(other.parameters),
        )


def backend_files(config: Any, keys: Iterable[str] = ()) -> BackendFiles:
    """Return what the backend of a `ModelConfig` loads. keys: further parameters that belong to the artifact."""
    backend = backend_of(config)
    artifact_keys = {*OWN_PARAMETERS.get(backend, ()), *keys}
    parameters = {key: config.parameters[key].string_value for key in sorted(artifact_keys) if key in config.parameters}
    return BackendFiles(backend, config.default_model_filename or None, parameters, dict(config.cc_model_filenames))


def artifact_names(config: Any) -> list[str]:
    """Return the files that the backend of a `ModelConfig` opens in a version folder; empty if unknown."""
    loading = backend_files(config)
    if loading.backend == "tensorrt" and loading.plans:
        return sorted(set(loading.plans.values()))
    file = loading.filename or {**ARTIFACTS, "python": "model.py"}.get(loading.backend, "")
    return [file] if file and loading.backend in {*ARTIFACTS, "python"} else []


def backend_of(config: Any) -> str:
    """Return the backend of a `ModelConfig`, from `backend` or `platform`; empty if Triton chooses it."""
    backend: str = config.backend or PLATFORMS.get(config.platform, config.platform)
    return backend
