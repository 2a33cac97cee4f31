"""The two published models of a pipeline, and whether they fit together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from builder.object_pipeline.config import PipelineConfig
from tritonkit.errors import InputError, Problem, TritonkitError
from tritonkit.images.crops import CropSettings
from tritonkit.repository.model_folder import ModelFolder, VersionFolder, find_models
from tritonkit.repository.pipelines.members import artifact_digest, served_spec
from tritonkit.spec import ModelSpec, PipelineMember, PipelineSpec
from tritonkit.tasks.multiclass import Multiclass
from tritonkit.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class ServedMember:
    """A published model, with the version that Triton serves."""

    folder: ModelFolder
    version: VersionFolder
    spec: ModelSpec

    @property
    def artifact(self) -> Path:
        """The file that the backend loads."""
        return self.version.path / self.folder.files[0]

    @property
    def member(self) -> PipelineMember:
        """The model as the pipeline's spec records it."""
        return PipelineMember(
            model=self.folder.name,
            version=self.version.number,
            sha256=artifact_digest(self.version, self.artifact.name),
            max_batch=self.folder.config.max_batch_size,
        )


@dataclass(frozen=True)
class Members:
    """The models of a pipeline, and what the pipeline does with them."""

    segmenter: ServedMember
    classifier: ServedMember
    label: str
    crop: CropSettings

    @property
    def pipeline(self) -> PipelineSpec:
        """The description for the spec."""
        return PipelineSpec(
            segmenter=self.segmenter.folder.name,
            label=self.label,
            classifier=self.classifier.folder.name,
            crop=self.crop,
            members=(self.segmenter.member.model_copy(update={"max_batch": 1}), self.classifier.member),
        )


def find_members(config: PipelineConfig, repository: Path) -> Members | list[Problem]:
    """Return the models of a pipeline, or all problems that they have. Raises InputError for a missing repository."""
    folders, problems = find_models(repository), list[Problem]()
    found: dict[str, ServedMember] = {}
    for role, name, task in (
        ("segmenter", config.segmenter, Segmentation.name),
        ("classifier", config.classifier, Multiclass.name),
    ):
        try:
            found[role] = _served_member(name, folders, task)
        except TritonkitError as error:
            problems.append(Problem(error.code, f"{role}: {error}"))
    if (taken := folders.get(config.name)) is not None and not _is_pipeline(taken):
        message = f"name: {repository} holds a model {config.name!r} that is no pipeline; choose another name"
        problems.append(Problem("pipeline.name_taken", message))
    label = config.label
    if (segmenter := found.get("segmenter")) is not None:
        foreground = segmenter.spec.labels[1:]
        label = label or (foreground[0] if len(foreground) == 1 else None)
        if label not in foreground:
            got = "is not set" if label is None else f"got {label!r}"
            message = f"label: expected a class of {config.segmenter}, {', '.join(foreground)}; {got}"
            problems.append(Problem("pipeline.label", message))
    trained = found["classifier"].spec.crop if "classifier" in found else None
    if trained is not None and config.crop is not None and trained != config.crop:
        names = [field.name for field in fields(CropSettings)]
        differing = [name for name in names if getattr(trained, name) != getattr(config.crop, name)]
        message = (
            f"crop: {config.classifier} was trained on objects cut out with {_text(trained, differing)}, so with "
            f"{_text(config.crop, differing)} it would give other answers; remove `crop`"
        )
        problems.append(Problem("pipeline.crop", message))
    if problems:
        return problems
    return Members(found["segmenter"], found["classifier"], label or "", config.crop or trained or CropSettings())


def _served_member(name: str, folders: dict[str, Path], task: str) -> ServedMember:
    if name not in folders:
        raise InputError(
            f"there is no model {name!r}; the repository has {', '.join(folders) or 'none'}", code="pipeline.no_member"
        )
    model = ModelFolder.read(folders[name])
    if not model.is_published or (spec := served_spec(model)).task != task:
        what = "was not published by `builder`" if not model.is_published else f"its task is {spec.task}"
        raise InputError(f"{name}: {what}; expected a published model of task {task}", code="pipeline.member_task")
    versions = model.loaded_versions
    if not versions or not (versions[-1].path / model.files[0]).is_file():
        raise InputError(
            f"{name}: Triton loads no version of it; choose one with: builder promote {name} VERSION",
            code="pipeline.no_version",
        )
    return ServedMember(model, versions[-1], spec)


def _is_pipeline(folder: Path) -> bool:
    spec = ModelSpec.read(folder)
    return spec is not None and spec.pipeline is not None


def _text(crop: CropSettings, names: Iterable[str]) -> str:
    return ", ".join(f"{name} {getattr(crop, name)}" for name in names)
