"""The linter of a model repository: what Triton would refuse, and what it would serve with wrong outputs.

`builder check` runs it on everything in a repository, with further checks that open the graphs. `server doctor` runs it
on what a server loads, and adds the checks of the machine. The checks are a table of functions from a model folder to
findings. For a model that `builder` did not publish, only a fault that prevents loading is an error; what Triton
completes or accepts by itself (dynamic sizes, other types, missing names) is not reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import TritonkitError
from tritonkit.repository.artifact_files import artifact_files, artifact_sha256
from tritonkit.repository.compatibility import (
    damage_reason,
    header_problems,
    int8_findings,
    plan_problems,
    stale_problems,
)
from tritonkit.repository.config_rules import ignored_settings, load_problems, unverified_accelerators
from tritonkit.repository.ensemble import check_ensemble
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.finding import Finding, error, warning
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.model_folder import ModelFolder, VersionFolder, find_models
from tritonkit.repository.optimization import Optimization
from tritonkit.repository.pipelines.members import check_members, pipeline_of
from tritonkit.repository.reexport_command import reexport_command
from tritonkit.repository.staging import interrupted_exports
from tritonkit.repository.tuning.record import TuningRecord
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import TRT, is_model_file, known_formats
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.cpu import adds_int8_exactly
from tritonkit.system.files import file_sha256
from tritonkit.triton.backends import PYTHON_FILE, backend_files
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    WARMUP_FOLDER,
    backend_completes_tensors,
    misread_versions,
    policy_text,
    warmup_sizes,
)

SHARED_FOLDERS = (WARMUP_FOLDER, "initial_state", "configs")
"""Folders of a model that Triton reads and that are not versions."""
EXPORT = "export the model again"
CORRECT = "correct it"


@dataclass(frozen=True)
class LintScope:
    """What to look at, and the target that it is compared with; None where the target is unknown."""

    repository: Path
    image: str | None = None
    compute_capability: str | None = None
    version_compatible: bool = False
    """Whether Triton is started with the option that loads version-compatible plans."""
    to_serve: bool = False
    """Look only at what a server loads: the versions of the version policy, and the files that a backend opens."""
    models: tuple[str, ...] = ()
    """Only these models, and the members of ensembles and pipelines among them; empty for all."""
    max_hashed_bytes: int | None = None
    """Larger files are compared by their size alone."""

    def versions(self, model: ModelFolder) -> list[VersionFolder]:
        """The versions of a model to look at; of a model that `builder` did not publish, those that Triton loads."""
        return model.loaded_versions if self.to_serve or model.is_foreign else model.versions


Check = Callable[[ModelFolder, LintScope], Iterator[Finding]]


def lint(scope: LintScope, further: Sequence[Check] = ()) -> tuple[list[ModelFolder], list[Finding]]:
    """Return the models that were looked at, and the findings. further: checks in addition to CHECKS.

    Raises InputError for a missing repository or model.
    """
    repository, folders = scope.repository, find_models(scope.repository, scope.models)
    findings = [
        warning(path, "left by an interrupted export", "delete it", code="repository.leftover")
        for path in interrupted_exports(repository)
    ]
    if not folders:
        findings.append(
            warning(repository, "holds no model", "publish one with `builder export`", code="repository.empty")
        )
    if not scope.models:
        message, fix = "is not a model: Triton logs a message and skips it", "move it out of the repository"
        others = sorted(path for path in repository.iterdir() if path.is_dir() and path.name not in folders)
        findings += [warning(folder, message, fix, code="repository.not_a_model") for folder in others]
    models: dict[str, ModelFolder] = {}
    pending = [*(scope.models or folders)]
    while pending:
        name = pending.pop(0)
        if name in models or name not in folders:  # `check_ensemble` reports a member that is missing
            continue
        try:
            models[name] = ModelFolder.read(folders[name])
        except TritonkitError as reason:
            findings.append(
                error(folders.pop(name) / CONFIG_FILE, str(reason), f"{CORRECT}, or {EXPORT}", code=reason.code)
            )
            continue
        pending += [step.model_name for step in models[name].config.ensemble_scheduling.step]
        pipeline = pipeline_of(models[name].path)
        pending += [member.model for member in pipeline.members] if pipeline is not None else []
    for model in models.values():
        for check in (*CHECKS, *further):
            findings += check(model, scope)
    return list(models.values()), findings


def check_config(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check `config.pbtxt` itself: name, backend, tensors and settings."""
    path, config = model.config_file, model.config
    if model.is_foreign and not scope.to_serve:
        yield warning(
            model.path,
            "was not published by `builder`: it was not compared with a checkpoint",
            "compare its outputs with the original model yourself, or leave it as it is",
            code="repository.not_published",
        )
    if config.name not in ("", model.name):
        yield error(
            path,
            f"its configuration has the name {config.name!r}",
            "rename the folder, or remove `name`",
            code="repository.config_name",
        )
    if not model.backend:
        yield error(
            path,
            "names no backend, and no version has a file that tells Triton the backend, such as model.onnx",
            'add, for example, backend: "onnxruntime"',
            code="repository.no_backend",
        )
    for problem in load_problems(config):
        yield error(path, problem.message, CORRECT if model.is_foreign else EXPORT, code=problem.code)
    for problem in ignored_settings(config):
        if model.is_foreign:
            yield warning(path, problem.message, "it has no effect, or the backend refuses it", code=problem.code)
        else:
            yield error(path, problem.message, f"{CORRECT}, or {EXPORT}", code=problem.code)
    if model.is_published:
        for doubt in unverified_accelerators(config):
            yield warning(
                path, doubt, "compare its outputs on the machine that serves it", code="repository.unverified_setting"
            )
    completes = backend_completes_tensors(config)
    if not model.is_foreign or (completes and not (config.input or config.output)):
        return
    for kind, entries in (("input", config.input), ("output", config.output)):
        if not entries and not completes:
            message = f"names no {kind}, and backend {model.backend} cannot complete it"
            yield error(path, message, CORRECT, code="repository.config_tensor")
        for entry in entries:
            if not entry.name or not entry.data_type or not entry.dims or min(entry.dims) < -1 or 0 in entry.dims:
                message = f"{kind} {entry.name!r} needs a name, a data_type, and dims of 1 or more, or -1 for any size"
                yield error(path, message, CORRECT, code="repository.config_tensor")


