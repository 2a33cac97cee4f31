"""The command `builder export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.commands import export_options as options
from builder.commands import serving_options as serve
from builder.commands.export_options import build_from, call_with_options
from builder.commands.option_rules import unused_options
from builder.config.serving import Serving, serving_from
from builder.foreign_options import foreign_from
from tritonkit.repository.build_record import BuildOptions
from tritonkit.runtimes.formats import Target, target_from
from tritonkit.system.console import JsonOption, print_json, print_text, progress, reports_errors, warn
from tritonkit.system.files import check_can_write, check_is_html

if TYPE_CHECKING:
    from builder.export import ExportRequest, PublishedVersion
    from tritonkit.spec import ModelSpec


_DRY_RUN = (
    "The export would run this command, with the graph in its precision as model.onnx. A plan that you build by hand "
    "is neither verified nor published: run the export itself where Docker has a GPU."
)


@reports_errors
def export(
    source: Annotated[
        str,
        typer.Argument(help="A checkpoint, third-party weights, a .onnx file, timm:NAME or torchvision:NAME."),
    ],
    onnx: options.Onnx = None,
    trt: options.Trt = None,
    rtx: options.Rtx = None,
    openvino: options.OpenVino = None,
    torchscript: options.TorchScript = False,
    name: Annotated[str | None, typer.Option(help="The name of the model in the repository.")] = None,
    repository: options.Repository = Path("model_repository"),
    max_batch: options.LargestBatch = None,
    opt_batch: options.OptBatch = None,
    images: options.Images = None,
    data: options.Data = None,
    masks: options.Masks = None,
    limit: options.Limit = None,
    report_page: options.ReportPage = None,
    threshold: options.Threshold = None,
    probability: options.Probability = False,
    force: Annotated[
        bool, typer.Option("--force", help="Publish although the verdict failed; the verdict records it.")
    ] = False,
    keep: options.Keep = None,
    encoded: options.Encoded = True,
    keep_fp32: options.KeepFp32 = None,
    calibration: options.Calibration = None,
    repair: options.RepairOption = True,
    strict: options.Strict = False,
    model: options.Model = None,
    labels: options.Labels = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    fit: options.FitOption = None,
    crop_ratio: options.CropRatio = None,
    interpolation: options.InterpolationOption = None,
    layout: options.Layout = None,
    task: options.Task = None,
    activation: options.Activation = None,
    in_container: options.InContainer = False,
    image: options.Image = None,
    dry_run: options.DryRun = False,
    workspace_mib: options.Workspace = None,
    time_limit_s: options.TimeLimit = None,
    optimization_level: options.OptimizationLevel = None,
    version_compatible: options.VersionCompatible = False,
    hardware: options.Hardware = "none",
    compute_capability: options.ComputeCapability = None,
    config: serve.Config = None,
    instances: serve.Instances = None,
    kind: serve.Kind = None,
    gpus: serve.Gpus = None,
    dynamic_batching: serve.DynamicBatching = None,
    queue_delay_us: serve.QueueDelay = None,
    preferred_batch: serve.PreferredBatch = None,
    queue_timeout_ms: serve.QueueTimeout = None,
    queue_timeout_action: serve.QueueTimeoutAction = None,
    queue_timeout_override: serve.QueueTimeoutOverride = None,
    queue_size: serve.QueueSize = None,
    cuda_graphs: serve.CudaGraphsOption = None,
    warmup: serve.Warmup = None,
    versions: serve.Versions = None,
    response_cache: serve.ResponseCache = None,
    accelerator: serve.AcceleratorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a model, verify it against the source on real images, and publish it as the next version.

    Nothing is published if the verdict fails. Where a precision changes answers, more nodes stay in fp32; if that does
    not help, the next higher precision is used.

    Examples:

    * builder export runs/digits/1/best.safetensors --onnx fp16 --max-batch 16

    * builder export runs/digits/1/best.safetensors --trt fp16 --opt-batch 8

    * builder export resnet18.pth --model resnet18 --labels imagenet.txt --images photos/

    * builder export classifier.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels names.txt
    """
    values = dict(locals())  # the options by name, for the readers of each group
    precisions: dict[str, str | None] = {"onnx": onnx, "trt": trt, "rtx": rtx, "openvino": openvino}
    target = target_from({**precisions, "torchscript": "fp32" if torchscript else None})
    foreign, serving = call_with_options(foreign_from, values), call_with_options(serving_from, values)
    build = call_with_options(build_from, {**values, "target": target, "unused": unused_options(target, values)})
    check_is_html(report_page)
    check_can_write(report_page)
    from builder.export import export as run_export
    from builder.output_options import OutputOptions
    from builder.sources import open_source

    request = _export_request(values, target, serving, build)
    with progress("reading the source") as report:
        opened = open_source(source, foreign, name).with_output_options(OutputOptions(threshold, probability))
        published = None if dry_run else run_export(opened, request, report)
    if published is None:
        command = _build_command(opened.spec, request)
        print_json({"command": command}) if as_json else print_text(command)
        warn(_DRY_RUN)
    elif as_json:
        print_json(published)
    else:
        _print_published(published)


