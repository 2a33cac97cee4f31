"""Triton's backends: their names in a configuration, and the files they load from a version folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tritonkit.runtimes.formats import BUILT_IN, ONNX, TRT, backend_format

ModelConfig = Any
"""Triton's `ModelConfig` message; the generated module carries no types."""
PYTHON = "python"
"""Triton's backend for models that are Python code, and its file."""
PYTHON_FILE = "model.py"


def default_file(backend: str) -> str:
    """The file that a backend loads from a version folder by default; empty for a backend of no known format."""
    artifact_format = backend_format(backend)
    return artifact_format.file if artifact_format is not None else ""


@dataclass(frozen=True)
class BackendFiles:
    """The files and parameters that a backend loads from a version folder."""

    backend: str = ONNX.backend
    filename: str | None = None
    """None means the backend's default file."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Backend parameters that the artifact needs."""
    plans: Mapping[str, str] = field(default_factory=dict)
    """Plans for several GPUs: file name by compute capability, such as 8.6."""

    @property
    def file(self) -> str:
        """Return the file name; empty for a backend with an unknown default."""
        return self.filename or default_file(self.backend)

    @property
    def default_model_filename(self) -> str:
        """Return the value of this field of the configuration: empty for the backend's default file."""
        return "" if self.file == default_file(self.backend) else self.file

    def __str__(self) -> str:
        files = ", ".join([self.file or "an artifact", *(f"{file} ({key})" for key, file in self.plans.items())])
        settings = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{files} for backend {self.backend}{f' with {settings}' if settings else ''}"

    def same(self, other: BackendFiles) -> bool:
        """Whether one configuration fits both."""
        return replace(self, filename=self.file) == replace(other, filename=other.file)


def backend_files(config: Any, keys: Iterable[str] = ()) -> BackendFiles:
    """Return what the backend of a `ModelConfig` loads. keys: further parameters that belong to the artifact."""
    backend = backend_of(config)
    artifact_format = backend_format(backend)
    artifact_keys = {*(artifact_format.parameters if artifact_format is not None else ()), *keys}
    parameters = {key: config.parameters[key].string_value for key in sorted(artifact_keys) if key in config.parameters}
    return BackendFiles(backend, config.default_model_filename or None, parameters, dict(config.cc_model_filenames))


def artifact_names(config: Any) -> list[str]:
    """Return the files that the backend of a `ModelConfig` opens in a version folder; empty if unknown."""
    loading = backend_files(config)
    if loading.backend == TRT.backend and loading.plans:
        return sorted(set(loading.plans.values()))
    default = PYTHON_FILE if loading.backend == PYTHON else default_file(loading.backend)
    return [loading.filename or default] if default else []


def backend_of(config: Any) -> str:
    """Return the backend of a `ModelConfig`, from `backend` or `platform`; empty if Triton chooses it."""
    backend: str = config.backend
    return backend or platform_backend(config.platform)


def platform_backend(platform: str) -> str:
    """The backend of a value of the older field `platform`; the value itself where it is no other name."""
    return next((known.backend for known in BUILT_IN if known.platform == platform and platform), platform)
