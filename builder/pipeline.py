"""Export a model: plan, build, verify and publish one version of it.

plan: check the request, and choose the images, the largest batch and the serving configuration.
build, verify: write the artifact and compare it with the source on real images, attempt after attempt.
publish: write the files of the version and of the model; they are renamed into the repository as the plan ends.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from builder.build import Verified, build_verified
from builder.interface import check_interface
from builder.onnx.interface import onnx_interface
from builder.plan import ExportPlan, plan
from builder.repository.encoded import remove_companions, update_companions
from builder.repository.manifest import manifest_of
from builder.repository.retention import Retention, keep_newest
from builder.repository.serving_image import check_build
from builder.repository.shared_files import shared_version, unverified_batch_warnings
from builder.request import ExportRequest
from builder.verification.report import write_page
from builder.verification.report_images import ReportAnswers, collect_answers
from tritonkit.comparison import PROBES
from tritonkit.errors import CheckFailedError, InputError, TritonkitError
from tritonkit.golden import GOLDEN_FILE, MAX_IMAGES
from tritonkit.repository.artifact_files import VERDICT_PAGE, artifact_files, artifact_sha256
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.config_rules import unverified_accelerators
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.sketch import SKETCH_FILE
from tritonkit.spec import Frozen
from tritonkit.triton.companions import decoder_of, ensemble_of
from tritonkit.triton.model_config import policy_text, versions_loaded, versions_of
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
    models: tuple[str, ...]
    """The model, and those that take encoded images for it."""
    served: bool = True
    """Triton loads the version, by the version policy of config.pbtxt."""
    retention: Retention | None = None
    warnings: tuple[str, ...] = ()
    """Problems that the verdict does not cover."""
    instead: str | None = None
    """Why the precision is not the requested one; None where it is."""


def export(
    request: ExportRequest, report: ProgressCallback = lambda step: None, base: int | None = None
) -> PublishedVersion:
    """Plan, build, verify and publish the next version of a model.

    report: called with a sentence when a step starts. base: the version whose content the source continues.

    Raises CheckFailedError, unless forced, when the verdict failed or the serving image cannot load the plan, and
    InputError where `base` is no longer the version that is served.
    """
    with plan(request, report) as planned:
        if base is not None:  # now that no other builder can change it
            _check_base(request.repository / planned.job.source.spec.name, base)
        report("exporting to ONNX")
        planned.job.source.write_graph(planned.job.graph)
        verified = build_version(planned)
        published = publish(planned, verified)
    return with_retention(planned, published)


def _check_base(model: Path, base: int) -> None:
    if (served := shared_version(model)) != base:
        raise InputError(
            f"{model}: version {base} was continued, but meanwhile version {served} is served; run the command again",
            code="repository.base_changed",
        )


def build_version(plan: ExportPlan) -> Verified:
    """Build and verify a version, and write its files into the folder of the plan; the runner is closed.

    The graph of the source has been written. Raises what `build_verified` and `final_verdict` raise.
    """
    verified = build_verified(plan)
    with closing(verified.runner):
        verified = final_verdict(plan, verified)
        write_version(plan, verified)
    return verified


def final_verdict(plan: ExportPlan, verified: Verified) -> Verified:
    """The artifact with its verdict on the labelled images too.

    Raises CheckFailedError where it failed and is not forced, or is about another precision and the export is strict.
    """
    request, verdict, name = plan.request, verified.verdict, plan.context.spec.name
    if plan.labelled is not None:
        plan.job.report("measuring on labelled images")
        verdict = plan.labelled.with_quality(verdict, verified.file)
    verdict = verdict.model_copy(update={"forced": request.force and not verdict.passed})
    verified = replace(verified, verdict=verdict)
    if request.report is not None:
        _write_page(plan, verified, request.report)
    if not verdict.passed and not request.force:
        reasons = "\n".join(filter(None, (verdict.summary(), verdict.calibration_hint, verdict.closest_attempts)))
        raise CheckFailedError(
            f"{name}: the verdict failed, nothing was published.\n{reasons}",
            verdict,
            code="verdict.failed",
            problems=verdict.problems,
        )
    if request.strict and (reason := _other_precision(plan, verdict)) is not None:
        raise CheckFailedError(
            f"{name}: {reason}; --strict accepts no other precision, nothing was published",
            verdict,
            code="verdict.other_precision",
        )
    return verified


def write_version(plan: ExportPlan, verified: Verified) -> None:
    """Write the files of the version next to the artifact: page, images and sketch, verdict, spec and manifest."""
    spec, folder = plan.context.spec, verified.job.folder
    # So that the verdict cannot be put beside another artifact.
    identity = {"model": spec.name, "artifact_sha256": artifact_sha256(artifact_files(folder))}
    verdict = verified.verdict.model_copy(update=identity)
    # A failed verdict can be forced, but not a file that Triton would not load.
    if plan.builder.is_graph:
        check_interface(spec, onnx_interface(verified.job.graph))
    answers = _write_page(plan, verified, folder / VERDICT_PAGE)
    probed = next((batch.expected for batch in answers.batches if batch.inputs.name == PROBES), {})
    replace(plan.context.golden, outputs=answers.expected, probe_outputs=probed).save(folder / GOLDEN_FILE)
    if plan.sketch is not None and not plan.sketch.differing_fields(spec):
        replace(plan.sketch, spec=spec.public(), version=str(plan.staged.version)).save(folder / SKETCH_FILE)
    verdict.write(folder)
    spec.write(folder)
    write_manifest(plan, folder)


def write_manifest(plan: ExportPlan, folder: Path) -> None:
    """Write the manifest of a version folder. It comes last, because it hashes the other files."""
    source = plan.job.source
    manifest = manifest_of(folder, source.path, source.description)
    if manifest.build is None or manifest.build.image is None:  # a plan is for the image that it was built in
        image = image_for(plan.request.repository)
        manifest = manifest.model_copy(update={"triton_image": image.rpartition(":")[2]})
    manifest.write(folder)


def publish(plan: ExportPlan, verified: Verified) -> PublishedVersion:
    """Write the files of the model, and rebuild the models that accept encoded images.

    The files of the version are in the folder that is published.
    """
    request, source, staged, verdict = plan.request, plan.job.source, plan.staged, verified.verdict
    spec, folder, serving_image = plan.context.spec, staged.version_folder, image_for(request.repository)
    plan.job.report("publishing")
    record = plan.builder.expected_build_record(verified.job) or BuildRecord.read(folder)
    load_warnings = check_build(record, serving_image, request.force)
    _, shared = plan.serving_files(verified.job)
    config = shared.write(staged.model)
    models = [spec.name]
    if request.encoded:
        update_companions(staged.companions, request.repository, config)
        models += [decoder_of(spec.name), ensemble_of(spec.name)]
    else:
        remove_companions(staged.companions, request.repository, spec.name)
    is_served = staged.version in versions_loaded(config, versions_of(staged.model))
    warnings = [
        *load_warnings,
        *(f"training: {warning}" for warning in source.spec.lineage.warnings),
        *verdict.notes,
        *unverified_accelerators(config),
        *filter(None, [verdict.calibration_hint, _sketch_hint(plan)]),
        *unverified_batch_warnings(staged.model, config),
    ]
    count = len(plan.calibration)
    if verdict.precision == "int8" and source.precision == "fp32" and count < FEW_IMAGES:
        warnings.append(f"int8 was calibrated on only {count} images; --calibration FOLDER takes up to {MAX_IMAGES}")
    if not is_served:
        warnings.append(
            f"Triton does not load version {staged.version}, because config.pbtxt loads {policy_text(config)}. Serve "
            f"it with: builder promote {spec.name} {staged.version}"
        )
    reason = _other_precision(plan, verdict)
    return PublishedVersion(
        model=spec.name,
        version=staged.version,
        artifact=request.repository / spec.name / str(staged.version) / plan.builder.format.served.file,
        source=source.description,
        verdict=verdict,
        models=tuple(models),
        served=is_served,
        warnings=tuple(warnings),
        instead=reason and f"{reason}; published in {verdict.precision}",
    )


def with_retention(plan: ExportPlan, published: PublishedVersion) -> PublishedVersion:
    """Delete old versions where the request says how many to keep; a failure to do so is a warning."""
    keep, config = plan.request.keep, plan.current_config
    if keep is None:
        return published
    served_before = set() if config is None else versions_loaded(config, plan.other_versions)
    try:
        retention = keep_newest(plan.request.repository / published.model, keep, served_before)
    except TritonkitError as error:  # the version is published
        warnings = (*published.warnings, f"older versions were not deleted: {error}")
        return published.model_copy(update={"warnings": warnings})
    return published.model_copy(update={"retention": retention})


def _other_precision(plan: ExportPlan, verdict: Verdict) -> str | None:
    """Why the verdict is about another precision than the requested one; None where it is about that."""
    requested = plan.request.target.precision
    if verdict.precision == requested:
        return None
    if verdict.asked is None:
        return f"{plan.job.source.path.name} is in {verdict.precision}, not in {requested}"
    return verdict.closest_attempts or f"{verdict.asked} was not tried, because the graph fails in fp32 too"


def _sketch_hint(plan: ExportPlan) -> str | None:
    """Why the drift sketch of the training is not part of the version; None where it is, or there is none."""
    if plan.sketch is None or not (differing := plan.sketch.differing_fields(plan.context.spec)):
        return None
    return (
        f"the drift sketch of the training was left out, because {', '.join(differing)} differ from the model's; "
        "--sketch FOLDER takes another"
    )


def _write_page(plan: ExportPlan, verified: Verified, path: Path) -> ReportAnswers:
    """Write the verdict as an HTML page; return the answers that it compares, which the runners have cached."""
    context, facts = plan.context, {"Source": plan.job.source.description, "Artifact": plan.builder.format.served.file}
    golden, sizes = context.golden, (context.max_batch, context.preferred)
    answers = collect_answers(context.reference, verified.runner, golden, *sizes)
    write_page(path, context.spec.name, verified.verdict, answers, facts)
    return answers
