"""`builder export`: a source becomes a proven version in a model repository, or nothing does."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.config.serving import AS_BEFORE, Serving
from builder.config.serving_config import unproven
from builder.config.triton_config import config_for
from builder.dossier import Dossier
from builder.formats import Format, Job, ProgressCallback, format_for
from builder.interface import interface_of
from builder.onnx_export import onnx_interface
from builder.precision.autocast import check_converter
from builder.proving.labelled import labelled_set, train_command
from builder.proving.proof import VerificationContext, case_of
from builder.proving.verdict import Verdict
from builder.repair import BuildAttempt, Repair, make
from builder.repository.encoded import check_names, follow, leave
from builder.repository.held import Servers
from builder.repository.publish import Publication, publication
from builder.repository.retention import Retention, keep_newest
from builder.repository.serving_image import check_build, check_loads
from builder.repository.shared_files import SharedFiles, resolve_shared_files, unverified_batch_warnings
from builder.sources.base import Source
from builder.sources.images import builtin_golden, golden_from_images
from builder.targets import Precision, Target
from model.build_record import BuildOptions
from model.comparison import Limits
from model.errors import CheckFailedError, InputError, TritonkitError
from model.golden import MAX_IMAGES, Golden
from model.releases import image_for
from model.spec import Frozen, ModelSpec
from model.triton_backends import Loading, ModelConfig
from model.triton_config import (
    CONFIG_FILE,
    configured_sizes,
    described_policy,
    given_config,
    read_config,
    versions_loaded,
    versions_of,
)

DEFAULT_MAX_BATCH = 32
FEW_PICTURES = 8
"""Fewer tell little of the range that int8 has to hold."""
ONNX_FP32 = Target()


@dataclass(frozen=True)
class Evidence:
    """What a verdict is based on."""

    images: Path | None = None
    """A folder of pictures in place of the golden sample."""
    data: Path | None = None
    """A labelled set to measure quality on."""
    masks: Path | None = None
    limits: Mapping[Precision, Limits] | None = None


@dataclass(frozen=True)
class ExportRequest:
    """What to export to where."""

    repository: Path
    max_batch: int | None = None
    """None keeps that of the model already published, or takes 32."""
    target: Target = ONNX_FP32
    opt_batch: int | None = None
    """The batch size a plan is tuned for; None takes the largest."""
    evidence: Evidence = field(default_factory=Evidence)
    keep_fp32: tuple[str, ...] = ()
    """Patterns of nodes, operators and tensors that a reduced precision leaves out."""
    converter: str = "edges"
    calibration: Path | None = None
    """Pictures to calibrate int8 and measure ranges on; None takes those of the verdict."""
    repair: bool = True
    force: bool = False
    strict: bool = False
    """Refuse where another precision than that of the target would be published."""
    build: BuildOptions | None = None
    image: str | None = None
    """The container image to build plans in; None builds right here."""
    serving: Serving = AS_BEFORE
    config: Path | None = None
    """A hand-written config.pbtxt to respect."""
    keep: int | None = None
    """Delete all but so many versions afterwards."""
    servers: Servers = field(default_factory=Servers)
    """Whose versions are not to be deleted."""
    page: Path | None = None
    """Where to write the verdict as a page, also when it fails."""
    encoded: bool = True
    """Publish `NAME_encoded` beside the model, which takes JPEG, PNG and WebP as they are."""


class Published(Frozen):
    """A version that now stands in the repository."""

    model: str
    version: int
    artifact: Path
    source: str
    verdict: Verdict
    served: bool = True
    """The version policy of config.pbtxt has Triton load it."""
    retention: Retention | None = None
    warnings: tuple[str, ...] = ()
    """What the verdict does not speak of."""
    instead: str | None = None
    """Why it is in another precision than the one ordered; None where it is in that."""


def export(source: Source, order: ExportRequest, report: ProgressCallback) -> Published:
    """Export to the order's target, judge, repair where a reduced precision fails, and publish.

    Raises CheckFailedError, unless forced, when the verdict failed or the serving image cannot load the plan.
    """
    name, kind = source.spec.name, format_for(order.target.format, order.build, order.image)
    _check_order(source, order, kind)
    image = image_for(order.repository)
    given = None if order.config is None else given_config(order.config)
    live = order.repository / name
    with publication(order.repository, name) as prepared, tempfile.TemporaryDirectory() as scratch:
        present = read_config(live) if (live / CONFIG_FILE).is_file() else None
        held = versions_loaded(present, versions_of(live)) if present is not None else set()
        case = _case(source, order, given, present)
        repair = _repair(case, order)
        served = _Served(kind, order.serving, given, present, versions_of(live))
        job = Job(
            source=source,
            graph=Path(scratch) / "model.onnx",
            precision=order.target.precision,
            folder=prepared.version_folder,
            max_batch=case.max_batch,
            opt_batch=order.opt_batch,
            report=report,
        )
        kind.check_job(job)
        check_build(kind.foreseen(job), image, order.force)
        foreseen = SharedFiles(case.spec, served.config(case, job, prepared.version), None)
        case = replace(case, preferred=configured_sizes(foreseen.config))
        resolve_shared_files(
            prepared.model, foreseen, order.serving, given
        )  # what Triton would refuse, before the work
        report("exporting to ONNX")
        source.write_graph(job.graph)
        made = make(case, job, order.target, kind, repair)
        with closing(made.judged.runner):
            verdict = _recorded(made, case, order, image)
        unfit = check_loads(made.job.folder, image, order.force)  # what was foreseen may not be what was built
        added = SharedFiles(case.spec, served.config(case, made.job, prepared.version), case.golden.images)
        config = resolve_shared_files(prepared.model, added, order.serving, given).write(prepared.model)
        _follow(prepared, order, name, config)
    artifact, told = live / str(prepared.version) / made.artifact.name, source.description
    other = _instead(order, source, verdict)
    done = Published(
        model=name,
        version=prepared.version,
        artifact=artifact,
        source=told,
        verdict=verdict,
        instead=other and f"{other}; published in {verdict.precision}",
    )
    said = [*unfit, *_training_warnings(source), *calibration_warnings(source, repair, verdict)]
    return _followed_up(done, order, config, held, said)


def _follow(prepared: Publication, order: ExportRequest, name: str, config: ModelConfig) -> None:
    """Have `NAME_encoded` fit the model, or leave."""
    if order.encoded:
        follow(prepared.neighbours, order.repository, config)
    else:
        leave(prepared.neighbours, order.repository, name)


def _check_order(source: Source, order: ExportRequest, kind: Format) -> None:
    """Raise InputError or ExternalError for what cannot come to a good end, before any work."""
    kind.check_possible()
    source.check_takes(order.target.precision)
    _check_reduces(source, order)
    check_converter(order.converter)
    check_names(order.repository, source.spec.name, order.encoded)
    if order.evidence.data is not None:
        train_command()
    accelerated = any(one.name == "tensorrt" for one in order.serving.accelerators or ())
    if order.target.format == "onnx" and "bf16" in (order.target.precision, source.precision) and not accelerated:
        asked = "--onnx bf16" if source.precision == "fp32" else f"{source.path.name} is in bf16 already"
        raise InputError(
            f"{asked}: ONNX Runtime itself has no bf16 kernels for most operators. Have TensorRT run it on a GPU, "
            "with --accelerator tensorrt, or take --trt bf16 or --openvino bf16"
        )


def _training_warnings(source: Source) -> list[str]:
    """Repeat what the training warned of, such as that nothing was learnt."""
    return [f"training: {warning}" for warning in source.spec.lineage.warnings]


def _check_reduces(source: Source, order: ExportRequest) -> None:
    """Raise InputError for options of a reduction where none will be."""
    asked = {
        "--keep-fp32": order.keep_fp32,
        "--calibration": order.calibration,
        "--converter": order.converter != ExportRequest.converter,
    }
    if source.precision != "fp32" and (given := [option for option, value in asked.items() if value]):
        raise InputError(
            f"{', '.join(given)}: {source.path.name} is in {source.precision} already and is exported as it is; "
            "leave that out, or give the fp32 model"
        )


def _followed_up(
    done: Published, order: ExportRequest, config: ModelConfig, held: Collection[int], unfit: Sequence[str]
) -> Published:
    """What comes after a version stands: old ones go, and what the verdict did not see is told."""
    folder = order.repository / done.model
    warnings = [*unfit, *done.verdict.notes, *unproven(config), *filter(None, [done.verdict.calibration_doubt])]
    served = done.version in versions_loaded(config, versions_of(folder))
    if not served:
        warnings.append(
            f"Triton does not load version {done.version}: config.pbtxt has it load {described_policy(config)}. "
            f"Serve it with: builder promote {done.model} {done.version}"
        )
    warnings += unverified_batch_warnings(folder, config)
    retention = None
    try:
        retention = None if order.keep is None else keep_newest(folder, order.keep, order.servers, held)
    except TritonkitError as error:
        warnings.append(f"older versions were not deleted: {error}")
    return done.model_copy(update={"served": served, "retention": retention, "warnings": tuple(warnings)})


def golden_for(spec: ModelSpec, own: Golden | None, images: Path | None) -> Golden:
    """The images of a verdict: those asked for, else the checkpoint's own, else the builder's photographs."""
    if images is not None:
        return golden_from_images(images, spec.preprocess)
    return own or builtin_golden(spec.preprocess)


def _case(
    source: Source, order: ExportRequest, given: ModelConfig | None, present: ModelConfig | None
) -> VerificationContext:
    golden = golden_for(source.spec, source.golden, order.evidence.images)
    return case_of(source, golden, largest_batch(order, given, present), order.evidence.limits)


def largest_batch(order: ExportRequest, given: ModelConfig | None, present: ModelConfig | None) -> int:
    """As asked, else as a file of the user's says, else as the model is configured, else 32."""
    said = [config.max_batch_size for config in (given, present) if config is not None]
    return next(filter(None, [order.max_batch, *said]), DEFAULT_MAX_BATCH)


