"""Package the latest finished training run of a group: the artifacts, a package of each, and `meta.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from builder.packages.files import link_or_copy, scratch_folder
from builder.packages.writing import write_package
from builder.pipeline import PublishedVersion, export
from builder.request import ExportRequest
from tritonkit.checkpoint import read_spec
from tritonkit.errors import ArtifactError, InputError, TritonkitError
from tritonkit.export_options import ExportOptions
from tritonkit.options import options_from
from tritonkit.repository.artifact_files import artifact_files
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.manifest import FileEntry
from tritonkit.spec import Frozen, ModelSpec, TensorSpec
from tritonkit.system.files import file_sha256
from tritonkit.system.standard_streams import warn

_CHECKPOINT = "best.safetensors"
"""A run has it when it is finished."""


class ExperimentFile(FileEntry):
    """A file of a packaged experiment, and the verdict of its artifact."""

    format: str
    precision: str
    verdict: str


class ExperimentMeta(RepositoryFile):
    """The content of `meta.json`: a run, and what was made from it."""

    FILE: ClassVar[str] = "meta.json"

    group: str
    run: Path
    checkpoint_sha256: str
    finished: datetime
    model: str
    metrics: dict[str, float]
    """Of the best epoch."""
    labels: dict[str, tuple[str, ...]]
    """By head; of a model with one task under its name."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    files: dict[str, ExperimentFile] = {}

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a file that cannot be read."""
        return ArtifactError(f"{path}: cannot be read ({reason}); package the run again", code="package.meta")


class Run(Frozen):
    """A finished run: its checkpoint and its spec."""

    checkpoint: Path
    spec: ModelSpec

    @property
    def finished(self) -> float:
        """When the checkpoint was written, in seconds since 1970."""
        return self.checkpoint.stat().st_mtime


def package_experiment(
    group: str,
    runs: Path,
    output: Path | None,
    formats: Mapping[str, Any],
    report: Callable[[str], None] = lambda step: None,
) -> tuple[Path, ExperimentMeta]:
    """Export the latest finished run of a group, and write artifacts, packages and `meta.json` into a new folder.

    output: the folder; None is NAME-RUN in the current one. formats: options of `builder export` that choose a format,
    such as {"onnx": "fp16"}; empty takes the section `export` of the run, else ONNX in fp32.

    All or nothing: where one format cannot be built or fails its verdict, nothing is written. Raises InputError for an
    unknown group or an output that is not empty, and what `builder.pipeline.export` raises.
    """
    run = latest_run(group, runs)
    folder = run.checkpoint.parent
    output = output or Path(f"{run.spec.name}-{folder.name}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists; choose another --output", code="package.output_exists")
    report(f"packaging run {folder}")
    meta = ExperimentMeta(
        group=group,
        run=folder,
        checkpoint_sha256=file_sha256(run.checkpoint),
        finished=datetime.fromtimestamp(run.finished, UTC),
        model=run.spec.name,
        metrics=run.spec.lineage.metrics,
        labels={name: task.labels for name, task in (run.spec.heads or {run.spec.task: run.spec}).items()},
        input=run.spec.input,
        outputs=run.spec.outputs,
    )
    with scratch_folder(output) as scratch:
        content = scratch / "content"
        content.mkdir()
        for number, options in enumerate(_export_options(run, formats)):
            request = ExportRequest(source=run.checkpoint, repository=scratch / str(number), **options)
            meta = _add(meta, content, export(request, report))
        meta.write(content)
        output.mkdir(parents=True, exist_ok=True)
        content.rename(output)
    return output, meta


def latest_run(group: str, runs: Path) -> Run:
    """The run of a group that finished last; if no run has the group, of those with this name.

    runs: the output folder of trainings, with runs in NAME/NUMBER. Only the headers of checkpoints are read. Raises
    InputError where there is none.
    """
    found = []
    for path in sorted(runs.glob(f"*/*/{_CHECKPOINT}")):
        try:
            found.append(Run(checkpoint=path, spec=read_spec(path)))
        except TritonkitError as error:
            warn(f"warning: {error}")
    matching = [run for run in found if run.spec.lineage.group == group]
    matching = matching or [run for run in found if run.checkpoint.parent.parent.name == group]
    if not matching:
        groups = sorted({run.spec.lineage.group or run.checkpoint.parent.parent.name for run in found})
        raise InputError(
            f"{runs}: no finished run of group {group!r}; it has {', '.join(groups) or 'no finished run'}. --runs "
            "names the folder of the runs",
            code="package.no_run",
        )
    return max(matching, key=lambda run: (run.finished, run.checkpoint))


def _export_options(run: Run, formats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each export: the requested formats, else the section `export` of the run, else the defaults."""
    section = run.spec.lineage.config.get("export") or {}
    options = options_from(ExportOptions, section if isinstance(section, dict) else {})
    recorded: dict[str, Any] = options.model_dump(exclude_defaults=True, exclude={"repository", "keep", "report"})
    if not formats:
        return [recorded]
    kept: dict[str, Any] = {name: recorded[name] for name in ("name", "max_batch", "encoded") if name in recorded}
    return [dict(kept, **{name: value}) for name, value in formats.items()]


def _add(meta: ExperimentMeta, content: Path, published: PublishedVersion) -> ExperimentMeta:
    """Add an artifact and its package to the folder of an experiment."""
    verdict, folder, files = published.verdict, published.artifact.parent, dict(meta.files)
    kind = f"{verdict.format}-{verdict.precision}"
    package = write_package(folder.parent, published.version, content / f"{published.model}-{kind}.zip")
    for path in (package, *artifact_files(folder)):
        if path is not package:
            link_or_copy(path, content / path.name)
        files[path.name] = ExperimentFile(
            sha256=file_sha256(path),
            bytes=path.stat().st_size,
            format=verdict.format,
            precision=verdict.precision,
            verdict=verdict.state,
        )
    return meta.model_copy(update={"files": files, "model": published.model})
