"""The command `builder export`."""

from __future__ import annotations

from pathlib import Path

from builder.commands.output import print_published
from builder.request import ExportRequest
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors, warn


@reports_errors
@options_of(ExportRequest)
def export(request: ExportRequest, as_json: JsonOption = False) -> None:
    """Export a model, verify it against the source on real images, and publish it as the next version.

    Nothing is published if the verdict fails. Where a precision changes answers, more nodes stay in fp32; if that does
    not help, the next higher precision is used.

    Examples:

    * builder export runs/digits/1/best.safetensors --onnx fp16 --max-batch 16

    * builder export runs/digits/1/best.safetensors --trt fp16 --opt-batch 8

    * builder export resnet18.pth --model resnet18 --labels imagenet.txt --images photos/

    * builder export classifier.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels names.txt
    """
    from builder.pipeline import export as run_export
    from builder.plan import configs_of, largest_batch, source_of
    from builder.tensorrt.container import container_for_build
    from tritonkit.repository.build_record import BuildSettings
    from tritonkit.triton.releases import image_for

    with progress("reading the source") as report:
        if request.dry_run:
            # With the current folder in place of the temporary one.
            spec = source_of(request).spec
            max_batch = largest_batch(request, *configs_of(request, spec.name))
            settings = BuildSettings(**request.build.model_dump(), max_batch=max_batch, opt_batch=request.opt_batch)
            settings.check()
            image = request.image or image_for(request.repository)
            command = container_for_build(image, spec.input, settings, Path.cwd()).command_line()
        else:
            published = run_export(request, report)
    if request.dry_run:
        print_json({"command": command}) if as_json else print_text(command)
        warn(
            "The export would run this command, with the graph in its precision as model.onnx. A plan that you build "
            "by hand is neither verified nor published: run the export itself where Docker has a GPU."
        )
        return
    if as_json:
        print_json(published)
        return
    verdict, details = published.verdict, []
    if verdict.tries and verdict.tries[-1].kept:
        nodes = verdict.tries[-1].kept
        details.append(f"kept in fp32: {len(nodes)} nodes: {', '.join(nodes[:5])}{', …' if len(nodes) > 5 else ''}")
    if verdict.proven_by:
        details.append(f"verified by: {verdict.proven_by}")
    print_published(published, *details, f"source: {published.source}")
    if published.instead is not None:
        print_text(published.instead)
