"""Publish `NAME_decode` and `NAME_encoded` beside a model, so that clients can send JPEG, PNG and WebP files.

Both are derived from the model's configuration and preprocessing. They have one version, which is replaced only when
its content changes; the ensemble calls the served version of the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.config.encoded import decoder_config, ensemble_config, one_process_config
from builder.repository.manifest import manifest_of
from builder.repository.publish import CompanionModels
from tritonkit.errors import ArtifactError, InputError
from tritonkit.images import preprocess
from tritonkit.images.preprocess import Preprocess
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.signing.companions import PREPROCESS_FILE
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.companions import ONE_PROCESS, companion_owner, decoder_of, ensemble_of
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config

_MODULES = (
    *("preprocess", "picture_decoding", "picture_formats", "picture_file", "jpeg_file", "png_file", "tiff_file"),
    *("pixel_budget", "decoder"),
)
DECODER_MODULES = {
    "model.py": Path(__file__).parents[1] / "encoded" / "model.py",
    **{f"{name}.py": Path(preprocess.__file__).with_name(f"{name}.py") for name in _MODULES},
}
"""The Python files that run in Triton, and their paths in tritonkit."""
PIPELINE_MODULES = {
    **{name: path for name, path in DECODER_MODULES.items() if name != "decoder.py"},
    "model.py": Path(__file__).parents[1] / "object_pipeline" / "model.py",
    **{f"{name}.py": Path(preprocess.__file__).with_name(f"{name}.py") for name in ("crops", "objects", "pipeline")},
}
"""The Python files of a pipeline that run in Triton, and their paths in tritonkit."""
_VERSION = "1"


@dataclass(frozen=True)
class Companion:
    """The decoder or the ensemble as it should be."""

    config: ModelConfig
    files: Mapping[str, bytes]
    """The files of its version folder, without the manifest."""
    other_configs: Mapping[str, ModelConfig] = field(default_factory=dict)
    """Configurations that Triton takes by their name instead (`--model-config-name`)."""

    @property
    def name(self) -> str:
        """The model's name in the repository."""
        return str(self.config.name)

    def is_current(self, repository: Path) -> bool:
        """Whether the repository holds it with the same files."""
        folder = repository / self.name / _VERSION
        return (
            self.is_compatible(repository)
            and all(content_of(folder / name) == data for name, data in self.files.items())
            and all(content_of(folder.parent / name) == data for name, data in self._config_files().items())
        )

    def is_compatible(self, repository: Path) -> bool:
        """Whether the repository holds it with the same inputs and outputs, possibly with other code."""
        folder = repository / self.name
        preprocess = self.files.get(PREPROCESS_FILE)
        return (
            (folder / CONFIG_FILE).is_file()
            and read_config(folder) == self.config
            and (folder / _VERSION / Manifest.FILE).is_file()
            and (preprocess is None or content_of(folder / _VERSION / PREPROCESS_FILE) == preprocess)
        )

    def has_same_configs(self, repository: Path) -> bool:
        """Whether `is_compatible`, and the further configurations are the same or missing."""
        folder = repository / self.name
        return self.is_compatible(repository) and all(
            content_of(folder / name) in (None, data) for name, data in self._config_files().items()
        )

    def write(self, folder: Path) -> None:
        """Write the model into an empty folder."""
        version = folder / _VERSION
        version.mkdir()
        for name, data in self.files.items():
            (version / name).write_bytes(data)
        # An ensemble needs a version folder too, and object stores keep no empty folders.
        manifest = manifest_of(
            version, DECODER_MODULES["preprocess.py"], f"encoded pictures of {companion_owner(self.config)}"
        )
        manifest.write(version)
        (folder / CONFIG_FILE).write_text(config_to_text(self.config), encoding="utf-8")
        for name, data in self._config_files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

    def _config_files(self) -> dict[str, bytes]:
        return {f"configs/{name}.pbtxt": config_to_text(config).encode() for name, config in self.other_configs.items()}


def check_companion_names(repository: Path, model: str, encoded: bool) -> None:
    """Raise InputError where the names of a model, its decoder or its ensemble are used by another model.

    encoded: whether decoder and ensemble will be published.
    """
    if (owner := _owner(repository / model)) and (repository / owner).is_dir():
        raise InputError(
            f"{repository / model}: decodes images for {owner}; export under another --name",
            code="repository.name_is_companion",
        )
    for name in (decoder_of(model), ensemble_of(model)) if encoded else ():
        if (repository / name).is_dir() and _owner(repository / name) != model:
            raise InputError(
                f"{repository / name}: `builder export` needs this name for encoded images of {model}, but "
                "did not write this model; move it, export under another --name, or with --no-encoded",
                code="repository.companion_name_taken",
            )


def has_encoded(repository: Path, model: str) -> bool:
    """Whether the repository holds an ensemble for encoded images of the model."""
    return _owner(repository / ensemble_of(model)) == model


def companions_for(repository: Path, config: ModelConfig) -> tuple[Companion, Companion]:
    """The decoder and the ensemble as they should be for a model's configuration; tuned settings stay."""
    settings = ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, origin=config.name).preprocess
    code = {name: path.read_bytes() for name, path in DECODER_MODULES.items()}
    folders = [repository / name for name in (decoder_of(config.name), ensemble_of(config.name))]
    current = [read_config(folder) if (folder / CONFIG_FILE).is_file() else None for folder in folders]
    decoder = Companion(decoder_config(config, current[0]), {**code, PREPROCESS_FILE: preprocess_json(settings)})
    ensemble = ensemble_config(config, current[1])
    return decoder, Companion(ensemble, {}, {ONE_PROCESS: one_process_config(config, ensemble)})


def update_companions(companions: CompanionModels, repository: Path, config: ModelConfig) -> None:
    """Rebuild the decoder and the ensemble if the new configuration makes them stale.

    Both follow the spec in the configuration, like clients that send pixels. Where they no longer fit the model, the
    ensemble is removed before the model changes: a killed builder would otherwise leave an ensemble that Triton does
    not load, or that sends wrong pixels.
    """
    decoder, encoded = companions_for(repository, config)
    if not (decoder.is_compatible(repository) and encoded.is_compatible(repository)):
        companions.remove(encoded.name)
    for companion in (decoder, encoded):
        if companions.is_removed(companion.name) or not companion.is_current(repository):
            companion.write(companions.add(companion.name))


def remove_companions(companions: CompanionModels, repository: Path, model: str) -> None:
    """Remove the decoder and the ensemble of a model, where they exist."""
    for name in (ensemble_of(model), decoder_of(model)):
        if _owner(repository / name) == model:
            companions.remove(name)


def preprocess_json(settings: Preprocess) -> bytes:
    """The content of `preprocess.json`: the fields of `Preprocess`."""
    return json.dumps(dataclasses.asdict(settings), indent=2).encode()


def _owner(folder: Path) -> str:
    try:
        return companion_owner(read_config(folder))
    except ArtifactError:  # missing or unreadable
        return ""


def content_of(path: Path) -> bytes | None:
    """The content of a file; None where it is missing."""
    return path.read_bytes() if path.is_file() else None
