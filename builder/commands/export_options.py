"""The options of `builder export` and `builder verify`, and what they mean together. No torch at import."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from builder.targets import Target
from model.build_record import BuildOptions
from model.build_record import Hardware as HardwareName
from model.errors import InputError

CONVERTER_NAMES = ("edges", "autocast")
Result = TypeVar("Result")

_FORMAT, _PROOF, _REDUCED = "Format", "Proof", "Reduced precision"
_FOREIGN, _PLANS = "Someone else's model", "TensorRT plans"

Repository = Annotated[Path, typer.Option(help="The model repository.")]
LargestBatch = Annotated[
    int | None, typer.Option(min=1, max=4096, help="Largest batch to prove and serve; default: as before, or 32.")
]
Keep = Annotated[
    int | None, typer.Option(min=1, help="Versions to keep; older ones go, unless they are marked or served.")
]
Encoded = Annotated[
    bool,
    typer.Option("--encoded/--no-encoded", help="Publish NAME_encoded beside it, which takes JPEG, PNG and WebP."),
]

Onnx = Annotated[
    str | None, typer.Option(help="ONNX in fp32 (the default), fp16, bf16 or int8.", rich_help_panel=_FORMAT)
]
Trt = Annotated[str | None, typer.Option(help="A TensorRT plan in fp32, fp16, bf16 or int8.", rich_help_panel=_FORMAT)]
Rtx = Annotated[
    str | None,
    typer.Option(help="ONNX, with an engine of TensorRT for RTX beside: fp32, fp16, int8.", rich_help_panel=_FORMAT),
]
OpenVino = Annotated[str | None, typer.Option(help="OpenVINO in fp32, bf16 or int8.", rich_help_panel=_FORMAT)]
TorchScript = Annotated[bool, typer.Option("--torchscript", help="A TorchScript trace.", rich_help_panel=_FORMAT)]

Images = Annotated[Path | None, typer.Option(help="Judge on the pictures of this folder.", rich_help_panel=_PROOF)]
Data = Annotated[
    Path | None,
    typer.Option(help="Labelled pictures: a folder of class folders, a CSV or JSON.", rich_help_panel=_PROOF),
]
Masks = Annotated[
    Path | None,
    typer.Option(help="Segmentation: the folder of masks for a folder of pictures.", rich_help_panel=_PROOF),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER",
        help="Replace a limit: decisions=0.98, or fp16.relative=0.1 for one precision.",
        rich_help_panel=_PROOF,
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE.html", help="Write the verdict as a page, also when it fails.", rich_help_panel=_PROOF
    ),
]
Threshold = Annotated[
    float | None, typer.Option(help="Decide by this probability: multilabel, or segmentation of two labels.")
]
Probability = Annotated[
    bool, typer.Option("--probability", help="Segmentation of two labels: give the foreground's probability too.")
]

KeepFp32 = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Nodes, operators or tensors to leave in fp32, such as LayerNormalization or '*.head.*'.",
        rich_help_panel=_REDUCED,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Pictures to calibrate on; default: those of the verdict.", rich_help_panel=_REDUCED),
]
RepairOption = Annotated[
    bool,
    typer.Option(
        "--repair/--no-repair", help="Give up nodes, then the precision, where it fails.", rich_help_panel=_REDUCED
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Exit 1 and publish nothing but the precision named.", rich_help_panel=_REDUCED),
]
Converter = Annotated[
    str, typer.Option(help="Who places casts: edges, or autocast (NVIDIA ModelOpt).", rich_help_panel=_REDUCED)
]

Model = Annotated[
    str | None,
    typer.Option(
        help="A name of timm, or torchvision/NAME: a state dict's network, or whose mean, std and fitting a graph has.",
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
    float | None, typer.Option(help="The part of the picture that crop keeps, up to 1.", rich_help_panel=_FOREIGN)
]
InterpolationOption = Annotated[
    str | None,
    typer.Option("--interpolation", help="nearest, bilinear, bicubic or lanczos.", rich_help_panel=_FOREIGN),
]
Layout = Annotated[
    str | None, typer.Option(help="A graph's input: NCHW or NHWC, where it does not tell.", rich_help_panel=_FOREIGN)
]
Task = Annotated[
    str | None,
    typer.Option(help="multiclass (the default), multilabel, embedding or segmentation.", rich_help_panel=_FOREIGN),
]
Activation = Annotated[
    str | None,
    typer.Option(help="What its last values lack: softmax, sigmoid or none.", rich_help_panel=_FOREIGN),
]

OptBatch = Annotated[
    int | None, typer.Option(min=1, max=4096, help="The batch a plan is tuned for.", rich_help_panel=_PLANS)
]
InContainer = Annotated[
    bool,
    typer.Option(
        "--in-container", help="Build and prove in the Triton image of .env, by Docker.", rich_help_panel=_PLANS
    ),
]
Image = Annotated[
    str | None, typer.Option(help="With --in-container: another image than that of .env.", rich_help_panel=_PLANS)
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="With --in-container: print its command and run nothing.", rich_help_panel=_PLANS),
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
    bool, typer.Option("--version-compatible", help="Loads in newer TensorRTs too.", rich_help_panel=_PLANS)
]
Hardware = Annotated[
    str,
    typer.Option(help="GPUs it runs on: none, ampere_plus, same_compute_capability.", rich_help_panel=_PLANS),
]
ComputeCapability = Annotated[
    list[str] | None,
    typer.Option(metavar="X.Y", help="--rtx: a GPU generation to build for, such as 8.9.", rich_help_panel=_PLANS),
]


def call_with_options(reader: Callable[..., Result], words: Mapping[str, Any]) -> Result:
    """Call a reader of options with those of the words that it takes."""
    return reader(**{name: words[name] for name in inspect.signature(reader).parameters if name in words})


def converter_from(word: str) -> str:
    """Raises InputError for an unknown converter."""
    if word not in CONVERTER_NAMES:
        raise InputError(f"--converter {word}: expected {' or '.join(CONVERTER_NAMES)}")
    return word


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
    unused: Sequence[str] = (),
) -> BuildOptions | None:
    """How a plan is built, None where none is. Raises InputError that lists all that is wrong, and what is `unused`."""
    problems = [*unused]
    if hardware not in get_args(HardwareName):
        problems.append(f"--hardware {hardware}: expected {', '.join(get_args(HardwareName))}")
    if time_limit_s is not None and not time_limit_s > 0:
        problems.append(f"--time-limit-s {time_limit_s:g}: expected seconds above 0")
    if in_container and target.format != "trt":
        problems.append("--in-container: builds TensorRT plans; give --trt and a precision")
    if image is not None and not in_container:
        problems.append("--image: is where --in-container builds; give both")
    if dry_run and not in_container:
        problems.append("--dry-run: shows what --in-container would run; give both")
    asked = {
        "workspace_mib": workspace_mib,
        "time_limit_s": time_limit_s,
        "optimization_level": optimization_level,
        "version_compatible": version_compatible or None,
        "hardware": None if hardware == "none" else hardware,
        "compute_capabilities": tuple(compute_capability or ()) or None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if given and target.format not in ("trt", "rtx"):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        problems.append(f"{options}: for plans; give --trt or --rtx and a precision")
    if problems:
        raise InputError("\n".join(problems))
    return BuildOptions.model_validate(given) if target.format in ("trt", "rtx") else None
