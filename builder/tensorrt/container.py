"""Build a plan in the Docker image that will serve it, for machines with Docker and a GPU.

NVIDIA's Triton images hold no Python module of TensorRT, which Polygraphy would need in the very version of the image.
They hold its command `trtexec`, which builds the plan here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from builder.failures import BuildStoppedError, CannotBuildError, is_out_of_memory
from builder.tensorrt.build import timing_cache_path
from builder.tensorrt.precision import precision_of_engine
from tritonkit.errors import first_line
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.runtimes.formats import ONNX, TRT, ProgressCallback
from tritonkit.runtimes.tensorrt_plan import plan_header
from tritonkit.spec import TensorSpec
from tritonkit.system.docker_engine import Docker, all_gpus, docker_engine, remove_container, run_container
from tritonkit.system.files import atomic_write, file_sha256

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
_TRITON = "/opt/tritonserver/bin/tritonserver"
_NO_TRTEXEC, _NO_TRITON, _CHECK_S = 3, 4, 60.0
_SIGNAL_BASE, _KILLED = 128, 137
"""Exit codes from 128 are 128 plus the signal that ended a container; the kernel uses signal 9 on lack of memory."""
_WORK, _CACHE = "/work", "/cache"
_LAYERS = "layers.json"
_FULL_RELEASE = "use a full release of NVIDIA's Triton image, such as 26.07-py3"
_HARDWARE = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}


@dataclass(frozen=True)
class ContainerRun:
    """A container to run with all GPUs, without network and without root."""

    image: str
    command: tuple[str, ...]
    """The program first."""
    folders: tuple[tuple[Path, str], ...]
    """Writable folders: the path here, and the path in the container."""

    @property
    def user(self) -> str:
        """The current user and group, so that the container's files belong to them."""
        return f"{os.getuid()}:{os.getgid()}"

    def command_line(self) -> str:
        """The equivalent `docker run` command."""
        mounts = [word for host, inside in self.folders for word in ("--volume", f"{host}:{inside}")]
        program, *arguments = self.command
        words = ["docker", "run", "--rm", "--gpus", "all", "--network", "none", "--user", self.user, *mounts]
        return shlex.join([*words, "--entrypoint", program, self.image, *arguments])


def container_for_build(image: str, tensor: TensorSpec, settings: BuildSettings, work: Path) -> ContainerRun:
    """Create the container run that builds `model.plan` from `model.onnx` in the folder `work`.

    tensor: the input; its shape has no batch axis.
    """
    cache = timing_cache_path("tensorrt", image.rpartition("/")[2], "container")
    return ContainerRun(
        image=image,
        command=(TRTEXEC, *trtexec_arguments(tensor, settings, cache.name)),
        folders=((work.absolute(), _WORK), *(((cache.parent, _CACHE),) if settings.timing_cache else ())),
    )


def trtexec_arguments(tensor: TensorSpec, settings: BuildSettings, cache: str) -> list[str]:
    """The options of trtexec, valid for TensorRT 10.13 and 11; on 11 `--stronglyTyped` has no effect."""
    sizes = {"min": 1, "opt": settings.optimal_batch, "max": settings.max_batch}
    dims = "x".join(map(str, tensor.shape))
    arguments = [
        f"--onnx={_WORK}/{ONNX.file}",
        f"--saveEngine={_WORK}/{TRT.file}",
        "--stronglyTyped",
        *(f"--{which}Shapes={tensor.name}:{size}x{dims}" for which, size in sizes.items()),
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={_WORK}/{_LAYERS}",
        "--skipInference",
        "--noTF32",
    ]
    if settings.workspace_mib is not None:
        arguments.append(f"--memPoolSize=workspace:{settings.workspace_mib}M")
    if settings.optimization_level is not None:
        arguments.append(f"--builderOptimizationLevel={settings.optimization_level}")
    if settings.version_compatible:
        arguments.append("--versionCompatible")
    if settings.hardware != "none":
        arguments.append(f"--hardwareCompatibilityLevel={_HARDWARE[settings.hardware]}")
    if settings.timing_cache:
        arguments.append(f"--timingCacheFile={_CACHE}/{cache}")
    return arguments


