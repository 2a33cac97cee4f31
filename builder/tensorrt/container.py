"""Build a plan in the very image that will serve it, and ask it there: for machines with Docker and a GPU.

NVIDIA's Triton images hold no Python module of TensorRT, but its command `trtexec`; so that is what builds here.
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

from builder.failures import BuildStoppedError, CannotBuildError, tells_of_memory
from builder.targets import ProgressCallback
from builder.tensorrt.precision import precision_of_engine
from builder.tensorrt.timing_cache import timing_cache_path
from model.build_record import BuildRecord, BuildSettings
from model.docker_engine import Docker, all_gpus, docker_engine, remove_container, run_container
from model.errors import first_line
from model.files import atomic_write, sha256_of
from model.plans import plan_header
from model.spec import TensorSpec

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
_TRITON = "/opt/tritonserver/bin/tritonserver"
_NO_TRTEXEC, _NO_TRITON, _LOOK_S = 3, 4, 60.0
_BY_SIGNAL, _KILLED = 128, 137
"""Exit codes from here on are 128 and the signal that ended a container; 9 is how the kernel gets memory back."""
_WORK, _CACHE = "/work", "/cache"
_GRAPH, _PLAN, _LAYERS = "model.onnx", "model.plan", "layers.json"
_FULL_RELEASE = "take a full release of NVIDIA's Triton image, such as 26.07-py3"
_HARDWARE = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}


@dataclass(frozen=True)
class Run:
    """A container to run: one GPU machine's worth of `docker run`, with no network and no root."""

    image: str
    command: tuple[str, ...]
    """The program first."""
    folders: tuple[tuple[Path, str], ...]
    """Folders here, and where they are seen in the container, to be written to."""

    @property
    def user(self) -> str:
        """Files it writes belong to whoever runs this."""
        return f"{os.getuid()}:{os.getgid()}"

    def line(self) -> str:
        """The command line that does the same."""
        mounts = [word for here, there in self.folders for word in ("--volume", f"{here}:{there}")]
        program, *arguments = self.command
        words = ["docker", "run", "--rm", "--gpus", "all", "--network", "none", "--user", self.user, *mounts]
        return shlex.join([*words, "--entrypoint", program, self.image, *arguments])


def run_for(image: str, tensor: TensorSpec, settings: BuildSettings, work: Path) -> Run:
    """The container that builds `model.plan` from `model.onnx` in the folder `work`.

    tensor: the one input; its shape is without the batch axis.
    """
    cache = timing_cache_path("tensorrt", image.rpartition("/")[2], "container")
    return Run(
        image=image,
        command=(TRTEXEC, *trtexec_arguments(tensor, settings, cache.name)),
        folders=((work.absolute(), _WORK), *(((cache.parent, _CACHE),) if settings.timing_cache else ())),
    )


