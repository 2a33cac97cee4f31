"""Checks of one model: its backend, files, versions and ensemble members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from server.doctor.models_to_load import ModelToLoad
from server.doctor.reexport_command import reexport_command
from server.doctor.target_environment import ENSEMBLE, PYTHON_BACKENDS, TargetEnvironment
from tritonkit.errors import Problem
from tritonkit.repository.compatibility import damage_reason
from tritonkit.repository.ensemble import check_ensemble
from tritonkit.repository.finding import NO_BACKEND, Finding, error, misread_version, warning
from tritonkit.repository.manifest import FileEntry, Manifest
from tritonkit.runtimes.formats import TRT, backend_format, is_model_file, is_plan
from tritonkit.system.files import file_sha256
from tritonkit.triton.backends import PYTHON_FILE
from tritonkit.triton.model_config import CONFIG_FILE, misread_versions, policy_text, versions_of

WARMUP_FOLDER = "warmup"
MAX_HASHED_BYTES = 64 * 2**20
"""Larger files are hashed only with `deep`, to keep the start of a server fast."""
_EXPORT_AGAIN = "export the model again"


def check_model(model: ModelToLoad, target: TargetEnvironment, deep: bool) -> Iterator[Finding]:
    """Return the findings of one model. deep: also hash large files."""
    config = model.folder / CONFIG_FILE
    if model.config.name not in ("", model.name):
        yield error(
            config,
            f"its configuration is named {model.config.name!r}",
            "rename the folder, or remove `name`",
            code="repository.name_mismatch",
        )
    yield from _check_backend(model, target)
    if model.backend == ENSEMBLE:
        yield from check_ensemble(model.folder, model.config)
        return
    yield from _check_versions(model)
    yield from _check_shared_files(model)
    for version in model.versions:
        yield from _check_files(version, model.files, target.repository, deep)
    yield from _check_gpu(model, target)
    if model.config.response_cache.enable and not target.options.cache_mib:
        yield warning(
            config,
            "uses a response cache, but the server has none",
            "start it with --cache-mib 64",
            code="server.no_cache",
        )


def _check_backend(model: ModelToLoad, target: TargetEnvironment) -> Iterator[Finding]:
    path = model.folder / CONFIG_FILE
    if not model.backend:
        yield error(path, NO_BACKEND, 'add, for example, backend: "onnxruntime"', code="repository.no_backend")
    if target.backends is None or not model.backend or model.backend in target.backends:
        return
    command = reexport_command(model.versions[-1] if model.versions else model.folder / "1", target.repository)
    if model.backend == TRT.backend:
        onnx_command = command.replace("--trt", "--onnx")
        elsewhere = "server up --runtime docker, on a machine with a GPU"
        yield error(
            path,
            f"{target.title} has no TensorRT, which {model.name} needs",
            f"{elsewhere}; or {onnx_command}",
            code="server.no_tensorrt",
        )
    elif model.backend in PYTHON_BACKENDS and (known := backend_format(model.backend)) is not None:
        yield error(
            path,
            f"{target.title} has no {known.library}, which {model.name} needs",
            f"install {known.library} there",
            code="server.no_library",
        )
    else:
        available = ", ".join(sorted(target.backends))
        yield error(
            path,
            f"{target.title} has no backend {model.backend!r}; it has {available}",
            "server up --runtime docker",
            code="server.no_backend",
        )


def _check_versions(model: ModelToLoad) -> Iterator[Finding]:
    numbers = versions_of(model.folder)
    for name, number in misread_versions(model.folder, model.config).items():
        yield misread_version(model.folder / name, number)
    if not numbers:
        yield error(
            model.folder,
            "has no version folder",
            f"{_EXPORT_AGAIN}, or move it elsewhere",
            code="repository.no_version",
        )
    elif not model.versions:
        policy, existing = policy_text(model.config), ", ".join(map(str, numbers))
        yield error(
            model.folder / CONFIG_FILE,
            f"its version policy loads {policy}, but it has versions {existing}",
            f"builder promote {model.name} latest",
            code="repository.policy_loads_nothing",
        )


def _check_shared_files(model: ModelToLoad) -> Iterator[Finding]:
    """Check label and warm-up files: without them Triton does not load the model."""
    for output in model.config.output:
        if output.label_filename and not (model.folder / output.label_filename).is_file():
            path = model.folder / output.label_filename
            yield error(
                path, f"missing: the labels of output {output.name!r}", _EXPORT_AGAIN, code="repository.no_labels"
            )
    files = {entry.input_data_file for sample in model.config.model_warmup for entry in sample.inputs.values()}
    for name in sorted(filter(None, files)):
        if not (model.folder / WARMUP_FOLDER / name).is_file():
            yield error(
                model.folder / WARMUP_FOLDER / name,
                "missing: warm-up reads it",
                _EXPORT_AGAIN,
                code="repository.no_warmup_file",
            )


def _check_files(version: Path, required: Sequence[str], repository: Path, deep: bool) -> Iterator[Finding]:
    command = reexport_command(version, repository)
    for name in required:
        if not (version / name).exists():  # ONNX Runtime and TensorFlow take folders too
            yield error(version / name, "missing: the backend loads it", command, code="repository.missing_file")
    manifest = Manifest.find(version)
    for name, entry in manifest.files.items() if manifest else ():
        path = version / name
        if not is_model_file(name) and name != PYTHON_FILE:
            continue
        if not path.is_file():
            if name not in required:
                yield error(path, "is in the manifest but missing", command, code="repository.missing_file")
        elif problem := _file_problem(path, entry, deep):
            yield error(path, problem.message, command, code=problem.code)


def _file_problem(path: Path, entry: FileEntry, deep: bool) -> Problem | None:
    if is_plan(path) and (reason := damage_reason(path)):
        return Problem("repository.damaged_plan", reason)
    size = path.stat().st_size
    if size != entry.bytes:
        return Problem("repository.changed_file", f"has {size} bytes, but {entry.bytes} when it was published")
    if (deep or size <= MAX_HASHED_BYTES) and file_sha256(path) != entry.sha256:
        return Problem("repository.changed_file", "was changed after it was published (its hash differs)")
    return None


def _check_gpu(model: ModelToLoad, target: TargetEnvironment) -> Iterator[Finding]:
    if target.machine.gpu is not None:
        return
    on_gpu = [group for group in model.config.instance_group if group.kind == group.KIND_GPU]
    if on_gpu or (model.backend == TRT.backend and target.image):
        yield error(
            model.folder / CONFIG_FILE,
            f"{model.name} needs a GPU, but the driver reports none on this machine",
            "check that `nvidia-smi` lists a GPU; or export with --onnx fp32 --kind cpu",
            code="machine.no_gpu",
        )