def _repair(case: VerificationContext, order: ExportRequest) -> Repair:
    images = case.golden.images
    if order.calibration is not None:
        images = golden_from_images(order.calibration, case.spec.preprocess).images
    return Repair(images, order.keep_fp32, order.repair, order.force, order.strict, order.converter)


def calibration_warnings(source: Source, repair: Repair, verdict: Verdict) -> list[str]:
    if verdict.precision != "int8" or source.precision != "fp32" or len(repair.images) >= FEW_PICTURES:
        return []
    few = len(repair.images)
    return [f"int8 was calibrated on {few} pictures alone; --calibration FOLDER takes up to {MAX_IMAGES}"]


def _recorded(made: BuildAttempt, case: VerificationContext, order: ExportRequest, image: str) -> Verdict:
    """The last word on an artifact, written beside it. Raises CheckFailedError when it failed and is not forced."""
    job = made.job
    verdict = _weighed(made, order.evidence)
    verdict = verdict.model_copy(update={"forced": order.force and not verdict.passed})
    dossier = Dossier(job.source, made, verdict, case, image)
    if order.page is not None:
        dossier.write_page(order.page)
    if not verdict.passed and not order.force:
        reasons = "\n".join(filter(None, (verdict.summary(), verdict.calibration_doubt, verdict.nearest_tries)))
        raise CheckFailedError(f"{case.spec.name}: the verdict failed, nothing was published.\n{reasons}", verdict)
    if order.strict and (other := _instead(order, job.source, verdict)) is not None:
        raise CheckFailedError(
            f"{case.spec.name}: {other}; --strict takes nothing else, nothing was published", verdict
        )
    job.report("publishing")
    dossier.write_version(job.folder)
    return verdict


