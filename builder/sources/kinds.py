"""Detect the kind of a source file by its content: `.pt` alone has four meanings. Nothing is loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from tritonkit.errors import ArtifactError, InputError
from tritonkit.runtimes.formats import ONNX, TORCHSCRIPT, format_of, is_plan
from tritonkit.runtimes.tensorrt_plan import TITLES, plan_header
from tritonkit.spec import METADATA_KEY

Kind = Literal["checkpoint", "weights", "onnx"]

ACCEPTED = (
    "a checkpoint that `train` wrote (.safetensors), third-party weights (a state dict as .pth, .pt, .ckpt, .bin "
    "or .safetensors), an .onnx file, timm:NAME or torchvision:NAME"
)
_WEIGHTS = (".pth", TORCHSCRIPT.suffix, ".ckpt", ".bin", ".tar")


def source_kind(path: Path) -> Kind:
    """Detect the kind of a source. Raises InputError, with what to do, where it is none."""
    if path.is_dir():
        patterns = ("best.safetensors", "*/best.safetensors", "model.safetensors", ONNX.file, f"*/{ONNX.file}")
        found = next(filter(None, (sorted(path.glob(pattern)) for pattern in patterns)), [])
        advice = f"pass the file in it: {found[-1]}" if found else f"expected {ACCEPTED}"
        raise InputError(f"{path}: is a folder; {advice}", code="source.folder")
    if not path.is_file():
        hint = _library_hint(path)
        raise InputError(f"{path}: no such file{hint}", code="source.missing")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise InputError(f"{path}: is empty", code="source.empty")
    _refuse_plans(path)
    if head.startswith(b"PK\x03\x04"):
        return _archive_kind(path)
    if head[8:9] == b"{" and path.suffix not in _WEIGHTS:
        try:
            with safe_open(path, framework="numpy") as tensors:
                metadata = tensors.metadata() or {}
        except (SafetensorError, OSError):
            return "checkpoint"  # damaged or truncated, which its reader reports
        return "checkpoint" if METADATA_KEY in metadata else "weights"
    if format_of(path) is ONNX:
        return "onnx"
    if path.suffix == ".safetensors":
        return "checkpoint"  # a damaged file, which its reader reports
    if path.suffix in _WEIGHTS or head.startswith(b"\x80"):
        return "weights"
    raise InputError(f"{path}: not a file that can be exported; expected {ACCEPTED}", code="source.unknown_kind")


def _library_hint(path: Path) -> str:
    """Return how to name a library's weights if a path looks like `timm/NAME` or `NAME`; else nothing."""
    match path.parts:
        case ("timm" | "torchvision" as library, name):
            return f"; for the library's weights use {library}:{name}"
        case (name,) if not path.suffix:
            return f"; for a library's weights use timm:{name} or torchvision:{name}"
    return ""


def _refuse_plans(path: Path) -> None:
    try:
        reason = f"is a {TITLES[plan_header(path).flavour]} plan"
    except ArtifactError as error:
        if not is_plan(path) and path.suffix != ".engine":
            return
        reason = str(error).removeprefix(f"{path}: ")
    raise InputError(
        f"{path}: {reason}. A plan cannot be verified without its model, and runs only on the GPU and TensorRT version "
        "it was built for: pass the checkpoint or the ONNX file it was built from",
        code="source.plan",
    )


def _archive_kind(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return "weights"  # truncated, which its reader reports
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        if f"extra/{METADATA_KEY}" in names:
            raise InputError(
                f"{path}: was exported by `builder`; pass the checkpoint it came from", code="source.exported"
            )
        raise InputError(
            f"{path}: is a TorchScript file, a program that is not run here. Pass the model's weights (torch.save of "
            "its state_dict) with --model NAME, or the .onnx file that torch.onnx.export writes of the model",
            code="source.torchscript",
        )
    if "data.pkl" in names:
        return "weights"
    raise InputError(
        f"{path}: is a zip archive, but not from torch.save or torch.jit.save; expected {ACCEPTED}",
        code="source.zip",
    )
