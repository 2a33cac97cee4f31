"""What a file is, by its content: names lie, and `.pt` means four things. Nothing of it is loaded."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Literal

from model.errors import ArtifactError, InputError
from model.plans import TITLES, plan_header
from model.spec import METADATA_KEY

Kind = Literal["checkpoint", "weights", "torchscript", "onnx"]

ACCEPTED = (
    "a checkpoint that `train` wrote (.safetensors), someone else's weights (a state dict as .pth, .pt, .ckpt, .bin "
    "or .safetensors), a TorchScript file, an .onnx file, timm:NAME or torchvision:NAME"
)
_WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".tar")
_HEAD = 64


def kind_of(path: Path) -> Kind:
    """What a source is. Raises InputError for what is no source, with the way out."""
    if path.is_dir():
        raise InputError(f"{path}: {_folder(path)}")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint{_library_hint(path)}")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise InputError(f"{path}: is empty")
    _refuse_plans(path)
    if head.startswith(b"PK\x03\x04"):
        return _in_archive(path)
    if head[8:9] == b"{" and path.suffix not in _WEIGHTS:
        return _in_safetensors(path)
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".safetensors":
        return "checkpoint"  # a damaged one: its reader says so
    if path.suffix in _WEIGHTS or head.startswith(b"\x80"):
        return "weights"
    raise InputError(f"{path}: not a file that can be exported; expected {ACCEPTED}")


def _library_hint(path: Path) -> str:
    """How weights of a library are named, where `timm/NAME` or `torchvision/NAME` was given."""
    library = path.parts[0] if len(path.parts) == 2 else ""
    return f"; for the library's weights give {library}:{path.name}" if library in ("timm", "torchvision") else ""


def _folder(path: Path) -> str:
    for pattern in ("best.safetensors", "*/best.safetensors", "model.safetensors", "model.onnx", "*/model.onnx"):
        if found := sorted(path.glob(pattern)):
            return f"is a folder; give the file in it: {found[-1]}"
    return f"is a folder; expected {ACCEPTED}"


def _refuse_plans(path: Path) -> None:
    try:
        found = f"is a {TITLES[plan_header(path).flavour]} plan"
    except ArtifactError as error:
        if path.suffix not in (".plan", ".engine"):
            return
        found = str(error).removeprefix(f"{path}: ")
    raise InputError(
        f"{path}: {found}. A plan cannot be proven without its model, and runs only on the GPU and TensorRT it was "
        "built for: give the checkpoint or the ONNX file it was built from, and a plan is built here"
    )


def _in_archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return "weights"  # cut short: its reader says so
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if "data.pkl" in names:
        return "weights"
    raise InputError(
        f"{path}: is a zip archive, but neither torch.save nor torch.jit.save wrote it; expected {ACCEPTED}"
    )


def _in_safetensors(path: Path) -> Kind:
    """Ours carries its spec in the header; format: github.com/huggingface/safetensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            return "checkpoint"  # cut short, as below
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return "checkpoint"  # a damaged one: its reader says how
    metadata = header.get("__metadata__") or {} if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        return "checkpoint"  # a damaged one, as above
    return "checkpoint" if METADATA_KEY in metadata else "weights"
