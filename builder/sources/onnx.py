"""An `.onnx` file: one of ours as it is, or someone else's brought into the kit's terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from builder.interface import difference, interface_of
from builder.onnx_export import onnx_interface, spec_in_onnx
from builder.options import ForeignModelOptions
from builder.sources.graph import Ask, Given, GivenRunner, GraphSource
from builder.sources.images import builtin_golden
from builder.sources.onnx_batch import check_batches, free_batch, runs_at_any_size
from builder.sources.onnx_file import read_onnx
from builder.sources.onnx_graph import Interface, given_interface
from builder.sources.onnx_held import held_by, inlined
from builder.sources.onnx_reference import answering, runner_of
from builder.sources.onnx_wrap import lifted, wrapped
from builder.sources.published import recorded_golden
from builder.sources.told import decided, described, normalize_of, preprocess_of, spec_of
from model.errors import ArtifactError
from model.spec import ModelSpec
from model.tasks import task_of


def source_from_onnx(path: Path, foreign: ForeignModelOptions, name: str | None = None) -> GraphSource:
    """Open an ONNX file. Raises ArtifactError for a damaged one, InputError for what it is not or does not say."""
    model = inlined(read_onnx(path), path)
    if (spec := spec_in_onnx(path)) is not None:
        foreign.refuse(foreign.given, f"{path} carries its own spec")
        return _ours(path, model, spec.renamed(name) if name else spec)
    interface = given_interface(model, path, foreign.layout)
    ask = answering(model, path)
    model, note = lifted(model)
    if (held := held_by(model)) in ("fp16", "bf16"):
        note += f", {held} judged against itself in fp32"
    return source_from_graph(path, model, interface, ask, foreign, name, note)


def source_from_graph(
    path: Path,
    model: onnx.ModelProto,
    interface: Interface,
    ask: Ask,
    foreign: ForeignModelOptions,
    name: str | None,
    note: str,
) -> GraphSource:
    """Bring a graph into the kit's terms; `ask` answers as the file does, the reference for all that follows."""
    preprocess = preprocess_of(path, interface.size, foreign)
    given = Given(interface.input, interface.output, interface.dtype, interface.layout, interface.batch)
    photos = builtin_golden(preprocess).images
    pixels = given.prepared(photos, normalize_of(given, foreign))
    if given.batch is None and not runs_at_any_size(ask, pixels):
        given = replace(given, batch=1)
    raw = given.asked(ask, pixels)
    decision = decided(path, raw, given, foreign, (preprocess.height, preprocess.width))
    if given.batch is not None:
        free_batch(model, given.input)
        check_batches(str(path), answering(model, path, changed=True), pixels, raw)
        note += f"; its batch of {given.batch} made dynamic"
    spec = spec_of(path, given, preprocess, decision.question, foreign)
    description = f"{path.name} ({note}): {described(given, spec, decision, foreign)}"
    spec = spec.model_copy(update={"lineage": spec.lineage.model_copy(update={"note": description})})
    runner = GivenRunner(spec.renamed(name) if name else spec, str(path), given, ask, decision.last)
    return GraphSource(path, None, description, runner, wrapped(model, given, spec, decision.last))


def _ours(path: Path, model: onnx.ModelProto, spec: ModelSpec) -> GraphSource:
    task_of(spec)
    if other := difference(onnx_interface(path), interface_of(spec), "the spec it carries says"):
        raise ArtifactError(f"{path}: its graph {other}. Export it again")
    runner = runner_of(model, path, spec)
    golden = recorded_golden(path, runner, held_by(model))
    return GraphSource(path, golden, f"ONNX file {path.name}", runner, model)
