"""Checks whether a TensorRT plan will load in its target environment: TensorRT version, GPU, and source graph.

Triton itself reports only "unable to load plan file to auto complete config".
"""

from __future__ import annotations

from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.manifest import Manifest
from tritonkit.runtimes.formats import ONNX, TRT, is_plan
from tritonkit.runtimes.tensorrt_plan import TITLES, plan_header, same_release, version_numbers
from tritonkit.system.env_file import ENV_FILE
from tritonkit.triton.releases import IMAGE_VARIABLE, Release, release_of, releases

SERVE_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"
"""Triton's option to load version-compatible plans: `server up --version-compatible`, or `VERSION_COMPATIBLE=yes` in
`.env`."""
_OLDEST_AMPERE = (8, 0)
_PLAN = Path(TRT.file)
"""Findings about a plan name it without its folder; the linter adds the folder."""


def plan_problems(
    record: BuildRecord | None, image_tag: str, compute_capability: str | None = None, serve_compatible: bool = False
) -> list[Finding]:
    """Return the problems of serving a plan from an image on a GPU, from its build record; none without a record.

    image_tag: the image, or its tag. compute_capability: of the target GPU, such as 8.9; None if unknown.
    serve_compatible: whether Triton is started with SERVE_COMPATIBLE.
    """
    if record is None or record.flavour == "rtx":
        return []
    release = release_of(image_tag)
    problems = _version_problems(
        record.tensorrt, record.settings.version_compatible, image_tag, release, serve_compatible
    )
    if compute_capability is not None:
        problems += _hardware_problems(record, compute_capability, release)
    return problems


def header_problems(plan: Path, image: str, serve_compatible: bool = False) -> list[Finding]:
    """Return the problems of serving a plan without a build record, from its header alone.

    The header does not contain whether the plan is version-compatible.
    serve_compatible: whether Triton is started with SERVE_COMPATIBLE.
    Raises ArtifactError for a file that is not a complete plan.
    """
    header = plan_header(plan)
    if header.flavour == "rtx":
        return [
            error(
                _PLAN,
                f"{plan.name} is an engine of {TITLES[header.flavour]}, for which Triton has no backend",
                "export again with --trt, or with --rtx, which serves the graph",
                code="tensorrt.rtx_engine",
            )
        ]
    return _version_problems(header.version, None, image, release_of(image), serve_compatible) or [
        warning(
            _PLAN,
            f"{plan.name} has no build record: its GPU and precision are not known",
            "export it with `builder export --trt`",
            code="tensorrt.no_record",
        )
    ]


def _version_problems(
    built_by: str, version_compatible: bool | None, image: str, release: Release | None, serve_compatible: bool
) -> list[Finding]:
    """Compare the TensorRT of the plan with that of the image. version_compatible: None if unknown."""
    option_fix = (
        f"add --version-compatible to `server up`; Compose: VERSION_COMPATIBLE=yes; Triton itself: {SERVE_COMPATIBLE}"
    )
    problems = []
    if version_compatible and not serve_compatible:
        # Also with the TensorRT version that built it: TensorRT refuses the runtime code in the plan unless allowed.
        problems.append(
            warning(
                _PLAN,
                "the plan is version-compatible: Triton loads it only with an option, as it contains runtime code",
                option_fix,
                code="tensorrt.compatible_not_allowed",
            )
        )
    if release is None or release.tensorrt is None:
        return [
            *problems,
            warning(
                _PLAN,
                f"the TensorRT version in {image} is not known here; the plan needs {built_by}",
                f"check the image: docker run --rm --entrypoint printenv {image} TRT_VERSION",
                code="tensorrt.unknown_release",
            ),
        ]
    if same_release(built_by, release.tensorrt):
        return problems
    versions_text = f"the plan was built by TensorRT {built_by}, the image {image} has {release.tensorrt}"
    if version_numbers(release.tensorrt) < version_numbers(built_by):
        message, fix = f"{versions_text}: an older TensorRT never loads it", _fix(built_by, image)
        return [error(_PLAN, message, fix, code="tensorrt.newer_tensorrt")]
    if version_compatible and serve_compatible:
        return []
    if version_compatible:
        message = f"{versions_text}: Triton loads it only with an option"
        return [warning(_PLAN, message, option_fix, code="tensorrt.compatible_not_allowed")]
    if version_compatible is None and serve_compatible:
        message, fix = f"{versions_text}: it loads only if it was built version-compatible", _fix(built_by, image)
        return [warning(_PLAN, message, f"if it was not: {fix}", code="tensorrt.unknown_compatibility")]
    if version_compatible is None:
        message = f"{versions_text}, and it is not known to be version-compatible"
        fix = f"{option_fix}, if the plan was built version-compatible; else {_fix(built_by, image)}"
        return [error(_PLAN, message, fix, code="tensorrt.unknown_compatibility")]
    message, fix = f"{versions_text}, and it is not version-compatible", _fix(built_by, image)
    return [error(_PLAN, message, fix, code="tensorrt.other_tensorrt")]


