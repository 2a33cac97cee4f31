"""Open an `.onnx` file: one from tritonkit unchanged, a third-party one wrapped to tritonkit's inputs and outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder.interface import describe_difference, interface_of
from builder.onnx.file import read_onnx
from builder.onnx.interface import onnx_interface, spec_in_onnx
from builder.onnx.precision import inline_functions, reduced_or_quantized_precision
from builder.sources.foreign_spec import decide_output, describe_graph, graph_spec, normalize_of, preprocess_of
from builder.sources.graph import ForeignGraphRunner, GraphSource
from builder.sources.images import builtin_golden
from builder.sources.onnx.batch import accepts_any_batch, check_batches, make_batch_dynamic
from builder.sources.onnx.graph import graph_function, image_interface, reference_runner, with_output
from builder.sources.onnx.wrap import upgrade_opset, wrap_graph
from builder.sources.published import recorded_golden
from tritonkit.errors import ArtifactError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.tasks import task_of


def source_from_onnx(path: Path, foreign: ForeignModelOptions, name: str | None = None) -> GraphSource:
    """Open an ONNX file. Raises ArtifactError for a damaged file, InputError for unfit graphs or missing options."""
    model = inline_functions(read_onnx(path), path)
    if (spec := spec_in_onnx(path)) is not None:
        foreign.refuse(foreign.foreign_flags, f"{path} carries its own spec")
        spec = spec.renamed(name) if name else spec
        task_of(spec)  # reports a task that is not installed
        if differs := describe_difference(onnx_interface(path), interface_of(spec), "its spec says"):
            raise ArtifactError(f"{path}: its graph {differs}. Export it again", code="onnx.interface")
        reference = reference_runner(model, path, spec)
        golden = recorded_golden(path, reference, reduced_or_quantized_precision(model))
        return GraphSource(path, golden, f"ONNX file {path.name}", reference, model)
    if foreign.graph_output is not None:
        model = with_output(model, path, foreign.graph_output)
    signature = image_interface(model, path, foreign.layout)
    run = graph_function(model, path, changed=foreign.graph_output is not None)
    model, note = upgrade_opset(model)
    if (precision := reduced_or_quantized_precision(model)) in ("fp16", "bf16"):
        note += f", {precision} compared with the same graph in fp32"
    preprocess = preprocess_of(path, signature.size, foreign)
    photos = builtin_golden(preprocess).images
    pixels = signature.preprocess(photos, normalize_of(signature, foreign))
    if signature.batch is None and not accepts_any_batch(run, pixels):
        signature = replace(signature, batch=1)
    raw = signature.infer(run, pixels)
    decision = decide_output(path, raw, signature, foreign, (preprocess.height, preprocess.width))
    if signature.batch is not None:
        make_batch_dynamic(model, signature.input)
        check_batches(str(path), graph_function(model, path, changed=True), pixels, raw)
        note += f"; its batch of {signature.batch} made dynamic"
    spec = graph_spec(path, signature, preprocess, decision.task_spec, foreign)
    description = f"{path.name} ({note}): {describe_graph(signature, spec, decision, foreign)}"
    spec = spec.model_copy(update={"lineage": spec.lineage.model_copy(update={"note": description})})
    runner = ForeignGraphRunner(spec.renamed(name) if name else spec, str(path), signature, run, decision.final_step)
    return GraphSource(path, None, description, runner, wrap_graph(model, signature, spec, decision.final_step))
