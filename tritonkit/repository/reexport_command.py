"""The command that exports a version again, from its manifest, spec and verdict."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.model_folder import VersionFolder
from tritonkit.runtimes.formats import TORCHSCRIPT, TRT
from tritonkit.spec import ModelSpec

_SOURCE_FILE = re.compile(r"(?:checkpoint )?(?P<name>.+?\.(?:safetensors|pth?|ckpt|bin|onnx))(?=$| \(| into timm )")
"""A source description that starts with a file name, which may contain spaces."""


def reexport_command(version: VersionFolder, repository: Path, image: str | None = None) -> str:
    """Return a command such as `builder export best.safetensors --trt fp16 …`; SOURCE if the source is unknown.

    image: the image to build a plan in.
    """
    manifest = version.manifest
    source = _SOURCE_FILE.match(manifest.source) if manifest else None
    words = ["builder", "export", _source_path(source["name"], manifest) if manifest and source else "SOURCE"]
    if manifest and source and not manifest.source.startswith("checkpoint "):
        words += _model_arguments(version)
    words += _target_arguments(version)
    if image and f"--{TRT.name}" in words:
        words += ["--in-container", "--image", image]
    return shlex.join([*words, "--name", version.path.parent.name, "--repository", str(repository)])


def _source_path(name: str, manifest: Manifest) -> str:
    """Return the path of the source at the export; only its name if the path is unknown."""
    path = manifest.source_path
    return str(path) if path is not None and path.name == name else name


def _model_arguments(version: VersionFolder) -> list[str]:
    """Return the options that describe third-party weights, from the spec."""
    try:
        spec = ModelSpec.read(version.path)
    except TritonkitError:
        spec = None
    if spec is None:
        return []
    preprocess, normalize = spec.preprocess, spec.normalize
    prefix = {"timm": "", "torchvision": "torchvision/"}.get(spec.architecture.library)
    words = ["--model", prefix + spec.architecture.name] if prefix is not None else []
    words += ["--labels", str(version.path.parent / "labels.txt")] if spec.labels else []
    words += ["--size", f"{preprocess.height}x{preprocess.width}", "--fit", preprocess.fit]
    words += ["--crop-ratio", f"{preprocess.crop_ratio:g}"] if preprocess.fit == "crop" else []
    words += ["--interpolation", preprocess.interpolation]
    for option, values in (("--mean", normalize.mean), ("--std", normalize.std)):
        words += [option, ",".join(f"{value:g}" for value in values)]
    return words


def _target_arguments(version: VersionFolder) -> list[str]:
    verdict = version.verdict
    if verdict is None:
        return [f"--{TRT.name}", "fp16"] if list(version.path.glob(f"*{TRT.suffix}")) else []
    precision = [] if verdict.format == TORCHSCRIPT.name else [verdict.precision]
    return [f"--{verdict.format}", *precision, "--max-batch", str(verdict.max_batch)]