def _fix(built_by: str, image: str) -> str:
    matching = [known.release for known in releases() if known.tensorrt and same_release(built_by, known.tensorrt)]
    tags = " or ".join(f"{release}-py3" for release in matching)
    export = f"export again with --trt … --in-container --image {image}"
    return f"set {IMAGE_VARIABLE} in {ENV_FILE} to a tag {tags}, or {export}" if tags else export


def _hardware_problems(record: BuildRecord, compute_capability: str, release: Release | None) -> list[Finding]:
    """Compare the GPUs of the plan and of the image with the target GPU."""
    problems = []
    minimum = release.compute_capability if release is not None else None
    if release is not None and minimum and version_numbers(compute_capability) < version_numbers(minimum):
        problems.append(
            error(
                _PLAN,
                f"release {release.release} supports compute capability {minimum} and later, the GPU has "
                f"{compute_capability}",
                "use an older release",
                code="tensorrt.unsupported_gpu",
            )
        )
    runs_here = compute_capability in record.compute_capabilities
    if record.settings.hardware == "ampere_plus":
        runs_here = version_numbers(compute_capability) >= _OLDEST_AMPERE
    if record.compute_capabilities and not runs_here:
        target = f"{record.gpu or 'a GPU'} (compute capability {', '.join(record.compute_capabilities)})"
        problems.append(
            error(
                _PLAN,
                f"the plan was built for {target}, the GPU has {compute_capability}",
                "export again on such a GPU, or with --hardware ampere_plus for all from Ampere on",
                code="tensorrt.other_gpu",
            )
        )
    return problems


def stale_problems(manifest: Manifest) -> list[Finding]:
    """Return a problem if a version's plan was built from another graph than the one in the version.

    In the manifest, `build.sha256` is the hash of the plan when it was built, and `build.graph_sha256` that of its
    graph. For an engine of TensorRT for RTX the graph is the `model.onnx` of the version.
    """
    problems, fix, record = list[Finding](), "export the model again", manifest.build
    plan = next((name for name in manifest.files if is_plan(name)), None)
    if record is not None and plan is not None and manifest.files[plan].sha256 != record.sha256:
        message = f"{plan} is not the plan of the build record: its hash differs"
        problems.append(error(_PLAN, message, fix, code="tensorrt.record_mismatch"))
    graph = manifest.files.get(ONNX.file)
    if record is not None and graph is not None and graph.sha256 != record.graph_sha256:
        message = f"stale plan: {plan} was built from another graph than {ONNX.file}"
        problems.append(error(_PLAN, message, fix, code="tensorrt.stale"))
    return problems


def damage_reason(plan: Path) -> str | None:
    """Return why a plan with a wrong hash is damaged, from its header; None if the header is complete."""
    try:
        plan_header(plan)
    except TritonkitError as reason:
        return str(reason).removeprefix(f"{plan}: ")
    return None


def int8_findings(artifact: Path, verified_exactly: bool | None, serves_exactly: bool | None) -> list[Finding]:
    """Warn if an int8 artifact was verified on a CPU with other int8 arithmetic than this one.

    verified_exactly, serves_exactly: results of `adds_int8_exactly` at verification, and on this machine.
    """
    if verified_exactly is None or serves_exactly is None or verified_exactly == serves_exactly:
        return []
    names = {True: "adds int8 products exactly", False: "saturates sums at 16 bits (x86 without VNNI)"}
    return [
        warning(
            artifact,
            f"int8, verified on a CPU that {names[verified_exactly]}; this one {names[serves_exactly]}: answers may "
            "differ from the verified ones",
            f"on this machine: builder verify {artifact} --against CHECKPOINT; if that fails, export the model here",
            code="artifact.int8_cpu",
        )
    ]
