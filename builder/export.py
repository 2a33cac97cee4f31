"""`builder export`: plan, build, verify and publish one version of a model.

plan: check the request, and choose the images, the largest batch and the serving configuration.
build: write the artifact; where its precision fails, build again with more nodes in fp32.
verify: compare the artifact with the source on real images. A failed verdict ends the export.
publish: write the shared files of the model and rename the version into the repository.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from builder.config.triton_config import config_for
from builder.fallback import BuildAttempt, FallbackOptions, build_verified
from builder.formats import ArtifactBuilder, BuildJob, builder_for
from builder.interface import interface_of
from builder.onnx.export import onnx_interface
from builder.repository.encoded import check_companion_names, remove_companions, update_companions
from builder.repository.publish import Publication, publication
from builder.repository.retention import Retention, keep_newest
from builder.repository.serving_image import check_build
from builder.repository.shared_files import SharedFiles, resolve_shared_files, unverified_batch_warnings
from builder.repository.version_files import VersionFiles
from builder.request import ExportRequest, VerifyRequest
from builder.sources import open_source
from builder.sources.base import Source
from builder.sources.images import golden_from_images
from builder.verification.context import (
    DEFAULT_MAX_BATCH,
    VerificationContext,
    select_golden,
    verification_context,
)
from builder.verification.labelled import LabelledSet
from tritonkit.errors import CheckFailedError, InputError, TritonkitError
from tritonkit.export_options import ONNX_BF16
from tritonkit.golden import MAX_IMAGES
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.config_rules import unverified_accelerators
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import ONNX, ProgressCallback
from tritonkit.spec import Frozen
from tritonkit.system.files import check_can_write
from tritonkit.triton.backends import BackendFiles, ModelConfig
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    configured_batch_sizes,
    policy_text,
    read_config,
    read_config_file,
    versions_loaded,
    versions_of,
)
from tritonkit.triton.releases import image_for

FEW_IMAGES = 8
"""Fewer images are too few to calibrate int8 on."""


class PublishedVersion(Frozen):
    """A version that was published."""

    model: str
    version: int
    artifact: Path
    source: str
    verdict: Verdict
    served: bool = True
    """Triton loads the version, by the version policy of config.pbtxt."""
    retention: Retention | None = None
    warnings: tuple[str, ...] = ()
    """Problems that the verdict does not cover."""
    instead: str | None = None
    """Why the precision is not the requested one; None where it is."""


def _ignore(step: str) -> None:
    """Report no progress."""


def export(request: ExportRequest, report: ProgressCallback = _ignore) -> PublishedVersion:
    """Plan, build, verify and publish the next version of a model.

    report: called with a sentence when a step starts.

    Raises CheckFailedError, unless forced, when the verdict failed or the serving image cannot load the plan.
    """
    check_can_write(request.report)
    source = source_of(request)
    serving_image = image_for(request.repository)
    image = (request.image or serving_image) if request.in_container else None
    artifact_builder = builder_for(request.target.format, request.build, image)
    _check_request(source, request, artifact_builder)
    user_config = None if request.config is None else read_config_file(request.config)
    with publication(request.repository, source.spec.name) as staged, tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / ONNX.file
        plan = _plan(source, request, artifact_builder, serving_image, user_config, staged, graph, report)
        report("exporting to ONNX")
        source.write_graph(graph)
        built = build_verified(plan.context, plan.job, request.target, artifact_builder, plan.fallback)
        with closing(built.verified.runner):
            verdict = _verify(built, plan)
        # The built plan may need more of the image than was expected of it, so it is checked again.
        load_warnings = check_build(BuildRecord.read(built.job.folder), serving_image, request.force)
        config = _write_shared_files(built, plan)
    published = _published_version(built, plan, verdict)
    warnings = [*load_warnings, *_training_warnings(source), *calibration_warnings(source, plan.fallback, verdict)]
    return _with_follow_up(published, request, config, plan.loaded_versions, warnings)


def source_of(request: ExportRequest | VerifyRequest) -> Source:
    """Open the model of a request, with its outputs changed by the options."""
    model = request.source if isinstance(request, ExportRequest) else request.against
    name = request.name if isinstance(request, ExportRequest) else None
    source = model if isinstance(model, Source) else open_source(model, request, name)
    return source.with_output_options(request)


@dataclass(frozen=True)
class _ExportPlan:
    """What is decided before the first long step."""

    source: Source
    request: ExportRequest
    artifact_builder: ArtifactBuilder
    serving_image: str
    """The Triton image that serves the repository."""
    user_config: ModelConfig | None
    current_config: ModelConfig | None
    """The configuration of the model that is published now."""
    other_versions: Sequence[int]
    """The versions that stay in the model's folder."""
    staged: Publication
    context: VerificationContext
    fallback: FallbackOptions
    job: BuildJob

    @property
    def loaded_versions(self) -> Collection[int]:
        """The versions that Triton loads before this export."""
        return set() if self.current_config is None else versions_loaded(self.current_config, self.other_versions)

    def model_config(self, job: BuildJob) -> ModelConfig:
        """The `config.pbtxt` of an artifact. Raises InputError that lists all contradictions."""
        interface = onnx_interface(job.graph) if job.graph.is_file() else interface_of(self.context.spec)
        served = self.artifact_builder.format.served
        return config_for(
            self.context.spec,
            interface,
            self.context.max_batch,
            self.staged.version,
            self.current_config,
            loading=BackendFiles(served.backend, served.file, self.artifact_builder.parameters(job)),
            serving=self.request,
            user_config=self.user_config,
            other_versions=self.other_versions,
        )

    def shared_files(self, job: BuildJob, images: ImageArray | None) -> SharedFiles:
        """The files that all versions of the model share, once this one is added.

        images: for the warm-up; None keeps its file. Raises InputError where Triton would refuse them.
        """
        added = SharedFiles(self.context.spec, self.model_config(job), images)
        return resolve_shared_files(self.staged.model, added, self.request, self.user_config)


