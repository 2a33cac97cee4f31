"""Checks whether the server, as it will be started on this machine, can run a model."""

from __future__ import annotations

from collections.abc import Iterator

from server.doctor.target_environment import PYTHON_BACKENDS, TargetEnvironment
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.model_folder import ModelFolder, VersionFolder
from tritonkit.repository.reexport_command import reexport_command
from tritonkit.runtimes.formats import FAISS, TRT, backend_format


def check_model(model: ModelFolder, target: TargetEnvironment) -> Iterator[Finding]:
    """Check the backend of a model, its GPU, and its response cache."""
    path = model.config_file
    if target.backends is not None and model.backend and model.backend not in target.backends:
        if model.backend == TRT.backend:
            newest = model.loaded_versions[-1] if model.loaded_versions else VersionFolder(model.path / "1")
            command = reexport_command(newest, target.repository).replace("--trt", "--onnx")
            yield error(
                path,
                f"{target.title} has no TensorRT, which {model.name} needs",
                f"server up --runtime docker, on a machine with a GPU; or {command}",
                code="server.no_tensorrt",
            )
        elif model.backend in PYTHON_BACKENDS and (known := backend_format(model.backend)) is not None:
            yield error(
                path,
                f"{target.title} has no {known.library}, which {model.name} needs",
                "run `make setup` in tritonkit's folder, which installs it",
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
    elif target.image and model.backend == FAISS.backend:
        yield error(
            path,
            f"NVIDIA's image has no backend {model.backend!r}, which {model.name} needs",
            "server up --runtime pip, or docker compose up triton-cpu",
            code="server.no_backend",
        )
    on_gpu = any(group.kind == group.KIND_GPU for group in model.config.instance_group)
    if target.machine.gpu is None and (on_gpu or (model.backend == TRT.backend and target.image)):
        yield error(
            path,
            f"{model.name} needs a GPU, but the driver reports none on this machine",
            "check that `nvidia-smi` lists a GPU; or export with --onnx fp32 --kind cpu",
            code="machine.no_gpu",
        )
    if model.config.response_cache.enable and not target.options.cache_mib:
        yield warning(
            path,
            "uses a response cache, but the server has none",
            "start it with --cache-mib 64",
            code="server.no_cache",
        )
