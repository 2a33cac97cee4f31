"""One page about a run, made from its folder alone: figures, curves, mistakes, what was exported, and the lineage."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from train.engine.run_folder import RunFolder
from train.export import PUBLISHED_FILE, SERVED_FOLDER
from train.reports import run_page
from train.reports.evaluation import RunEvaluation
from tritonkit.checkpoint import read_spec
from tritonkit.errors import TritonkitError
from tritonkit.evaluation.tasks import EVALUATION_TASKS
from tritonkit.evaluation.tasks.heads import HeadsEvaluation
from tritonkit.pages import data_url
from tritonkit.remotes.addresses import public_name, public_text
from tritonkit.repository.artifact_files import VERDICT_PAGE
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import Frozen, ModelSpec
from tritonkit.system.console import warn
from tritonkit.system.files import atomic_write, file_sha256
from tritonkit.yaml_document import Document

_MAX_IMAGE_BYTES = 400_000
_IMAGE_WIDTH = 1440
_MAX_CONFIG = 20_000


class ReportedMetric(Frozen):
    """A metric with its 95 % confidence interval, where there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    """Wilson or bootstrap."""


class RunReport(Frozen):
    """The page about a run, and its main figures."""

    report: Path
    run: Path
    finished: bool
    part: str | None
    """The measured part: test, or val if there is no test part; None before the run is finished."""
    images: int | None
    metrics: dict[str, ReportedMetric]


@contextmanager
def report_at_end(run: RunFolder) -> Iterator[None]:
    """Write the page about the run when the block ends, also after an error. A failure to write it is a warning."""
    try:
        yield
    finally:
        try:
            write_report(run)
        except Exception as error:  # noqa: BLE001 - a report must not end a training
            warn(f"{run.report}: not written: {type(error).__name__}: {error}")


