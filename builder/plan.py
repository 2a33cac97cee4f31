"""Decide how a version is built, verified and served, and refuse what cannot succeed, before the first long step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.build import BuildPlan
from builder.config.triton_config import config_for
from builder.formats import ArtifactBuilder, BuildJob, builder_for
from builder.interface import interface_of
from builder.repository.encoded import check_companion_names
from builder.repository.publish import Publication, publication
from builder.repository.serving_image import check_build
from builder.repository.shared_files import SharedFiles, resolve_shared_files
from builder.request import ExportRequest, VerifyRequest
from builder.sources import open_source
from builder.sources.base import Source
from builder.sources.images import golden_from_images
from builder.sources.search.source import source_for_artifact
from builder.sources.sketch import sketch_of
from builder.verification.context import (
    DEFAULT_MAX_BATCH,
    VerificationContext,
    select_golden,
    verification_context,
)
from builder.verification.labelled import LabelledSet
from tritonkit.errors import InputError
from tritonkit.export_options import ONNX_BF16
from tritonkit.images.preprocess import ImageArray
from tritonkit.remotes import local_path
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.runtimes.formats import ONNX, ProgressCallback
from tritonkit.sketch import Sketch
from tritonkit.system.files import check_can_write
from tritonkit.triton.backends import BackendFiles, ModelConfig
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    configured_batch_sizes,
    read_config,
    read_config_file,
    versions_of,
)
from tritonkit.triton.releases import image_for


@dataclass(frozen=True)
class ExportPlan(BuildPlan):
    """A version to build, verify and publish."""

    request: ExportRequest
    user_config: ModelConfig | None
    current_config: ModelConfig | None
    """The configuration of the model that is published now."""
    other_versions: Sequence[int]
    """The versions that stay in the model's folder."""
    staged: Publication
    sketch: Sketch | None = None
    labelled: LabelledSet | None = None

    def serving_files(self, job: BuildJob) -> tuple[ModelConfig, SharedFiles]:
        """The `config.pbtxt` as if Triton loaded this version, and the files of the model once the version is added.

        Raises InputError that lists all settings that contradict each other, or that Triton would refuse.
        """
        served, spec = self.builder.format.served, self.context.spec
        config = config_for(
            spec,
            interface_of(spec),
            self.context.max_batch,
            self.staged.version,
            self.current_config,
            loading=BackendFiles(served.backend, served.file, self.builder.parameters(job)),
            serving=self.request,
            user_config=self.user_config,
            other_versions=self.other_versions,
        )
        added = SharedFiles(spec, config, self.context.golden.images)
        return config, resolve_shared_files(self.staged.model, added, self.request, self.user_config)


@dataclass(frozen=True)
class Preparation:
    """What all plans for the next version of a model have in common: its images, its reference and its settings."""

    source: Source
    staged: Publication
    graph: Path
    """Where the ONNX graph of the source is written."""
    context: VerificationContext
    calibration: ImageArray
    user_config: ModelConfig | None
    current_config: ModelConfig | None
    sketch: Sketch | None
    """The drift sketch of the version; None where there are neither images nor a sketch of the training."""
    labelled: LabelledSet | None
    report: ProgressCallback

    def plan(self, request: ExportRequest, builder: ArtifactBuilder, folder: Path | None = None) -> ExportPlan:
        """Plan a version in one format and precision.

        folder: the version folder to write into; None is the one that is published. Raises InputError or
        ExternalError where the build cannot succeed here, CheckFailedError where the server could not load it.
        """
        staged, precision = self.staged, request.target.precision
        folder, max_batch = folder or staged.version_folder, self.context.max_batch
        job = BuildJob(self.source, self.graph, precision, folder, max_batch, request.opt_batch, self.report)
        builder.check_job(job)
        check_build(builder.expected_build_record(job), image_for(request.repository), request.force)
        planned = ExportPlan(
            request=request,
            builder=builder,
            job=job,
            context=self.context,
            calibration=self.calibration,
            user_config=self.user_config,
            current_config=self.current_config,
            other_versions=versions_of(request.repository / self.source.spec.name),
            staged=staged,
            sketch=self.sketch,
            labelled=self.labelled,
        )
        config, _ = planned.serving_files(job)
        preferred = tuple(configured_batch_sizes(config))
        return replace(planned, context=replace(planned.context, preferred=preferred))