def trtexec_arguments(tensor: TensorSpec, settings: BuildSettings, cache: str) -> list[str]:
    """Options that trtexec of TensorRT 10.13 and of 11 take alike: on 11 `--stronglyTyped` does nothing."""
    sizes = {"min": 1, "opt": settings.optimal_batch, "max": settings.max_batch}
    dims = "x".join(map(str, tensor.shape))
    arguments = [
        f"--onnx={_WORK}/{_GRAPH}",
        f"--saveEngine={_WORK}/{_PLAN}",
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
    """Build `plan` from `graph` with the TensorRT of an image. The plan is written beside and renamed.

    Raises InputError for settings that do not fit together, CannotBuildError where trtexec refuses the graph,
    BuildStoppedError where Docker does not answer, the image cannot be run, memory is short, trtexec is killed, or the
    time limit passes.
    """
    settings.check()
    docker = docker or docker_here()
    report(f"building in {image}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tritonkit-") as folder:
        work = Path(folder)
        shutil.copyfile(graph, work / _GRAPH)
        run = run_for(image, tensor, settings, work)
        for here, _ in run.folders:
            here.mkdir(parents=True, exist_ok=True)
        log = _ended(docker, run, settings.time_limit_s)
        with atomic_write(plan) as beside:
            shutil.copyfile(work / _PLAN, beside)
            header = plan_header(beside)
        layers = work / _LAYERS
        engine = precision_of_engine(layers.read_text(encoding="utf-8")) if layers.is_file() else {}
    return BuildRecord(
        flavour="tensorrt",
        tensorrt=header.version,
        gpu=_told(log, r"Selected Device: (.+)"),
        compute_capabilities=tuple(filter(None, [_told(log, r"Compute Capability: ([\d.]+)")])),
        seconds=round(time.monotonic() - began, 2),
        bytes=plan.stat().st_size,
        sha256=sha256_of(plan),
        graph_sha256=sha256_of(graph),
        engine=engine,
        settings=settings,
        image=image,
    )


def docker_here() -> Docker:
    """The Docker SDK and a client whose daemon answers. Raises BuildStoppedError with what to do."""
    return docker_engine(
        BuildStoppedError,
        needed_for="--in-container",
        alternative="or run the same export on a machine that has Docker with a GPU",
    )


def check_image(image: str, docker: Docker | None = None) -> None:
    """Find out before the work whether a plan can be built in an image, and proven there by its Triton.

    Docker fetches an image that is not here. Raises BuildStoppedError where it cannot be run with a GPU,
    CannotBuildError where it lacks what it needs.
    """
    script = f"test -x {TRTEXEC} || exit {_NO_TRTEXEC}; test -x {_TRITON} || exit {_NO_TRITON}"
    code, log = _outcome(docker or docker_here(), Run(image, ("/bin/sh", "-c", script), ()), _LOOK_S)
    if code == _NO_TRTEXEC:
        raise CannotBuildError(f"{image} has no {TRTEXEC}, which builds plans; {_FULL_RELEASE}")
    if code == _NO_TRITON:
        raise CannotBuildError(f"{image} has no Triton, which the plan is to be proven in; {_FULL_RELEASE}")
    if code != 0:
        raise BuildStoppedError(f"{image} cannot be looked into: the shell in it ended with code {code}: {log.strip()}")


def _ended(docker: Docker, run: Run, limit_s: float) -> str:
    """Run to a good end and give the log."""
    code, log = _outcome(docker, run, limit_s)
    if code == 0:
        return log
    said = [line for line in log.splitlines() if "[E]" in line] or log.splitlines() or ["it said nothing"]
    short = next((line for line in said if "[E]" in line and tells_of_memory(line)), None)
    ended = f"trtexec in {run.image} ended with code {code}: {(short or said[0]).strip()}"
    if short is not None or code == _KILLED:
        raise BuildStoppedError(f"{ended}; memory was short: lower the workspace or the largest batch, or free some")
    if code >= _BY_SIGNAL:
        raise BuildStoppedError(f"{ended}; signal {code - _BY_SIGNAL} ended it")
    raise CannotBuildError(ended)


def _outcome(docker: Docker, run: Run, limit_s: float) -> tuple[int, str]:
    """Run to the end, and give the exit code and the log."""
    module, _ = docker
    failures = (module.errors.DockerException, OSError)  # of requests, which the SDK asks by, where nobody answers
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
            volumes={str(here): {"bind": there, "mode": "rw"} for here, there in run.folders},
        )
    except failures as error:
        raise BuildStoppedError(_not_run(run.image, error)) from error
    began = time.monotonic()
    try:
        code: int = container.wait(timeout=limit_s)["StatusCode"]
        return code, container.logs().decode(errors="replace")
    except failures as error:
        what = f"running {program} in {run.image}"
        if time.monotonic() - began >= limit_s:  # requests has several errors for that
            raise BuildStoppedError(f"{what} took more than {limit_s:g} s, the time limit, and was stopped") from error
        raise BuildStoppedError(
            f"{what} was stopped, as Docker failed: {reason_of(error)}. Look whether its daemon runs, and export again"
        ) from error
    finally:
        remove_container(docker, container)


def reason_of(error: Exception) -> str:
    """What Docker says of an error, in one line."""
    return getattr(error, "explanation", None) or first_line(error)


def _not_run(image: str, error: Exception) -> str:
    """Docker's reason, and what mends it."""
    reason = reason_of(error)
    way = "look whether the image is right, and pull it with: docker pull " + image
    if "could not select device driver" in reason or "nvidia" in reason.lower():
        way = "Docker has no access to a GPU here: install the NVIDIA Container Toolkit, or use --rtx"
    elif TRTEXEC in reason:
        way = f"the image has no trtexec: {_FULL_RELEASE}"
    return f"{image} cannot be run: {reason}; {way}"


def _told(log: str, pattern: str) -> str | None:
    found = re.search(pattern, log)
    return found.group(1).strip() if found else None