def write_report(run: RunFolder, target: Path | None = None) -> RunReport:
    """Write the page of a run, finished or not; default: `report.html` in its folder.

    Raises ConfigError, DataError or CheckpointError if a file of the run cannot be read.
    """
    target = target or run.report
    files = _RunFiles.read(run)
    page = run_page.render(
        run_page.Contents(
            name=files.name,
            run=str(run.path),
            task=files.task,
            spec=files.spec,
            monitor=files.monitor,
            epochs=files.epochs,
            planned_epochs=files.planned_epochs,
            evaluation=files.evaluation,
            part=files.part,
            metrics=files.metrics,
            val_metrics=files.part_metrics("val") if files.part == "test" else {},
            image_counts=files.image_counts,
            images={name: url for name, path in _images(run, files.evaluation) if (url := _embedded(path)) is not None},
            exports=_exports(run, files, target.parent),
            export_failed=bool(files.config.get("export")) and files.is_finished,
            lineage=_lineage(files),
            config=public_text(files.config_text[:_MAX_CONFIG]),  # the page is sent to others
        )
    )
    with atomic_write(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    intervals = files.evaluation.intervals if files.evaluation else {}
    return RunReport(
        report=target,
        run=run.path,
        finished=files.is_finished,
        part=files.part,
        images=files.evaluation.images if files.evaluation else files.image_counts.get(files.part or ""),
        metrics={
            name: ReportedMetric(value=value, **(intervals[name].model_dump() if name in intervals else {}))
            for name, value in files.metrics.items()
        },
    )


@dataclass
class _RunFiles:
    """What the files of a run say; runs of older versions lack some of them."""

    run: RunFolder
    config: dict[str, Any]
    config_text: str
    epochs: list[dict[str, float]]
    spec: ModelSpec | None
    """Of the best checkpoint; None before the run is finished."""
    evaluation: RunEvaluation | None
    image_counts: dict[str, int] = field(default_factory=dict)
    """Number of images of each part."""

    @classmethod
    def read(cls, run: RunFolder) -> _RunFiles:
        config_file = run.config_file
        config = Document.read(config_file).values
        is_finished = run.checkpoint("best").is_file()
        summary: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            summary = json.loads(run.data_summary.read_text(encoding="utf-8"))
        return cls(
            run=run,
            config=config,
            config_text=config_file.read_text(encoding="utf-8"),
            epochs=run.epochs(),
            spec=read_spec(run.checkpoint("best")) if is_finished else None,
            evaluation=RunEvaluation.read(run.evaluation) if is_finished else None,
            image_counts=summary.get("pictures", {}),
        )

    @property
    def is_finished(self) -> bool:
        return self.spec is not None

    @property
    def name(self) -> str:
        return self.spec.name if self.spec else str(self.config.get("name", self.run.path.parent.name))

    @property
    def task(self) -> str:
        return self.spec.task if self.spec else str(self.config.get("task", "multiclass"))

    @property
    def planned_epochs(self) -> int | None:
        numbers = [self.config.get("epochs"), self.config.get("frozen_epochs", 0)]
        return sum(numbers) if all(isinstance(number, int) for number in numbers) else None

    @property
    def monitor(self) -> str | None:
        """The metric that selects the best epoch; None for an unfinished run of a plug-in's task."""
        if self.evaluation is not None:
            return self.evaluation.monitor
        monitors = {name: task.monitor for name, task in EVALUATION_TASKS.items()}
        return {**monitors, HeadsEvaluation.name: HeadsEvaluation.monitor}.get(self.task)

    @property
    def part(self) -> str | None:
        if self.evaluation is not None:
            return self.evaluation.part
        return next((part for part in ("test", "val") if self.part_metrics(part)), None)

    @property
    def metrics(self) -> Mapping[str, float | None]:
        if self.evaluation is not None:
            return self.evaluation.metrics
        return self.part_metrics(self.part) if self.part else {}

    def part_metrics(self, part: str) -> dict[str, float]:
        """The best network's metrics on a part, as its checkpoint says."""
        metrics = self.spec.lineage.metrics if self.spec else {}
        return {name.removeprefix(f"{part}_"): value for name, value in metrics.items() if name.startswith(f"{part}_")}


def _images(run: RunFolder, evaluation: RunEvaluation | None) -> Iterator[tuple[str, Path]]:
    """The images to embed; the confusion matrices of val only where the report has none of its own."""
    yield "batches", run.batches
    yield "predictions", run.predictions
    if evaluation is None:
        for path in sorted(run.path.glob("confusion*.png")):
            yield path.stem, path


def _embedded(path: Path) -> str | None:
    """A PNG as a data URL, as a smaller JPEG if it is large; None if it cannot be read."""
    try:
        data, kind = path.read_bytes(), "png"
        if len(data) > _MAX_IMAGE_BYTES:
            with Image.open(path) as image:
                image.thumbnail((_IMAGE_WIDTH, 4 * _IMAGE_WIDTH))
                smaller = io.BytesIO()
                image.convert("RGB").save(smaller, "JPEG", quality=80, optimize=True)
            data, kind = smaller.getvalue(), "jpeg"
    except OSError:
        return None
    return data_url(data, kind)


def _exports(run: RunFolder, files: _RunFiles, page_folder: Path) -> list[run_page.Export]:
    """What was exported from the best checkpoint: by the training, or later into the same repository."""
    published: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        published = json.loads((run.path / SERVED_FOLDER / PUBLISHED_FILE).read_text(encoding="utf-8"))
    export = files.config.get("export")
    configured = export.get("repository") if isinstance(export, dict) else None
    repositories = {Path(configured or "model_repository")}
    if "artifact" in published:
        repositories.add(Path(published["artifact"]).parents[2])
    found: dict[Path, run_page.Export] = {}
    manifests = sorted(path for repository in repositories for path in repository.glob(f"*/*/{Manifest.FILE}"))
    digest = file_sha256(run.checkpoint("best")) if manifests and files.is_finished else None
    for path in manifests:
        folder, manifest, verdict = path.parent, Manifest.find(path.parent), Verdict.find(path.parent)
        if manifest is not None and manifest.source_sha256 == digest and verdict is not None:
            found[folder.resolve()] = _export(folder, verdict, page_folder)
    if "artifact" in published and (folder := Path(published["artifact"]).parent).resolve() not in found:
        with suppress(ValueError, KeyError):  # a verdict of another version
            found[folder.resolve()] = _export(folder, Verdict.model_validate(published["verdict"]), page_folder)
    return list(found.values())


def _export(folder: Path, verdict: Verdict, page_folder: Path) -> run_page.Export:
    page = folder / VERDICT_PAGE
    link = quote(os.path.relpath(page.resolve(), page_folder.resolve())) if page.is_file() else None
    return run_page.Export(
        repository=str(folder.parent.parent),
        model=folder.parent.name,
        version=folder.name,
        verdict=verdict,
        page=link,
    )


def _lineage(files: _RunFiles) -> dict[str, str | None]:
    """How the model was made, as rows of a table."""
    lineage = files.spec.lineage if files.spec else None
    fingerprint: str | None = None
    with suppress(TritonkitError, OSError):
        fingerprint = files.run.fingerprint()
    data = files.config.get("data")
    return {
        "Data": public_name(str(data.get("path"))) if isinstance(data, dict) else None,
        "Images": ", ".join(f"{part} {count:,}" for part, count in files.image_counts.items() if count),
        "Data fingerprint": (lineage.data_fingerprint if lineage else None) or fingerprint,
        "Git revision": lineage.git_revision if lineage else None,
        "Seed": str(files.config["seed"]) if "seed" in files.config else None,
        "Parent": lineage.parent if lineage else None,
        "Note": lineage.note if lineage else None,
        "MLflow run": lineage.mlflow_run if lineage else None,
        "Checkpoint": str(files.run.checkpoint("best")) if lineage else None,
    }
