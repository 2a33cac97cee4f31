"""`builder check`: the linter of tritonkit, and further checks that open the graphs of a repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.artifacts import inspect_artifact
from builder.config.triton_config import tensors_of
from builder.interface import describe_difference, interface_of
from builder.repository.encoded import DECODER_MODULES, PREPROCESS_FILE, preprocess_json
from builder.repository.lint_foreign import check_foreign_graphs
from builder.repository.shared_files import can_promote
from tritonkit.errors import InputError, TritonkitError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.lint import EXPORT, LintScope, lint
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.runtimes.formats import ONNX, format_of, is_plan
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.gpu import find_gpu
from tritonkit.triton.companions import decoder_of, ensemble_of
from tritonkit.triton.model_config import CONFIG_FILE, read_config
from tritonkit.triton.releases import image_for


def check_repository(repository: Path) -> list[Finding]:
    """Collect all findings of a repository. Raises InputError where the folder does not exist."""
    gpu, image, findings = find_gpu(), None, []
    try:
        image = image_for(repository)
    except InputError as reason:
        fix = "correct it; no plan is compared with the image until then"
        findings.append(error(repository, str(reason), fix, code=reason.code))
    scope = LintScope(repository, image, gpu.compute_capability if gpu else None)
    return [*findings, *lint(scope, (check_graphs, check_foreign_graphs, check_companion))[1]]


def check_graphs(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that the graphs, the spec and `config.pbtxt` of a published model have the same inputs and outputs."""
    if not model.is_published:
        return
    config, interface = model.config, None
    try:
        interface = (tensors_of(config.input), tensors_of(config.output))
        spec = ModelSpec.read(model.path)
        if spec is not None and (differs := describe_difference(interface, interface_of(spec), "its spec says")):
            yield error(model.path, f"{CONFIG_FILE} {differs}", EXPORT, code="repository.config_interface")
    except TritonkitError as reason:
        if interface is None:  # `check_spec` reports a spec that cannot be read
            yield error(model.config_file, str(reason), f"correct it, or {EXPORT}", code=reason.code)
    for version in model.versions:
        for artifact in (version.path / name for name in model.files):
            if format_of(artifact) is None or not artifact.is_file():  # `check_files` reports a missing one
                continue
            try:
                info = inspect_artifact(artifact)
            except TritonkitError as reason:
                if not is_plan(artifact):  # `check_files` reports a damaged plan
                    yield error(artifact, str(reason), EXPORT, code=reason.code)
                continue
            differs = None
            if info.interface is not None and interface is not None:
                differs = describe_difference(info.interface, interface, f"{CONFIG_FILE} says")
            if differs and version in model.loaded_versions:
                yield error(artifact, f"the graph {differs}", EXPORT, code="repository.graph_interface")
            elif differs and not can_promote(version.path, info):
                yield warning(
                    artifact,
                    f"the graph {differs}, and the version has no spec of its own: it cannot be promoted",
                    "delete the version",
                    code="repository.not_promotable",
                )
            accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
            has_tensorrt = any(accelerator.name == "tensorrt" for accelerator in accelerators)
            if info.precision == "bf16" and model.backend == ONNX.backend and not has_tensorrt:
                yield warning(
                    artifact,
                    "computes in bf16; ONNX Runtime has no bf16 kernels for CPUs, so only a Triton with a GPU can load "
                    "it",
                    "export it with --accelerator tensorrt for a GPU, or with --onnx fp16",
                    code="repository.bf16_on_cpu",
                )


def check_companion(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that a decoder or an ensemble fits the model it belongs to."""
    owner = model.path.parent / model.owner
    if model.owner and not owner.is_dir():
        message = f"decodes images for {owner.name}, which is not here"
        yield warning(model.path, message, f"export {owner.name}, or delete it", code="repository.owner_missing")
    if not owner.is_dir() or model.name != decoder_of(model.owner):
        return
    version = model.versions[-1].path if model.versions else model.path / "1"
    if changed := [name for name, path in DECODER_MODULES.items() if _content(version / name) != path.read_bytes()]:
        yield warning(
            version,
            f"{' and '.join(changed)}: differs from this version of tritonkit, so clients may decode images otherwise",
            EXPORT,
            code="repository.decoder_version",
        )
    try:
        text = read_config(owner).parameters[METADATA_KEY].string_value
        spec = ModelSpec.from_json(text, origin=str(owner / CONFIG_FILE))
    except TritonkitError:  # reported where that model is checked
        return
    if _content(version / PREPROCESS_FILE) != preprocess_json(spec.preprocess):
        report = error if (owner.parent / ensemble_of(owner.name)).is_dir() else warning
        yield report(
            version / PREPROCESS_FILE,
            f"differs from the preprocessing of {owner.name}",
            EXPORT,
            code="repository.decoder_preprocess",
        )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