def _export_request(
    values: Mapping[str, Any], target: Target, serving: Serving, build: BuildOptions | None
) -> ExportRequest:
    from builder.export import ExportRequest
    from builder.verification.context import VerificationOptions
    from builder.verification.limits import limits_from
    from tritonkit.repository.verdict import LIMITS
    from tritonkit.triton.releases import image_for

    unchanged = (
        "repository",
        "max_batch",
        "opt_batch",
        "calibration",
        "repair",
        "force",
        "strict",
        "config",
        "keep",
        "encoded",
    )
    return ExportRequest(
        **{name: values[name] for name in unchanged},
        target=target,
        evidence=VerificationOptions(
            values["images"], values["data"], values["masks"], limits_from(values["limit"] or [], LIMITS)
        ),
        keep_fp32=tuple(values["keep_fp32"] or ()),
        build=build,
        image=(values["image"] or image_for(values["repository"])) if values["in_container"] else None,
        serving=serving,
        page=values["report_page"],
    )


def _build_command(spec: ModelSpec, request: ExportRequest) -> str:
    """The Docker command that would build the plan, with the current folder in place of the temporary one."""
    from builder.export import largest_batch
    from builder.tensorrt.container import container_for_build
    from tritonkit.repository.build_record import BuildOptions, BuildSettings
    from tritonkit.triton.model_config import CONFIG_FILE, read_config, read_config_file

    model_folder = request.repository / spec.name
    user_config = None if request.config is None else read_config_file(request.config)
    current_config = read_config(model_folder) if (model_folder / CONFIG_FILE).is_file() else None
    max_batch = largest_batch(request, user_config, current_config)
    options = (request.build or BuildOptions()).model_dump()
    settings = BuildSettings(**options, max_batch=max_batch, opt_batch=request.opt_batch)
    settings.check()
    return container_for_build(request.image or "", spec.input, settings, Path.cwd()).command_line()


def _print_published(published: PublishedVersion) -> None:
    verdict = published.verdict
    state = "PUBLISHED ALTHOUGH THE VERDICT FAILED" if verdict.forced else "verdict passed"
    print_text(f"{state}: {verdict.summary()}")
    if verdict.tries and verdict.tries[-1].kept:
        nodes = verdict.tries[-1].kept
        print_text(f"kept in fp32: {len(nodes)} nodes: {', '.join(nodes[:5])}{', …' if len(nodes) > 5 else ''}")
    if verdict.proven_by:
        print_text(f"verified by: {verdict.proven_by}")
    print_text(f"source: {published.source}")
    if published.retention is not None:
        print_text(published.retention.summary())
    for warning in published.warnings:
        print_text(f"warning: {warning}")
    print_text(f"published: {published.artifact}")
    if published.served:
        print_text(f"Load it into a running server with: server reload {published.model}")
    if published.instead is not None:
        print_text(published.instead)
