"""`signed.json`: the files outside a version folder that its signature covers, because Triton serves it by them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tritonkit.errors import ArtifactError, SpecError
from tritonkit.repository.artifact_files import SIGNED_FILE
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.lint import SHARED_FOLDERS
from tritonkit.repository.manifest import FileEntry
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import file_sha256
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.model_config import CONFIG_FILE, LAST_VERSION, config_from_text, config_to_text, read_config


class SignedFiles(RepositoryFile):
    """The content of `signed.json`. It lies in the version folder, so the signature covers it."""

    FILE: ClassVar[str] = SIGNED_FILE

    model: str
    config: str
    """The text of config.pbtxt, without the version policy and the last version: `builder promote` changes them."""
    files: dict[str, FileEntry]
    """The spec, the label files, and the files of the warm-up and of other configurations, by path."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a file that cannot be read."""
        return ArtifactError(f"{path}: cannot be read ({reason}); sign the model again", code="signature.unreadable")

    @classmethod
    def of(cls, model: Path) -> SignedFiles:
        """The files of a model's folder as they are now. Raises ArtifactError for a config.pbtxt that is not one."""
        files = {
            name: FileEntry(sha256=file_sha256(model / name), bytes=(model / name).stat().st_size)
            for name in shared_files(model)
        }
        return cls(model=model.name, config=config_to_text(_without_versions(read_config(model))), files=files)

    def differences(self, current: SignedFiles) -> list[str]:
        """The names of what is signed otherwise than it is now."""
        same = _parsed(self.config, SIGNED_FILE) == _parsed(current.config, CONFIG_FILE)
        names = {name for name, _ in self.files.items() ^ current.files.items()}
        return [
            *([f"the name {self.model}"] if self.model != current.model else []),
            *([] if same else [CONFIG_FILE]),
            *sorted(names),
        ]


def shared_files(model: Path) -> list[str]:
    """The files of a model's folder that all versions share, by path: spec, labels, SHARED_FOLDERS; no config.pbtxt."""
    spec = ModelSpec.read(model)  # some label files are read by clients alone
    labels = {*(output.label_filename for output in read_config(model).output), *(spec.label_files if spec else ())}
    paths = [model / name for name in {ModelSpec.FILE, *labels} if name and "/" not in name]
    paths += [path for folder in SHARED_FOLDERS for path in (model / folder).rglob("*")]
    return sorted(path.relative_to(model).as_posix() for path in paths if path.is_file())


def _parsed(text: str, origin: str) -> tuple[ModelConfig, ModelSpec | str]:
    """A configuration, and the spec in it apart: a later tritonkit writes the same spec with more fields."""
    config = config_from_text(text, origin)
    spec = config.parameters.pop(METADATA_KEY).string_value if METADATA_KEY in config.parameters else ""
    try:
        return config, ModelSpec.from_json(spec, origin)
    except SpecError:
        return config, spec


def _without_versions(config: ModelConfig) -> ModelConfig:
    changed = type(config)()
    changed.CopyFrom(config)
    changed.ClearField("version_policy")
    changed.parameters.pop(LAST_VERSION, None)
    return changed
