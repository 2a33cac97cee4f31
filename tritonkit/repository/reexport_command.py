"""The command that exports a version again, from its manifest, spec and verdict."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.model_folder import VersionFolder
from tritonkit.runtimes.formats import BUILT_IN, TORCHSCRIPT, TRT
from tritonkit.spec import ModelSpec

_SOURCE_FILE = re.compile(r"(?:checkpoint )?(?P<name>.+?\.(?:safetensors|pth?|ckpt|bin|onnx))(?=$| \(| into timm )")
"""A source description that starts with a file name, which may contain spaces."""


def reexport_command(version: VersionFolder, repository: Path, image: str | None = None) -> str:
    """Return a command such as `builder export best.safetensors --trt fp16 …`; SOURCE if the source is unknown.

    image: the image to build a plan in. For a search model it is `builder index CHECKPOINT GALLERY …`, for a pipeline
    `builder pipeline CONFIG …`.
    """
    published = ["--name", version.path.parent.name, "--repository", str(repository)]
    spec = _spec_of(version)
    if spec is not None and spec.pipeline is not None:
        config = version.manifest.source_path if version.manifest else None
        return shlex.join(["builder", "pipeline", str(config or "CONFIG"), *published[2:]])
    if spec is not None and spec.gallery is not None:
        kind = "approximate" if spec.gallery.approximate_recall is not None else "no-approximate"
        return shlex.join(["builder", "index", "CHECKPOINT", "GALLERY", f"--{kind}", *published])
    manifest, verdict, words = version.manifest, version.verdict, ["builder", "export"]
    source = _SOURCE_FILE.match(manifest.source) if manifest else None
    if manifest and source:
        path = manifest.source_path  # None if unknown; then the name must do
        words.append(str(path) if path is not None and path.name == source["name"] else source["name"])
        words += [] if manifest.source.startswith("checkpoint ") else _model_arguments(version)
    else:
        words.append("SOURCE")
    if verdict is None:
        words += [f"--{TRT.name}", "fp16"] if list(version.path.glob(f"*{TRT.suffix}")) else []
    elif verdict.format not in {known.name for known in BUILT_IN}:
        words += ["--format", f"{verdict.format}:{verdict.precision}"]
    else:
        words += [f"--{verdict.format}", *([] if verdict.format == TORCHSCRIPT.name else [verdict.precision])]
    words += ["--max-batch", str(verdict.max_batch)] if verdict else []
    if image and f"--{TRT.name}" in words:
        words += ["--in-container", "--image", image]
    return shlex.join([*words, *published])


def _spec_of(version: VersionFolder) -> ModelSpec | None:
    try:
        return ModelSpec.read(version.path)
    except TritonkitError:
        return None


def _model_arguments(version: VersionFolder) -> list[str]:
    """Return the options that describe third-party weights, from the spec."""
    spec = _spec_of(version)
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
