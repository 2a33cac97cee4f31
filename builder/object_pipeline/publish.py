"""Publish a pipeline: write it, verify it as served, and move it into the repository."""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2

from builder.config.triton_config import config_for
from builder.interface import interface_of
from builder.object_pipeline.config import PipelineConfig, PipelineRequest, config_error
from builder.object_pipeline.members import Members, find_members
from builder.object_pipeline.verification import save_pictures, verdict_pictures, verify, write_page
from builder.repository.encoded import PIPELINE_MODULES
from builder.repository.manifest import manifest_of
from builder.repository.publish import publication
from builder.repository.published import PublishedVersion
from builder.repository.shared_files import SharedFiles
from tritonkit.errors import CheckFailedError
from tritonkit.repository.artifact_files import PICTURES_FILE, VERDICT_PAGE, artifact_files, artifact_sha256
from tritonkit.repository.pipelines.settings import PipelineSettings
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.spec import ENCODED_IMAGE, Architecture, ModelSpec, TaskSpec
from tritonkit.tasks import task_for
from tritonkit.tasks.objects import Objects
from tritonkit.triton.backends import PYTHON, PYTHON_FILE, BackendFiles, ModelConfig
from tritonkit.triton.model_config import CONFIG_FILE, policy_text, read_config, versions_loaded, versions_of

_CPU = model_config_pb2.ModelInstanceGroup.Kind.Value("KIND_CPU")


def publish_pipeline(request: PipelineRequest, report: ProgressCallback = lambda step: None) -> PublishedVersion:
    """Publish the next version of a pipeline of two published models. report: called with a sentence for each step.

    The repository is locked meanwhile. Raises ConfigError for all problems of the configuration, CheckFailedError
    where the verdict failed and is not forced: nothing is published then.
    """
    config = PipelineConfig.read(request.config)
    pictures, origin = verdict_pictures(config.pictures)
    with publication(request.repository, config.name) as staged:
        members = find_members(config, request.repository)
        if isinstance(members, list):
            raise config_error(request.config, members)
        spec, folder = pipeline_spec(config.name, members), staged.version_folder
        settings = PipelineSettings.of(members.pipeline, members.segmenter.spec, members.classifier.spec)
        for name, path in PIPELINE_MODULES.items():
            (folder / name).write_bytes(path.read_bytes())
        settings.write(folder)
        spec.write(folder)
        shared = SharedFiles(spec, _triton_config(spec, staged.version, staged.model, config.instances), None)
        shared.write(staged.model)
        verdict, expected = verify(members, spec, settings, staged.model, pictures, origin, request.runtime, report)
        verdict = verdict.model_copy(update={"forced": request.force and not verdict.passed})
        if not verdict.passed and not request.force:
            raise CheckFailedError(
                f"{spec.name}: the verdict failed, nothing was published.\n{verdict.summary()}",
                verdict,
                code="verdict.failed",
                problems=verdict.problems,
            )
        report("publishing")
        write_page(folder / VERDICT_PAGE, spec, verdict, pictures, expected)
        save_pictures(folder / PICTURES_FILE, pictures)
        identity = {"model": spec.name, "artifact_sha256": artifact_sha256(artifact_files(folder))}
        verdict = verdict.model_copy(update=identity)
        verdict.write(folder)
        source = f"pipeline of {members.pipeline}"
        manifest_of(folder, request.config, source).write(folder)
        served = staged.version in versions_loaded(shared.config, versions_of(staged.model))
    return PublishedVersion(
        model=spec.name,
        version=staged.version,
        artifact=request.repository / spec.name / str(staged.version) / PYTHON_FILE,
        source=source,
        verdict=verdict,
        models=(spec.name,),
        served=served,
        warnings=tuple(_warnings(config, members, shared.config, staged.version, served, verdict.notes)),
    )


def pipeline_spec(name: str, members: Members) -> ModelSpec:
    """Return the spec of a pipeline: the labels of its classifier, the input size of its segmenter."""
    segmenter, labels = members.segmenter.spec, members.classifier.spec.labels
    return ModelSpec(
        name=name,
        task=Objects.name,
        labels=labels,
        architecture=Architecture(
            library="pipeline", name=f"{members.segmenter.folder.name} + {members.classifier.folder.name}"
        ),
        input=ENCODED_IMAGE,
        outputs=task_for(TaskSpec(task=Objects.name, labels=labels)).outputs(ENCODED_IMAGE),
        preprocess=segmenter.preprocess,
        normalize=segmenter.normalize,
        pipeline=members.pipeline,
    )


def _triton_config(spec: ModelSpec, version: int, model: Path, instances: int) -> ModelConfig:
    """The configuration of a pipeline. Its instances are processes, each of which answers one request at a time."""
    current = read_config(model) if (model / CONFIG_FILE).is_file() else None
    others = [number for number in versions_of(model) if number != version]
    config = config_for(
        spec, interface_of(spec), 0, version, current, loading=BackendFiles(PYTHON), other_versions=others
    )
    config.ClearField("dynamic_batching")
    del config.instance_group[:]
    config.instance_group.add(count=instances, kind=_CPU)
    return config


def _warnings(
    config: PipelineConfig,
    members: Members,
    triton_config: ModelConfig,
    version: int,
    served: bool,
    notes: tuple[str, ...],
) -> list[str]:
    warnings = list(notes)
    if config.crop is None and members.classifier.spec.crop is None:
        warnings.append(
            f"{config.classifier} does not say how the objects were cut out that it was trained on; the pipeline cuts "
            f"them with {members.crop}. Set `crop` if they were cut in another way"
        )
    if not served:
        warnings.append(
            f"Triton does not load version {version}, because config.pbtxt loads {policy_text(triton_config)}. Serve "
            f"it with: builder promote {config.name} {version}"
        )
    return warnings