@contextmanager
def plan(request: ExportRequest, report: ProgressCallback) -> Iterator[ExportPlan]:
    """Plan an export. The repository is locked until the block ends; without an error the version is published then.

    Raises InputError or ExternalError for a request that cannot succeed.
    """
    check_can_write(request.report)
    source = source_of(request)
    builder = builder_of(request, source)
    with prepare(request, source, report) as prepared:
        yield prepared.plan(request, builder)


def builder_of(request: ExportRequest, source: Source) -> ArtifactBuilder:
    """The builder of the requested format. Raises InputError or ExternalError where it cannot build the source here."""
    serving_image = image_for(request.repository)
    image = (request.image or serving_image) if request.in_container else None
    builder = builder_for(request.target.format, request.build, image)
    builder.check_machine()
    source.check_precision(request.target.precision)
    is_set = {"--keep-fp32": request.keep_fp32, "--calibration": request.calibration}
    if source.precision != "fp32" and (options := [option for option, value in is_set.items() if value]):
        raise InputError(
            f"{', '.join(options)}: {source.path.name} is in {source.precision} and is exported unchanged; leave the "
            "option out, or export the fp32 model",
            code="option.source_is_reduced",
        )
    if request.target.record is ONNX and source.precision == "bf16" and not request.uses_tensorrt:
        raise InputError(f"{source.path.name} is in bf16: {ONNX_BF16}", code="onnx.bf16_kernels")
    return builder


@contextmanager
def prepare(request: ExportRequest, source: Source, report: ProgressCallback) -> Iterator[Preparation]:
    """Prepare the next version of a model; the format and precision of the request are not used.

    The repository is locked until the block ends; without an error the version is published then. Raises InputError.
    """
    name = source.spec.name
    check_companion_names(request.repository, name, request.encoded)
    user_config, _ = configs_of(request, name)
    labelled = LabelledSet.read(source, request.data, request.masks)
    with publication(request.repository, name) as staged, tempfile.TemporaryDirectory() as scratch:
        _, current_config = configs_of(request, name)  # now that no other builder can change it
        golden = select_golden(source.spec, source.golden, request.images)
        chosen, preprocess = request.calibration, source.spec.preprocess
        calibration = golden if chosen is None else golden_from_images(chosen, preprocess)
        max_batch = largest_batch(request, user_config, current_config)
        yield Preparation(
            source=source,
            staged=staged,
            graph=Path(scratch) / ONNX.file,
            context=verification_context(source, golden, max_batch, request.limits),
            calibration=calibration.images,
            user_config=user_config,
            current_config=current_config,
            sketch=sketch_of(source, request.sketch, report),
            labelled=labelled,
            report=report,
        )


def source_of(request: ExportRequest | VerifyRequest) -> Source:
    """Open the model of a request, with its outputs changed by the options."""
    model = request.source if isinstance(request, ExportRequest) else request.against
    name = request.name if isinstance(request, ExportRequest) else None
    source = model if isinstance(model, Source) else open_source(model, request, name)
    if isinstance(request, VerifyRequest):
        source = source_for_artifact(source, local_artifact(request.artifact))
    return source.with_output_options(request)


def configs_of(request: ExportRequest, name: str) -> tuple[ModelConfig | None, ModelConfig | None]:
    """The config.pbtxt of the user, and that of the published model."""
    folder = request.repository / name
    return (
        None if request.config is None else read_config_file(local_path(request.config)),
        read_config(folder) if (folder / CONFIG_FILE).is_file() else None,
    )


def largest_batch(request: ExportRequest, user_config: ModelConfig | None, current_config: ModelConfig | None) -> int:
    """The requested batch, else that of the user's config.pbtxt, else that of the published model, else 32."""
    configured = [config.max_batch_size for config in (user_config, current_config) if config is not None]
    return next(filter(None, [request.max_batch, *configured]), DEFAULT_MAX_BATCH)
