"""Whether a plan will load where it is to be served: TensorRT versions, GPUs, and the source it was made from.

Triton itself only says "unable to load plan file to auto complete config".
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from model.build_record import BuildRecord
from model.env_file import ENV_FILE
from model.errors import TritonkitError
from model.manifest import Manifest
from model.plans import TITLES, numbers, plan_header, same_release
from model.releases import IMAGE_VARIABLE, Release, release_of, releases

SERVE_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
"""What Triton is told; `server up --version-compatible` and `VERSION_COMPATIBLE=yes` of `.env` say it."""
PLANS = (".plan", ".rtx")
_GRAPH = "model.onnx"
_OLDEST_AMPERE = (8, 0)


class PlanProblem(NamedTuple):
    """What speaks against a plan being served there, and the way out."""

    severity: Literal["error", "warning"]
    message: str
    fix: str
    code: str = ""


def plan_problems(
    manifest: Manifest, image_tag: str, compute_capability: str | None = None, told: bool = False
) -> list[PlanProblem]:
    """What speaks against serving a version's plan from an image on a GPU; nothing for a version without a plan.

    image_tag: the image, or its tag. compute_capability: that of the GPU there, such as 8.9; None is not known.
    told: Triton is started with SERVE_COMPATIBLE.
    """
    record = manifest.build
    if record is None or record.flavour == "rtx":
        return []
    release = release_of(image_tag)
    problems = _version_problems(record.tensorrt, record.settings.version_compatible, image_tag, release, told)
    if compute_capability is not None:
        problems += _hardware_problems(record, compute_capability, release)
    return problems


def header_problems(plan: Path, image: str, told: bool = False) -> list[PlanProblem]:
    """What speaks against Triton serving a plan that has no record of its build, by its first bytes alone.

    Whether it is version-compatible they do not tell. told: Triton is started with SERVE_COMPATIBLE. Raises
    ArtifactError for a file that is no whole plan.
    """
    header = plan_header(plan)
    if header.flavour == "rtx":
        message = f"{plan.name} is an engine of {TITLES[header.flavour]}, which Triton has no backend for"
        return [PlanProblem("error", message, "export again with --trt, or with --rtx, which serves the graph")]
    found = _version_problems(header.version, None, image, release_of(image), told)
    unknown = f"{plan.name} has no record of its build: its GPU and precision are not known"
    return found or [PlanProblem("warning", unknown, "export it with `builder export --trt`")]


def _version_problems(
    built_by: str, version_compatible: bool | None, image: str, release: Release | None, serve_compatible: bool
) -> list[PlanProblem]:
    """version_compatible: None is not known."""
    add = f"add --version-compatible to `server up`; Compose: VERSION_COMPATIBLE=yes; Triton itself: {SERVE_COMPATIBLE}"
    # Also in the TensorRT that built it: the code in it that loads it is refused unless allowed.
    always = "the plan is version-compatible: Triton loads it only if told so, as such plans hold code of their own"
    opted = [PlanProblem("warning", always, add)] if version_compatible and not serve_compatible else []
    if release is None or release.tensorrt is None:
        ask = f"docker run --rm --entrypoint printenv {image} TRT_VERSION"
        return [
            *opted,
            PlanProblem(
                "warning",
                f"which TensorRT is in {image} is not known here; the plan needs {built_by}",
                f"ask the image: {ask}",
            ),
        ]
    if same_release(built_by, release.tensorrt):
        return opted
    older_server = numbers(release.tensorrt) < numbers(built_by)
    versions_text = f"the plan was built by TensorRT {built_by}, the image {image} has {release.tensorrt}"
    if older_server:
        return [PlanProblem("error", f"{versions_text}: an older TensorRT never loads it", _fix(built_by, image))]
    if version_compatible:
        return (
            []
            if serve_compatible
            else [PlanProblem("warning", f"{versions_text}: it loads only if Triton is told so", add)]
        )
    if version_compatible is None and serve_compatible:
        only = f"{versions_text}: it loads only if it was built version-compatible"
        return [PlanProblem("warning", only, f"if it was not: {_fix(built_by, image)}")]
    if version_compatible is None:
        either = f"{add}, if the plan was built version-compatible; else {_fix(built_by, image)}"
        return [PlanProblem("error", f"{versions_text}, and nothing says that it is version-compatible", either)]
    return [PlanProblem("error", f"{versions_text}, and it is not version-compatible", _fix(built_by, image))]


def _fix(built_by: str, image: str) -> str:
    fitting = [one.release for one in releases() if one.tensorrt and same_release(built_by, one.tensorrt)]
    tags = " or ".join(f"{release}-py3" for release in fitting)
    again = f"export again with --trt … --in-container --image {image}"
    return f"set {IMAGE_VARIABLE} in {ENV_FILE} to a tag {tags}, or {again}" if tags else again


def _hardware_problems(record: BuildRecord, there: str, release: Release | None) -> list[PlanProblem]:
    problems = []
    if release is not None and release.compute_capability and numbers(there) < numbers(release.compute_capability):
        least = release.compute_capability
        problems.append(
            PlanProblem(
                "error", f"release {release.release} supports compute capability {least} and later", "take an older one"
            )
        )
    if record.compute_capabilities and not _runs_on(record, there):
        made = f"{record.gpu or 'a GPU'} (compute capability {', '.join(record.compute_capabilities)})"
        problems.append(
            PlanProblem(
                "error",
                f"the plan was built for {made}, the GPU there has {there}",
                "export again on such a GPU, or with --hardware ampere_plus for all from Ampere on",
            )
        )
    return problems


def _runs_on(record: BuildRecord, there: str) -> bool:
    if record.settings.hardware == "ampere_plus":
        return numbers(there) >= _OLDEST_AMPERE
    return there in record.compute_capabilities


def stale_problems(manifest: Manifest) -> list[PlanProblem]:
    """Whether a version's plan was made from something else than it stands beside.

    By the manifest: `build.sha256` is the plan's hash when it was built, `build.graph_sha256` that of its graph, which
    for an engine of TensorRT for RTX is the `model.onnx` beside it.
    """
    problems = []
    again = "export the model again"
    record = manifest.build
    if record is not None:
        plan = next((name for name in manifest.files if name.endswith(PLANS)), None)
        if plan is not None and manifest.files[plan].sha256 != record.sha256:
            problems.append(PlanProblem("error", f"{plan} is not the plan whose build is recorded", again))
        graph = manifest.files.get(_GRAPH)
        if graph is not None and graph.sha256 != record.graph_sha256:
            problems.append(
                PlanProblem("error", f"stale plan: {plan} was built from another graph than {_GRAPH}", again)
            )
    return problems


def damage(plan: Path) -> str | None:
    """Why a plan whose hash is wrong is so, as far as its header shows; None where the header is whole."""
    try:
        plan_header(plan)
    except TritonkitError as error:
        return str(error).removeprefix(f"{plan}: ")
    return None
