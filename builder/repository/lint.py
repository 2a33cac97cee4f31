"""`builder check`: the linter of tritonkit, and further checks that open the graphs of a repository.

The rules for graphs that `builder` did not publish are those of NVIDIA's backend:
triton-inference-server/onnxruntime_backend, src/onnxruntime.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from builder.artifacts import inspect_artifact
from builder.config.triton_config import tensors_of
from builder.interface import describe_difference, interface_of
from builder.onnx.file import load_without_weights
from builder.repository.encoded import (
    DECODER_MODULES,
    PIPELINE_MODULES,
    content_of,
    preprocess_json,
)
from builder.repository.shared_files import can_promote
from tritonkit.errors import InputError, TritonkitError
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.lint import EXPORT, Check, LintScope, lint
from tritonkit.repository.model_folder import ModelFolder
from tritonkit.repository.pipelines.members import AGAIN, pipeline_of
from tritonkit.repository.signing.companions import PREPROCESS_FILE
from tritonkit.runtimes.formats import ONNX, OPENVINO, format_of, is_plan
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.gpu import find_gpu
from tritonkit.triton.backends import ModelConfig
from tritonkit.triton.companions import decoder_of, ensemble_of
from tritonkit.triton.model_config import CONFIG_FILE, read_config, shapes_fit
from tritonkit.triton.releases import image_for

_TYPES = {1: 11, 2: 2, 3: 6, 4: 3, 5: 7, 6: 8, 7: 9, 8: 13, 9: 1, 10: 10, 11: 12, 12: 4, 13: 5, 16: 14}
"""ONNX element types, each with the number of Triton's `DataType`."""


def check_repository(repository: Path) -> list[Finding]:
    """Collect all findings of a repository. Raises InputError where the folder does not exist."""
    gpu, image, findings = find_gpu(), None, []
    try:
        image = image_for(repository)
    except InputError as reason:
        fix = "correct it; no plan is compared with the image until then"
        findings.append(error(repository, str(reason), fix, code=reason.code))
    scope = LintScope(repository, image, gpu.compute_capability if gpu else None)
    return [*findings, *lint(scope, FURTHER_CHECKS)[1]]


def check_graphs(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that the graphs, the spec and `config.pbtxt` of a published model have the same inputs and outputs."""
    if not model.is_published:
        return
    config, interface = model.config, None
    try:
        is_pipeline = pipeline_of(model.path) is not None
        interface = (tensors_of(config.input), tensors_of(config.output, variable_sizes=is_pipeline))
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


def check_foreign_graphs(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check the artifacts of a model that `builder` did not publish, in the versions that Triton loads."""
    if not model.is_foreign:
        return
    for path in (version.path / name for version in scope.versions(model) for name in model.files):
        file = path / path.name if path.is_dir() else path
        # Third-party OpenVINO files are left to OpenVINO; `check_files` reports what is missing, and damaged plans.
        if not file.is_file() or format_of(file) in (None, OPENVINO) or is_plan(file):
            continue
        try:
            if format_of(file) is not ONNX:
                inspect_artifact(file)
                continue
            graph = load_without_weights(file).graph
        except TritonkitError as reason:
            yield error(file, str(reason).removeprefix(f"{file}: "), "copy it again", code=reason.code)
            continue
        external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        weights = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
        for name in sorted(weights):
            if not (file.parent / name).is_file():
                message = f"missing: {file.name} keeps weights in it"
                yield error(file.parent / name, message, "put the file there", code="repository.no_weights")
        for problem in _differences(graph, model.config) if model.config.input and model.config.output else ():
            fix = f"correct {CONFIG_FILE}, or leave inputs and outputs out of it"
            yield error(file, problem, fix, code="repository.graph_interface")


def _differences(graph: onnx.GraphProto, config: ModelConfig) -> Iterator[str]:
    """The inputs and outputs that a configuration describes otherwise than its graph."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    outputs = {value.name: value for value in graph.output}
    if missing := sorted(set(inputs) - {entry.name for entry in config.input}):
        yield f"takes {', '.join(missing)}, which {CONFIG_FILE} does not name"
    has_batch = config.max_batch_size > 0
    for entry, values in [*((entry, inputs) for entry in config.input), *((entry, outputs) for entry in config.output)]:
        if entry.name not in values:
            yield f"has no {entry.name!r}, which {CONFIG_FILE} names; it has {', '.join(values)}"
            continue
        tensor = values[entry.name].type.tensor_type
        if _TYPES.get(tensor.elem_type, 0) != entry.data_type:
            yield f"{entry.name!r} has another type than in {CONFIG_FILE}"
        if not tensor.HasField("shape"):
            continue
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        dims = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
        if has_batch and (not sizes or sizes[0] != -1):
            fix = "set max_batch_size: 0"
            yield f"{entry.name!r} is {sizes}: with max_batch_size its first axis must be dynamic; {fix}"
        elif not shapes_fit([-1, *dims] if has_batch else dims, sizes):
            yield f"{entry.name!r} is {sizes}, the batch axis included; {CONFIG_FILE} says {dims}"


def check_pipeline_code(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that the served code of a pipeline is that of this version of tritonkit."""
    for version in model.loaded_versions if pipeline_of(model.path) is not None else ():
        files = PIPELINE_MODULES.items()
        if changed := [name for name, path in files if content_of(version.path / name) != path.read_bytes()]:
            yield warning(
                version.path,
                f"{' and '.join(changed)}: differs from this version of tritonkit",
                AGAIN,
                code="pipeline.code_version",
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
    if changed := [name for name, path in DECODER_MODULES.items() if content_of(version / name) != path.read_bytes()]:
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
    if content_of(version / PREPROCESS_FILE) != preprocess_json(spec.preprocess):
        report = error if (owner.parent / ensemble_of(owner.name)).is_dir() else warning
        yield report(
            version / PREPROCESS_FILE,
            f"differs from the preprocessing of {owner.name}",
            EXPORT,
            code="repository.decoder_preprocess",
        )


FURTHER_CHECKS: tuple[Check, ...] = (check_graphs, check_foreign_graphs, check_pipeline_code, check_companion)
"""The checks of `builder check`, packages and signatures that a server does without: they open graphs."""
