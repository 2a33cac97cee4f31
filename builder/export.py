"""`builder export`: a source becomes a proven version in a model repository, or nothing does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from builder.carried import spec_problems
from builder.check import VERDICT_FILE
from builder.diagnosis import with_causes
from builder.judge import Training, ask, judge
from builder.manifest import MANIFEST_FILE, manifest_of
from builder.onnx_export import onnx_from_network, onnx_interface, onnx_precision
from builder.publish import Publication, publication
from builder.sources import Source, builtin_golden, golden_from_images
from builder.triton_config import (
    CONFIG_FILE,
    LABEL_FILES,
    ModelConfig,
    config_for,
    config_to_text,
    label_texts,
    read_config,
)
from builder.verdict import Problem, Verdict
from model.errors import ArtifactError, RefusedError
from model.files import written_beside
from model.golden import GOLDEN_FILE, Golden
from model.network import Network
from model.runners.onnxruntime import OnnxRuntimeRunner
from model.runners.pytorch import TorchRunner
from model.spec import METADATA_KEY, Frozen, ModelSpec

DEFAULT_MAX_BATCH = 32
Report = Callable[[str], None]
"""Told of each step as it begins."""


@dataclass(frozen=True)
class Order:
    """What to export to where."""

    repository: Path
    max_batch: int | None = None
    """None keeps that of the model already published, or takes 32."""
    images: Path | None = None
    force: bool = False


class Published(Frozen):
    """A version that now stands in the repository."""

    model: str
    version: int
    artifact: Path
    source: str
    verdict: Verdict


def export_onnx(source: Source, order: Order, report: Report) -> Published:
    """Export to ONNX fp32, judge, and publish.

    Raises RefusedError when the verdict failed and was not forced; then nothing is published.
    """
    network, spec = source.network, source.network.spec
    golden = golden_for(spec, source.golden, order.images)
    present = _present_config(order.repository / spec.name)
    max_batch = order.max_batch or (present.max_batch_size if present is not None else DEFAULT_MAX_BATCH)
    with publication(order.repository, spec.name) as prepared:
        artifact = prepared.version_folder / "model.onnx"
        report("exporting to ONNX")
        onnx_from_network(network, artifact)
        report("comparing with the checkpoint")
        verdict = verdict_on(artifact, network, golden, max_batch, source.training)
        if not verdict.passed and not order.force:
            reasons = verdict.summary()
            raise RefusedError(f"{spec.name}: the verdict failed, nothing was published.\n{reasons}", verdict)
        verdict = verdict.model_copy(update={"forced": not verdict.passed})
        report("publishing")
        _write_version(prepared, network, golden, verdict, source)
        _write_model(prepared, spec, artifact, max_batch, present)
    return Published(
        model=spec.name,
        version=prepared.version,
        artifact=order.repository / spec.name / str(prepared.version) / artifact.name,
        source=source.description,
        verdict=verdict,
    )


def verdict_on(
    artifact: Path, network: Network, golden: Golden, max_batch: int, training: Training | None = None
) -> Verdict:
    """Judge an ONNX file against a network, with the causes where it fails. Raises ArtifactError if it cannot load."""
    candidate = OnnxRuntimeRunner(artifact, spec=network.spec)
    reference = TorchRunner(network, origin="the checkpoint")
    verdict = judge(reference, candidate, golden, max_batch, "fp32", training)
    verdict = with_causes(verdict, network, candidate, golden, artifact)
    spec = network.spec
    problems = (*_interface_problems(artifact, spec), *spec_problems(artifact, spec), *verdict.problems)
    return verdict.model_copy(
        update={"precision": onnx_precision(artifact), "problems": problems, "passed": not problems}
    )


def golden_for(spec: ModelSpec, own: Golden | None, images: Path | None) -> Golden:
    """The images of a verdict: those asked for, else the checkpoint's own, else the builder's photographs."""
    if images is not None:
        return golden_from_images(images, spec.preprocess)
    return own or builtin_golden(spec.preprocess)


def _interface_problems(artifact: Path, spec: ModelSpec) -> list[Problem]:
    try:
        inputs, outputs = onnx_interface(artifact)
    except ArtifactError as error:
        return [Problem(code="interface", message=str(error))]
    if (inputs, outputs) == ((spec.input,), spec.outputs):
        return []
    found = "; ".join(", ".join(map(str, side)) for side in (inputs, outputs))
    expected = f"{spec.input}; {', '.join(map(str, spec.outputs))}"
    return [Problem(code="interface", message=f"the graph has {found}; expected {expected}")]


def _present_config(model: Path) -> ModelConfig | None:
    return read_config(model) if (model / CONFIG_FILE).is_file() else None


def _write_version(prepared: Publication, network: Network, golden: Golden, verdict: Verdict, source: Source) -> None:
    """The files beside the artifact. The manifest comes last: it hashes the others."""
    folder = prepared.version_folder
    outputs = ask(TorchRunner(network, origin="the checkpoint"), golden.images, 1)
    replace(golden, outputs=outputs).save(folder / GOLDEN_FILE)
    (folder / VERDICT_FILE).write_text(verdict.model_dump_json(indent=2))
    manifest = manifest_of(folder, source.path, source.description)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2))


def _write_model(
    prepared: Publication, spec: ModelSpec, artifact: Path, max_batch: int, present: ModelConfig | None
) -> None:
    """The files that all versions share; replaced, never written into: they are hard links to those being served."""
    config = config_for(spec, onnx_interface(artifact), max_batch, prepared.version, present)
    texts = {CONFIG_FILE: config_to_text(config), METADATA_KEY: spec.to_json(), **label_texts(spec)}
    for stale in prepared.model.glob(LABEL_FILES):
        stale.unlink()
    for name, text in texts.items():
        with written_beside(prepared.model / name) as beside:
            beside.write_text(text, encoding="utf-8")