def check_steps(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that the models that an ensemble or a pipeline calls exist and fit together."""
    if model.is_ensemble:
        yield from check_ensemble(model.path, model.config)
    yield from check_members(model)


def check_folders(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check which folders Triton reads as versions, and that the version policy loads one."""
    if model.is_ensemble:
        return
    for name, number in misread_versions(model.path, model.config).items():
        yield error(
            model.path / name,
            f"Triton reads its name as version {number}, which has no folder",
            "move it out of the model",
            code="repository.misread_version",
        )
    if not model.versions:
        fix = "put the model's file into a folder 1 in it" if model.is_foreign else f"{EXPORT}, or delete the folder"
        yield error(model.path, "has no version folder", fix, code="repository.no_version")
    elif not model.loaded_versions:
        numbers = ", ".join(version.path.name for version in model.versions)
        yield error(
            model.config_file,
            f"its version policy {policy_text(model.config)} loads none of the versions here: {numbers}",
            f"builder promote {model.name} latest" if model.is_published else CORRECT,
            code="repository.version_policy",
        )
    known = {version.path.name for version in model.versions}
    for folder in sorted(path for path in model.path.iterdir() if path.is_dir()) if model.is_published else ():
        if folder.name not in (*known, *SHARED_FOLDERS):
            yield warning(
                folder,
                "Triton ignores it: a version is a number without leading zeros",
                "delete it",
                code="repository.ignored_folder",
            )


def check_shared_files(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check the label files and the warm-up, without which Triton does not load the model."""
    fix = "put the file there" if model.is_foreign else EXPORT
    for output in model.config.output:
        path = model.path / output.label_filename
        if output.label_filename and not path.is_file():
            yield error(path, f"missing: the labels of output {output.name!r}", fix, code="repository.no_labels")
    for name, size in warmup_sizes(model.config).items():
        path = model.path / WARMUP_FOLDER / name
        found = path.stat().st_size if path.is_file() else None
        if found is None or found < size:
            problem = "is missing; warm-up reads it" if found is None else f"has {found} bytes; warm-up reads {size}"
            yield error(path, f"{problem}, so the model will not load", fix, code="repository.warmup")


def check_spec(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that `model.json`, the spec in `config.pbtxt` and the label files agree."""
    if not model.is_published:
        return
    path = model.path / ModelSpec.FILE
    try:
        spec = ModelSpec.read(model.path)
    except TritonkitError as reason:
        yield error(path, str(reason), EXPORT, code="repository.unreadable_spec")
        return
    if spec is None:
        return
    try:
        text = model.config.parameters[METADATA_KEY].string_value
        served = ModelSpec.from_json(text, origin=str(model.config_file)).public()
    except TritonkitError:
        served = None
    if served != spec.public():
        yield error(
            path, "differs from the spec in config.pbtxt, which clients read", EXPORT, code="repository.spec_differs"
        )
    for version in model.loaded_versions[-1:]:  # each version is published with its own spec
        try:
            own = ModelSpec.read(version.path)
        except TritonkitError as reason:
            yield error(version.path / ModelSpec.FILE, str(reason), EXPORT, code="repository.unreadable_spec")
            continue
        if own is not None and own.public() != spec.public():
            yield error(
                path,
                f"differs from the spec of version {version.number}, which Triton serves",
                f"builder promote {model.name} {version.number}, or {EXPORT}",
                code="repository.spec_differs",
            )
    for name, labels in spec.label_files.items():
        file = model.path / name
        if file.is_file() and file.read_bytes() != labels.encode():
            message = f"does not hold the {labels.count(chr(10))} labels of the model"
            yield error(file, message, EXPORT, code="repository.labels_differ")


def check_files(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that the files of each version exist and are those that were published."""
    for version in scope.versions(model) if not model.is_ensemble or model.owner else ():
        fix = "put the file there" if model.is_foreign else EXPORT
        if model.is_published:
            fix = reexport_command(version, scope.repository)
        required = [version.path / name for name in model.files]
        # NVIDIA's onnxruntime backend accepts a folder with a file of the same name in it.
        required = [path / path.name if path.is_dir() else path for path in required]
        for path in required:
            if not path.exists():
                message = f"missing: backend {model.backend} loads it"
                yield error(path, message, fix, code="repository.no_artifact")
        damaged = {path: reason for path in version.plans if (reason := damage_reason(path))}
        for path, reason in damaged.items():
            yield error(path, reason, fix, code="repository.damaged_plan")
        if fault := _unreadable(Manifest, version, scope):
            yield fault
        elif version.manifest is None and not model.is_foreign:
            yield warning(
                version.path,
                f"has no {Manifest.FILE}: its files cannot be verified",
                "export it with `builder`",
                code="repository.no_manifest",
            )
        for name, entry in version.manifest.files.items() if version.manifest is not None else ():
            path = version.path / name
            if path in damaged or (scope.to_serve and not is_model_file(name) and name != PYTHON_FILE):
                continue
            size = path.stat().st_size if path.is_file() else None
            is_hashed = scope.max_hashed_bytes is None or (size or 0) <= scope.max_hashed_bytes
            if size is None:
                if path not in required:
                    yield error(path, "is in the manifest but missing", fix, code="repository.missing_file")
            elif size != entry.bytes:
                message = f"was changed since it was published (it has {size} bytes, and had {entry.bytes})"
                yield error(path, message, fix, code="repository.changed_file")
            elif is_hashed and file_sha256(path) != entry.sha256:
                message = "was changed since it was published (its hash differs)"
                yield error(path, message, fix, code="repository.changed_file")


def _unreadable(file: type[RepositoryFile], version: VersionFolder, scope: LintScope) -> Finding | None:
    """The finding for a file of a version that cannot be read; None if it can be read, or is missing."""
    try:
        file.read(version.path)
    except TritonkitError as reason:
        report = warning if scope.to_serve else error
        return report(version.path / file.FILE, str(reason), EXPORT, code=reason.code)
    return None


def check_verdicts(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that each version passed its verdict, on a CPU that computes as this one does; and how it was chosen."""
    for version in scope.versions(model) if model.is_published else ():
        if fault := _unreadable(Optimization, version, scope):
            yield fault
        if fault := _unreadable(Verdict, version, scope):
            yield fault
            continue
        if (verdict := version.verdict) is None:
            yield warning(
                version.path,
                "has no verdict: it was not compared with its checkpoint",
                "export it with `builder`",
                code="repository.no_verdict",
            )
            continue
        if verdict.forced:
            yield warning(
                version.path,
                f"published with --force:\n{verdict.summary()}",
                "export it again without --force",
                code="repository.forced",
            )
        elif not verdict.passed:
            message = f"its verdict failed:\n{verdict.summary()}"
            yield error(version.path, message, EXPORT, code="repository.failed_verdict")
        if not scope.to_serve and (other := misplaced_verdict(version.path, verdict)):
            yield error(version.path / Verdict.FILE, other, EXPORT, code="repository.other_verdict")
        known = next((known for known in known_formats() if known.name == verdict.format), None)
        if known is not None and "cpu" in known.runs_on:
            yield from int8_findings(version.path / known.file, verdict.exact_int8, adds_int8_exactly())


def misplaced_verdict(version: Path, verdict: Verdict) -> str | None:
    """Why a verdict is about another model or artifact than the one in its folder; None if it is about that one.

    Verdicts of earlier versions do not say what they are about.
    """
    try:
        spec = ModelSpec.read(version)
    except TritonkitError:  # reported where the version is promoted or shown
        spec = None
    if verdict.model is not None and spec is not None and verdict.model != spec.name:
        return f"is the verdict of model {verdict.model}, not of {spec.name}"
    if verdict.artifact_sha256 not in (None, artifact_sha256(artifact_files(version))):
        return "is the verdict of another artifact: its digest is not that of the files here"
    return None


def check_tuning(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check that the evidence of a tuned configuration can be read; without it, the tuning cannot be undone."""
    try:
        TuningRecord.read(model.path)
    except TritonkitError as reason:
        advice = "upgrade tritonkit" if reason.code == "repository.newer_file" else "delete it"
        yield warning(model.path / TuningRecord.FILE, str(reason), advice, code=reason.code)


def check_plans(model: ModelFolder, scope: LintScope) -> Iterator[Finding]:
    """Check whether plans load on their target: by their build record, else by the header of the file."""
    plan_of_gpu = backend_files(model.config).plans.get(scope.compute_capability or "")
    names = model.files if plan_of_gpu is None else [plan_of_gpu]
    for version in scope.versions(model):
        paths = [path for path in version.plans if path.name in names or not scope.to_serve]
        if version.manifest is not None and version.manifest.build is not None:
            if scope.to_serve and model.backend != TRT.backend:  # an engine of TensorRT for RTX is not loaded
                continue
            problems = stale_problems(version.manifest)
            if scope.image is not None:
                problems += plan_problems(
                    version.manifest.build, scope.image, scope.compute_capability, scope.version_compatible
                )
            found = [(path, finding) for path in paths or [version.path] for finding in problems]
        else:
            found = [
                (path, finding)
                for path in paths
                # `check_files` reports damage; Triton loads no engine of TensorRT for RTX.
                if scope.image is not None and path.suffix == TRT.suffix and not damage_reason(path)
                for finding in header_problems(path, scope.image, scope.version_compatible)
            ]
        for path, finding in found:
            command = f"; the command: {reexport_command(version, scope.repository, scope.image)}"
            fix = finding.fix + (command if finding.severity == "error" else "")
            yield finding.model_copy(update={"path": str(path), "fix": fix})


CHECKS: tuple[Check, ...] = (
    check_config,
    check_steps,
    check_folders,
    check_shared_files,
    check_spec,
    check_files,
    check_verdicts,
    check_plans,
    check_tuning,
)
"""The checks of both commands, in the order of their findings."""
