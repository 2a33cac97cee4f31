"""The command that exports a version again, from its manifest, spec and verdict."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import TORCHSCRIPT, TRT
from tritonkit.spec import ModelSpec

_SOURCE_FILE = re.compile(r"(?:checkpoint )?(?P<name>.+?\.(?:safetensors|pth?|ckpt|bin|onnx))(?=$| \(| into timm )")
"""A source description that starts with a file name, which may contain spaces."""


def reexport_command(version: Path, repository: Path, image: str | None = None) -> str:
    """Return a command such as `builder export best.safetensors --trt fp16 …`; SOURCE if the source is unknown.

    image: the image to build a plan in.
    """
    manifest = Manifest.find(version)
    source = _SOURCE_FILE.match(manifest.source) if manifest else None
    words = ["builder", "export", _source_path(source["name"], manifest) if manifest and source else "SOURCE"]
    if manifest and source and not manifest.source.startswith("checkpoint "):
        words += _model_arguments(version)
    words += _target_arguments(version)
    if image and f"--{TRT.name}" in words:
        words += ["--in-container", "--image", image]
    return shlex.join([*words, "--name", version.parent.name, "--repository", str(repository)])


def _source_path(name: str, manifest: Manifest) -> str:
    """Return the path of the source at the export; only its name if the path is unknown."""
    path = manifest.source_path
    return str(path) if path is not None and path.name == name else name


def _model_arguments(version: Path) -> list[str]:
    """Return the options that describe third-party weights, from the spec."""
    try:
        spec = ModelSpec.read(version)
    except TritonkitError:
        spec = None
    if spec is None:
        return []
    prefix = {"timm": "", "torchvision": "torchvision/"}.get(spec.architecture.library)
    if prefix is None:
        return []
    labels = version.parent / "labels.txt"
    return ["--model", prefix + spec.architecture.name, *(["--labels", str(labels)] if spec.labels else [])]


def _target_arguments(version: Path) -> list[str]:
    verdict = Verdict.find(version)
    if verdict is None:
        return [f"--{TRT.name}", "fp16"] if list(version.glob(f"*{TRT.suffix}")) else []
    precision = [] if verdict.format == TORCHSCRIPT.name else [verdict.precision]
    return [f"--{verdict.format}", *precision, "--max-batch", str(verdict.max_batch)]