def _instead(order: ExportRequest, source: Source, verdict: Verdict) -> str | None:
    """Why a verdict is of another precision than the one ordered; None where it is of that."""
    if verdict.precision == order.target.precision:
        return None
    if verdict.asked is None:
        return f"{source.path.name} is in {verdict.precision} already, and not in {order.target.precision}"
    return verdict.nearest_tries or f"{verdict.asked} was not tried, as the graph fails in fp32 already"


def _weighed(made: BuildAttempt, evidence: Evidence) -> Verdict:
    """The verdict, with the quality on a labelled set where there is one."""
    if evidence.data is None:
        return made.verdict
    made.job.report("measuring on labelled pictures")
    with labelled_set(made.job.source, evidence.data, evidence.masks) as pictures:
        return pictures.with_quality(made.verdict, made.judged.file)


@dataclass(frozen=True)
class _Served:
    """How a model is to be served: what was asked, what a file says, and what the present configuration does."""

    kind: Format
    serving: Serving
    given: ModelConfig | None
    present: ModelConfig | None
    older: Collection[int]
    """The versions that stay beside the new one."""

    def config(self, case: VerificationContext, job: Job, version: int) -> ModelConfig:
        """The configuration of an artifact. Raises InputError with all that contradicts it or Triton's rules."""
        interface = onnx_interface(job.graph) if job.graph.is_file() else interface_of(case.spec)
        return config_for(
            case.spec,
            interface,
            case.max_batch,
            version,
            self.present,
            loading=Loading(self.kind.backend, self.kind.artifact, self.kind.parameters(job)),
            serving=self.serving,
            given=self.given,
            older=self.older,
        )
