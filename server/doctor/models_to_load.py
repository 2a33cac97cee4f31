"""The models and versions that a server will load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from server.doctor.target_environment import ENSEMBLE
from tritonkit.errors import TritonkitError
from tritonkit.repository.finding import Finding, error, no_model
from tritonkit.runtimes.formats import model_files
from tritonkit.triton.backends import ModelConfig, artifact_names, backend_of
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    completed_config,
    models_in,
    other_folders_in,
    versions_loaded,
    versions_of,
)


@dataclass(frozen=True)
class ModelToLoad:
    """A model that the server will load."""

    folder: Path
    config: ModelConfig

    @property
    def name(self) -> str:
        """The name in the repository."""
        return self.folder.name

    @property
    def backend(self) -> str:
        """The backend; empty if the configuration leaves it to Triton."""
        return ENSEMBLE if self.config.HasField("ensemble_scheduling") else backend_of(self.config)

    @cached_property
    def versions(self) -> list[Path]:
        """The folders of the versions that the version policy loads, oldest first."""
        loaded = versions_loaded(self.config, versions_of(self.folder))
        return [self.folder / str(number) for number in sorted(loaded)]

    @property
    def files(self) -> list[str]:
        """The file names that the backend opens in a version folder; empty if unknown."""
        return artifact_names(self.config)

    @property
    def instances(self) -> int:
        """The number of instances of each version."""
        return sum(max(group.count, 1) * max(len(group.gpus), 1) for group in self.config.instance_group) or 1

    @property
    def weights_bytes(self) -> int:
        """The total size of the weights of all loaded versions, for one instance."""
        paths = [version / name for version in self.versions for name in self.files]
        files = {file for path in paths for file in model_files(path)}
        return sum(file.stat().st_size for file in files if file.is_file())


def find_models_to_load(repository: Path, names: Sequence[str]) -> tuple[list[ModelToLoad], list[Finding]]:
    """Return the models to load, and findings for configurations that cannot be read.

    names: these models and the members of ensembles; empty means all.
    """
    folders = {folder.name: folder for folder in models_in(repository)}
    pending, models = [*(names or folders)], {}
    findings = [] if names else [no_model(folder) for folder in other_folders_in(repository)]
    while pending:
        name = pending.pop(0)
        if name in models or name not in folders:
            continue
        try:
            models[name] = ModelToLoad(folders[name], completed_config(folders[name]))
        except TritonkitError as reason:
            findings.append(
                error(
                    folders[name] / CONFIG_FILE, str(reason), "correct it, or export the model again", code=reason.code
                )
            )
            folders.pop(name)
            continue
        pending += [step.model_name for step in models[name].config.ensemble_scheduling.step]
    return list(models.values()), findings
