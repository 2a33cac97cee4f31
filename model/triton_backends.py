"""Triton's backends: how a configuration names them, and the file each loads from a version folder."""

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
"""The file Triton's backends look for in a version folder."""
PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}
"""The older word of a configuration, and the backend it means."""
OWN_PARAMETERS = {"openvino": ("ENABLE_BATCH_PADDING", "HINT_BF16")}
"""Parameters that say how an artifact is computed, and so are the artifact's and not the user's."""


@dataclass(frozen=True)
class Loading:
    """What a backend loads from a version folder."""

    backend: str = "onnxruntime"
    filename: str | None = None
    """None is the file that the backend looks for."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Parameters that the artifact needs its backend to read."""
    plans: Mapping[str, str] = field(default_factory=dict)
    """Plans for several GPUs: compute capability such as 8.6, and the file for it."""

    @property
    def file(self) -> str:
        """The file's name; empty for a backend whose default is not known."""
        return self.filename or ARTIFACTS.get(self.backend, "")

    @property
    def default_model_filename(self) -> str:
        """What the configuration says of it: nothing, where it is the backend's own."""
        return "" if self.file == ARTIFACTS.get(self.backend, "") else self.file

    def __str__(self) -> str:
        files = ", ".join([self.file or "an artifact", *(f"{file} ({key})" for key, file in self.plans.items())])
        settings = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{files} for backend {self.backend}{f' with {settings}' if settings else ''}"

    def same(self, other: Loading) -> bool:
        """Whether one configuration can hold for both."""
        return (self.backend, self.file, dict(self.plans), dict(self.parameters)) == (
            other.backend,
            other.file,
            dict(other.plans),
            dict(other.parameters),
        )


def loading_of(config: Any, keys: Iterable[str] = ()) -> Loading:
    """What a `ModelConfig` has its backend load. keys: further parameters that count as the artifact's."""
    backend = backend_of(config)
    own = {*OWN_PARAMETERS.get(backend, ()), *keys}
    parameters = {key: config.parameters[key].string_value for key in sorted(own) if key in config.parameters}
    return Loading(backend, config.default_model_filename or None, parameters, dict(config.cc_model_filenames))


def files_of(config: Any) -> list[str]:
    """The names of the files that the backend of a `ModelConfig` opens in a version folder; none where not known."""
    loading = loading_of(config)
    if loading.backend == "tensorrt" and loading.plans:
        return sorted(set(loading.plans.values()))
    file = loading.filename or {**ARTIFACTS, "python": "model.py"}.get(loading.backend, "")
    return [file] if file and loading.backend in {*ARTIFACTS, "python"} else []


def backend_of(config: Any) -> str:
    """The backend a `ModelConfig` names, by that word or by `platform`; empty when it leaves it to Triton."""
    named: str = config.backend or PLATFORMS.get(config.platform, config.platform)
    return named