def _plan(
    source: Source,
    request: ExportRequest,
    artifact_builder: ArtifactBuilder,
    serving_image: str,
    user_config: ModelConfig | None,
    staged: Publication,
    graph: Path,
    report: ProgressCallback,
) -> _ExportPlan:
    """Decide how to build, verify and serve the version, and check what can be checked before the work.

    graph: where the ONNX graph will be written.
    """
    model_folder = request.repository / source.spec.name
    current_config = read_config(model_folder) if (model_folder / CONFIG_FILE).is_file() else None
    golden = select_golden(source.spec, source.golden, request.images)
    max_batch = largest_batch(request, user_config, current_config)
    context = verification_context(source, golden, max_batch, request.limits)
    calibration = golden
    if request.calibration is not None:
        calibration = golden_from_images(request.calibration, source.spec.preprocess)
    job = BuildJob(
        source=source,
        graph=graph,
        precision=request.target.precision,
        folder=staged.version_folder,
        max_batch=max_batch,
        opt_batch=request.opt_batch,
        report=report,
    )
    artifact_builder.check_job(job)
    check_build(artifact_builder.expected_build_record(job), serving_image, request.force)
    plan = _ExportPlan(
        source=source,
        request=request,
        artifact_builder=artifact_builder,
        serving_image=serving_image,
        user_config=user_config,
        current_config=current_config,
        other_versions=versions_of(model_folder),
        staged=staged,
        context=context,
        fallback=FallbackOptions(
            images=calibration.images,
            keep_fp32=request.keep_fp32,
            allowed=request.repair,
            force=request.force,
            strict=request.strict,
        ),
        job=job,
    )
    config = plan.model_config(job)
    plan.shared_files(job, None)  # raises for what Triton would refuse
    return replace(plan, context=replace(context, preferred=configured_batch_sizes(config)))


def _check_request(source: Source, request: ExportRequest, artifact_builder: ArtifactBuilder) -> None:
    """Raise InputError or ExternalError, before any work, for a request that cannot succeed."""
    artifact_builder.check_machine()
    source.check_precision(request.target.precision)
    _check_reduction_options(source, request)
    check_companion_names(request.repository, source.spec.name, request.encoded)
    if request.target.record is ONNX and source.precision == "bf16" and not request.uses_tensorrt:
        raise InputError(f"{source.path.name} is in bf16: {ONNX_BF16}", code="onnx.bf16_kernels")


def _training_warnings(source: Source) -> list[str]:
    """The warnings of the training, such as that the network learnt nothing."""
    return [f"training: {warning}" for warning in source.spec.lineage.warnings]


def _check_reduction_options(source: Source, request: ExportRequest) -> None:
    """Raise InputError for options of a reduced precision where the source is reduced already."""
    is_set = {
        "--keep-fp32": request.keep_fp32,
        "--calibration": request.calibration,
    }
    if source.precision != "fp32" and (options := [option for option, value in is_set.items() if value]):
        raise InputError(
            f"{', '.join(options)}: {source.path.name} is in {source.precision} and is exported unchanged; leave the "
            "option out, or export the fp32 model",
            code="option.source_is_reduced",
        )


def largest_batch(request: ExportRequest, user_config: ModelConfig | None, current_config: ModelConfig | None) -> int:
    """The requested batch, else that of the user's config.pbtxt, else that of the published model, else 32."""
    configured = [config.max_batch_size for config in (user_config, current_config) if config is not None]
    return next(filter(None, [request.max_batch, *configured]), DEFAULT_MAX_BATCH)