def build_in_container(
    graph: Path,
    plan: Path,
    tensor: TensorSpec,
    settings: BuildSettings,
    image: str,
    report: ProgressCallback,
    docker: Docker | None = None,
) -> BuildRecord:
    """Build `plan` from `graph` with the TensorRT of an image. The plan is written atomically.

    Raises InputError for settings that exclude each other, CannotBuildError where trtexec refuses the graph,
    BuildStoppedError where Docker does not answer, the image cannot be run, memory is short, trtexec is killed, or the
    time limit passes.
    """
    settings.check()
    docker = docker or docker_here()
    report(f"building in {image}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tritonkit-") as folder:
        work = Path(folder)
        shutil.copyfile(graph, work / ONNX.file)
        run = container_for_build(image, tensor, settings, work)
        for folder_on_host, _ in run.folders:
            folder_on_host.mkdir(parents=True, exist_ok=True)
        code, log = _run(docker, run, settings.time_limit_s)
        if code:
            lines = [line for line in log.splitlines() if "[E]" in line] or log.splitlines() or ["no output"]
            memory_error = next((line for line in lines if "[E]" in line and is_out_of_memory(line)), None)
            message = f"trtexec in {image} ended with exit code {code}: {(memory_error or lines[0]).strip()}"
            if memory_error is not None or code == _KILLED:
                raise BuildStoppedError(
                    f"{message}; out of memory: lower the workspace or the largest batch, or free memory",
                    code="tensorrt.out_of_memory",
                )
            if code >= _SIGNAL_BASE:
                signal = code - _SIGNAL_BASE
                raise BuildStoppedError(f"{message}; ended by signal {signal}", code="tensorrt.build_crashed")
            raise CannotBuildError(message, code="tensorrt.build_refused")
        with atomic_write(plan) as temporary:
            shutil.copyfile(work / TRT.file, temporary)
            header = plan_header(temporary)
        layers = work / _LAYERS
        engine = precision_of_engine(layers.read_text(encoding="utf-8")) if layers.is_file() else {}
    return BuildRecord(
        flavour="tensorrt",
        tensorrt=header.version,
        gpu=_find_in_log(log, r"Selected Device: (.+)"),
        compute_capabilities=tuple(filter(None, [_find_in_log(log, r"Compute Capability: ([\d.]+)")])),
        seconds=round(time.monotonic() - began, 2),
        bytes=plan.stat().st_size,
        sha256=file_sha256(plan),
        graph_sha256=file_sha256(graph),
        engine=engine,
        settings=settings,
        image=image,
    )


def docker_here() -> Docker:
    """Connect to Docker: the SDK and a client. Raises BuildStoppedError with what to do."""
    return docker_engine(
        BuildStoppedError,
        needed_for="--in-container",
        alternative="or run the same export on a machine that has Docker with a GPU",
    )


def check_image(image: str, docker: Docker | None = None) -> None:
    """Check that an image can build a plan with trtexec and verify it with Triton.

    Docker pulls a missing image. Raises BuildStoppedError where it cannot be run with a GPU, CannotBuildError where a
    program is missing in it.
    """
    script = f"test -x {TRTEXEC} || exit {_NO_TRTEXEC}; test -x {_TRITON} || exit {_NO_TRITON}"
    code, log = _run(docker or docker_here(), ContainerRun(image, ("/bin/sh", "-c", script), ()), _CHECK_S)
    if code == _NO_TRTEXEC:
        raise CannotBuildError(
            f"{image} has no {TRTEXEC}, which builds plans; {_FULL_RELEASE}", code="docker.no_trtexec"
        )
    if code == _NO_TRITON:
        raise CannotBuildError(
            f"{image} has no Triton, which verifies the plan; {_FULL_RELEASE}", code="docker.no_triton"
        )
    if code != 0:
        raise BuildStoppedError(
            f"{image} cannot be inspected: its shell ended with exit code {code}: {log.strip()}",
            code="docker.image_check",
        )


def _run(docker: Docker, run: ContainerRun, limit_s: float) -> tuple[int, str]:
    """Run a container to its end; return the exit code and the log."""
    module, _ = docker
    failures = (module.errors.DockerException, OSError)  # OSError: from requests, which the SDK uses
    program, *arguments = run.command
    try:
        container = run_container(
            docker,
            run.image,
            arguments,
            entrypoint=program,
            device_requests=all_gpus(module),
            network_mode="none",
            user=run.user,
            volumes={str(host): {"bind": inside, "mode": "rw"} for host, inside in run.folders},
        )
    except failures as error:
        reason = docker_reason(error)
        fix = f"check the name of the image, and pull it with: docker pull {run.image}"
        if "could not select device driver" in reason or "nvidia" in reason.lower():
            fix = "Docker has no access to a GPU here: install the NVIDIA Container Toolkit, or use --rtx"
        elif TRTEXEC in reason:
            fix = f"the image has no trtexec: {_FULL_RELEASE}"
        raise BuildStoppedError(f"{run.image} cannot be run: {reason}; {fix}", code="docker.not_startable") from error
    began = time.monotonic()
    try:
        code: int = container.wait(timeout=limit_s)["StatusCode"]
        return code, container.logs().decode(errors="replace")
    except failures as error:
        action = f"running {program} in {run.image}"
        if time.monotonic() - began >= limit_s:  # requests has several errors for a timeout
            raise BuildStoppedError(
                f"{action} was stopped after the time limit of {limit_s:g} s", code="tensorrt.timeout"
            ) from error
        raise BuildStoppedError(
            f"{action} was stopped because Docker failed: {docker_reason(error)}. Check that its daemon runs, and "
            "export again",
            code="docker.failed",
        ) from error
    finally:
        remove_container(docker, container)


def docker_reason(error: Exception) -> str:
    """Docker's explanation of an error, in one line."""
    return getattr(error, "explanation", None) or first_line(error)


def _find_in_log(log: str, pattern: str) -> str | None:
    match = re.search(pattern, log)
    return match.group(1).strip() if match else None
