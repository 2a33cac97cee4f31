"""The options of `builder export` and `builder verify`, and the rules between them. No torch at import."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from tritonkit.errors import InputError, Problem
from tritonkit.repository.build_record import BuildOptions
from tritonkit.repository.build_record import Hardware as HardwareName
from tritonkit.runtimes.formats import Target

Result = TypeVar("Result")

_FORMAT, _VERIFICATION, _REDUCED = "Format", "Verification", "Reduced precision"
_FOREIGN, _PLANS = "Third-party models", "TensorRT plans"

Repository = Annotated[Path, typer.Option(help="The model repository.")]
LargestBatch = Annotated[
    int | None, typer.Option(min=1, max=4096, help="Largest batch to verify and serve; default: as before, or 32.")
]
Keep = Annotated[
    int | None,
    typer.Option(min=1, help="Number of versions to keep; older ones are deleted, unless they are marked or served."),
]
Encoded = Annotated[
    bool,
    typer.Option("--encoded/--no-encoded", help="Also publish NAME_encoded, which takes JPEG, PNG and WebP files."),
]

Onnx = Annotated[
    str | None, typer.Option(help="ONNX in fp32 (the default), fp16, bf16 or int8.", rich_help_panel=_FORMAT)
]
Trt = Annotated[str | None, typer.Option(help="A TensorRT plan in fp32, fp16, bf16 or int8.", rich_help_panel=_FORMAT)]
Rtx = Annotated[
    str | None,
    typer.Option(help="ONNX and an engine of TensorRT for RTX, in fp32, fp16 or int8.", rich_help_panel=_FORMAT),
]
OpenVino = Annotated[str | None, typer.Option(help="OpenVINO in fp32, bf16 or int8.", rich_help_panel=_FORMAT)]
TorchScript = Annotated[bool, typer.Option("--torchscript", help="A TorchScript trace.", rich_help_panel=_FORMAT)]

Images = Annotated[
    Path | None, typer.Option(help="Verify on the images of this folder.", rich_help_panel=_VERIFICATION)
]
Data = Annotated[
    Path | None,
    typer.Option(help="Labelled images: a folder of class folders, a CSV or JSON.", rich_help_panel=_VERIFICATION),
]
Masks = Annotated[
    Path | None,
    typer.Option(help="Segmentation: the folder of masks for a folder of images.", rich_help_panel=_VERIFICATION),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER",
        help="Replace a limit: decisions=0.98, or fp16.relative=0.1 for one precision.",
        rich_help_panel=_VERIFICATION,
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Write the verdict as a page, also if it fails.",
        rich_help_panel=_VERIFICATION,
    ),
]
Threshold = Annotated[float | None, typer.Option(help="Decision threshold: multilabel, or segmentation of two labels.")]
Probability = Annotated[
    bool, typer.Option("--probability", help="Segmentation of two labels: output the foreground probability too.")
]

KeepFp32 = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Nodes, operators or tensors to keep in fp32, such as LayerNormalization or '*.head.*'.",
        rich_help_panel=_REDUCED,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Images to calibrate on; default: those of the verdict.", rich_help_panel=_REDUCED),
]
RepairOption = Annotated[
    bool,
    typer.Option(
        "--repair/--no-repair",
        help="If the precision fails: more fp32 nodes, then a higher precision.",
        rich_help_panel=_REDUCED,
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Publish only the requested precision; otherwise exit 1.", rich_help_panel=_REDUCED),
]

Model = Annotated[
    str | None,
    typer.Option(
        help="A timm name, or torchvision/NAME: the network of a state dict, or the preprocessing of a graph.",
        rich_help_panel=_FOREIGN,
    ),
]
Labels = Annotated[Path | None, typer.Option(help="A file with one label a line.", rich_help_panel=_FOREIGN)]
Mean = Annotated[
    str | None, typer.Option(help="R,G,B on pixels in 0..1; default: the model's.", rich_help_panel=_FOREIGN)
]
Std = Annotated[
    str | None, typer.Option(help="R,G,B on pixels in 0..1; default: the model's.", rich_help_panel=_FOREIGN)
]
Size = Annotated[str | None, typer.Option(help="N or HEIGHTxWIDTH; default: the model's.", rich_help_panel=_FOREIGN)]
FitOption = Annotated[
    str | None,
    typer.Option("--fit", help="crop, pad or squash, as in `image:`; default: the model's.", rich_help_panel=_FOREIGN),
]
CropRatio = Annotated[
    float | None, typer.Option(help="The part of the image that crop keeps, up to 1.", rich_help_panel=_FOREIGN)
]
InterpolationOption = Annotated[
    str | None,
    typer.Option("--interpolation", help="nearest, bilinear, bicubic or lanczos.", rich_help_panel=_FOREIGN),
]
Layout = Annotated[
    str | None,
    typer.Option(help="A graph's input axes: NCHW or NHWC, where the shape is ambiguous.", rich_help_panel=_FOREIGN),
]
Task = Annotated[
    str | None,
    typer.Option(help="multiclass (the default), multilabel, embedding or segmentation.", rich_help_panel=_FOREIGN),
]
Activation = Annotated[
    str | None,
    typer.Option(help="The activation to add to the last values: softmax, sigmoid or none.", rich_help_panel=_FOREIGN),
]

OptBatch = Annotated[
    int | None, typer.Option(min=1, max=4096, help="The batch a plan is tuned for.", rich_help_panel=_PLANS)
]
InContainer = Annotated[
    bool,
    typer.Option(
        "--in-container", help="Build and verify by Docker, in the Triton image of .env.", rich_help_panel=_PLANS
    ),
]
Image = Annotated[
    str | None, typer.Option(help="With --in-container: another image than that of .env.", rich_help_panel=_PLANS)
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="With --in-container: print the Docker command, run nothing.", rich_help_panel=_PLANS
    ),
]
Workspace = Annotated[
    int | None, typer.Option("--workspace-mib", min=1, help="GPU memory for scratch.", rich_help_panel=_PLANS)
]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit-s", help="Give up a build after this long.", rich_help_panel=_PLANS)
]
OptimizationLevel = Annotated[
    int | None, typer.Option(min=0, max=5, help="How long to look for kernels, 0 to 5.", rich_help_panel=_PLANS)
]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", help="Also loads in newer TensorRT versions.", rich_help_panel=_PLANS)
]
Hardware = Annotated[
    str,
    typer.Option(help="Hardware compatibility: none, ampere_plus, same_compute_capability.", rich_help_panel=_PLANS),
]
ComputeCapability = Annotated[
    list[str] | None,
    typer.Option(metavar="X.Y", help="--rtx: a GPU generation to build for, such as 8.9.", rich_help_panel=_PLANS),
]


def call_with_options(reader: Callable[..., Result], values: Mapping[str, Any]) -> Result:
    """Call a function with those option values that it has parameters for."""
    return reader(**{name: values[name] for name in inspect.signature(reader).parameters if name in values})


def build_from(
    target: Target,
    workspace_mib: int | None = None,
    time_limit_s: float | None = None,
    optimization_level: int | None = None,
    version_compatible: bool = False,
    hardware: str = "none",
    compute_capability: Sequence[str] | None = None,
    in_container: bool = False,
    image: str | None = None,
    dry_run: bool = False,
    unused: Sequence[Problem] = (),
) -> BuildOptions | None:
    """The build options of a plan; None for another format. Raises InputError that lists all problems and `unused`."""
    problems = [*unused]
    if hardware not in get_args(HardwareName):
        problems.append(
            Problem("option.hardware", f"--hardware {hardware}: expected {', '.join(get_args(HardwareName))}")
        )
    if time_limit_s is not None and not time_limit_s > 0:
        problems.append(Problem("option.time_limit", f"--time-limit-s {time_limit_s:g}: expected seconds above 0"))
    if in_container and target.format != "trt":
        problems.append(
            Problem("option.in_container_unused", "--in-container: builds TensorRT plans; add --trt and a precision")
        )
    if image is not None and not in_container:
        problems.append(
            Problem("option.image_unused", "--image: is the image that --in-container builds in; add --in-container")
        )
    if dry_run and not in_container:
        problems.append(
            Problem("option.dry_run_unused", "--dry-run: prints the command of --in-container; add --in-container")
        )
    values = {
        "workspace_mib": workspace_mib,
        "time_limit_s": time_limit_s,
        "optimization_level": optimization_level,
        "version_compatible": version_compatible or None,
        "hardware": None if hardware == "none" else hardware,
        "compute_capabilities": tuple(compute_capability or ()) or None,
    }
    settings = {name: value for name, value in values.items() if value is not None}
    if settings and target.format not in ("trt", "rtx"):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in settings)
        problems.append(Problem("option.plan_unused", f"{options}: only for plans; add --trt or --rtx and a precision"))
    if problems:
        raise InputError("\n".join(map(str, problems)), code="option.invalid", problems=problems)
    return BuildOptions.model_validate(settings) if target.format in ("trt", "rtx") else None