def _verify(built: BuildAttempt, plan: _ExportPlan) -> Verdict:
    """The final verdict, written into the version folder. Raises CheckFailedError when it failed and is not forced."""
    source, request, name = plan.source, plan.request, plan.context.spec.name
    verdict = _with_quality(built, request)
    verdict = verdict.model_copy(update={"forced": request.force and not verdict.passed})
    version_files = VersionFiles(source, built, verdict, plan.context, plan.serving_image)
    if request.report is not None:
        version_files.write_page(request.report)
    if not verdict.passed and not request.force:
        reasons = "\n".join(filter(None, (verdict.summary(), verdict.calibration_hint, verdict.closest_attempts)))
        raise CheckFailedError(
            f"{name}: the verdict failed, nothing was published.\n{reasons}",
            verdict,
            code="verdict.failed",
            problems=verdict.problems,
        )
    if request.strict and (reason := _other_precision(request, source, verdict)) is not None:
        raise CheckFailedError(
            f"{name}: {reason}; --strict accepts no other precision, nothing was published",
            verdict,
            code="verdict.other_precision",
        )
    plan.job.report("publishing")
    version_files.write_version(built.job.folder)
    return verdict


def _with_quality(built: BuildAttempt, request: ExportRequest) -> Verdict:
    """The verdict, with the quality on the labelled set where there is one."""
    if request.data is None:
        return built.verdict
    built.job.report("measuring on labelled images")
    labelled = LabelledSet(built.job.source, request.data, request.masks)
    return labelled.with_quality(built.verdict, built.verified.file)


def _other_precision(request: ExportRequest, source: Source, verdict: Verdict) -> str | None:
    """Why the verdict is about another precision than the requested one; None where it is about that."""
    if verdict.precision == request.target.precision:
        return None
    if verdict.asked is None:
        return f"{source.path.name} is in {verdict.precision}, not in {request.target.precision}"
    return verdict.closest_attempts or f"{verdict.asked} was not tried, because the graph fails in fp32 too"


def _write_shared_files(built: BuildAttempt, plan: _ExportPlan) -> ModelConfig:
    """Write the files that all versions share, and add or remove `NAME_encoded`. Returns the configuration."""
    staged, request = plan.staged, plan.request
    config = plan.shared_files(built.job, plan.context.golden.images).write(staged.model)
    if request.encoded:
        update_companions(staged.companions, request.repository, config)
    else:
        remove_companions(staged.companions, request.repository, plan.source.spec.name)
    return config


def _published_version(built: BuildAttempt, plan: _ExportPlan, verdict: Verdict) -> PublishedVersion:
    name, version = plan.source.spec.name, plan.staged.version
    reason = _other_precision(plan.request, plan.source, verdict)
    return PublishedVersion(
        model=name,
        version=version,
        artifact=plan.request.repository / name / str(version) / built.artifact.name,
        source=plan.source.description,
        verdict=verdict,
        instead=reason and f"{reason}; published in {verdict.precision}",
    )


def _with_follow_up(
    published: PublishedVersion,
    request: ExportRequest,
    config: ModelConfig,
    loaded_before: Collection[int],
    warnings: Sequence[str],
) -> PublishedVersion:
    """The published version after old versions were deleted, with its warnings.

    loaded_before: the versions that Triton loaded before this export.
    """
    folder, verdict = request.repository / published.model, published.verdict
    warnings = [*warnings, *verdict.notes, *unverified_accelerators(config), *filter(None, [verdict.calibration_hint])]
    is_served = published.version in versions_loaded(config, versions_of(folder))
    if not is_served:
        warnings.append(
            f"Triton does not load version {published.version}, because config.pbtxt loads "
            f"{policy_text(config)}. Serve it with: builder promote {published.model} {published.version}"
        )
    warnings += unverified_batch_warnings(folder, config)
    retention = None
    try:
        if request.keep is not None:
            retention = keep_newest(folder, request.keep, loaded_before)
    except TritonkitError as error:
        warnings.append(f"older versions were not deleted: {error}")
    return published.model_copy(update={"served": is_served, "retention": retention, "warnings": tuple(warnings)})


def calibration_warnings(source: Source, fallback: FallbackOptions, verdict: Verdict) -> list[str]:
    """A warning where int8 was calibrated on too few images."""
    count = len(fallback.images)
    if verdict.precision != "int8" or source.precision != "fp32" or count >= FEW_IMAGES:
        return []
    return [f"int8 was calibrated on only {count} images; --calibration FOLDER takes up to {MAX_IMAGES}"]
