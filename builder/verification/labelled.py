"""Measure quality on a labelled data set (`--data`), which is larger than the golden sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from builder.sources.base import Source
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import TORCHSCRIPT, format_named, format_of, is_plan

if TYPE_CHECKING:
    from tritonkit.evaluation.evaluate import Evaluation, LabelledImages

_NOT_MEASURABLE = {"verdict.nan", "verdict.interface", "verdict.batch"}
"""Problems of an artifact whose outputs cannot be measured."""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images, and the source whose quality artifacts must keep."""

    source: Source
    data: Path | str
    masks: Path | str | None = None

    @classmethod
    def read(cls, source: Source, data: Path | str | None, masks: Path | str | None) -> LabelledSet | None:
        """The set of `--data`, with its images checked; None without the option. Raises DataError."""
        if data is None:
            return None
        labelled = cls(source, data, masks)
        _ = labelled.images
        return labelled

    @cached_property
    def images(self) -> LabelledImages:
        """The images, read and checked once. Raises DataError for images that do not fit the model."""
        from tritonkit.evaluation.evaluate import LabelledImages

        return LabelledImages.read(self.data, self.source.spec, self.masks)

    @cached_property
    def reference(self) -> Evaluation:
        """The source's quality, measured once."""
        return self.images.evaluate(self.source.reference)

    def with_quality(self, verdict: Verdict, artifact: Path) -> Verdict:
        """Add the quality of source and artifact to the verdict; the verdict fails where too much is lost.

        artifact: a file that opens as a runner here. An artifact without valid outputs is not measured. Where the
        graph is measured in place of a plan, the verdict says so. The caller has built the file, or has opened it with
        the check whether it is trusted.
        """
        from tritonkit.evaluation.evaluate import quality_problems

        if _NOT_MEASURABLE & {problem.code for problem in verdict.problems}:
            return verdict
        if is_plan(artifact):  # its spec is published later
            from tritonkit.runtimes.tensorrt import TensorRtRunner

            build = BuildRecord.find(artifact.parent)
            compatible = build is not None and build.settings.version_compatible
            runner: Runner = TensorRtRunner(artifact, self.source.spec, compatible)
        elif format_of(artifact) is TORCHSCRIPT:
            from tritonkit.runtimes.torchscript import TorchScriptRunner

            runner = TorchScriptRunner(artifact, trusted=True)
        else:
            runner = open_artifact(artifact)
        with runner:
            after = self.images.evaluate(runner)
        record = format_named(verdict.format)
        data, proven_by = f"{after.images} pictures of {self.images.data}", verdict.proven_by
        if record.flavour is not None and not is_plan(artifact):
            data += f" (its graph was run in place of {record.file})"
            note = f"on the labelled images its graph was run, not {record.file}"
            proven_by = f"{proven_by}; {note}" if proven_by else note
        measured = {
            f"checkpoint on {data}": self.reference.measured_metrics(),
            f"artifact on {data}": after.measured_metrics(),
        }
        problems = (*verdict.problems, *quality_problems(self.reference, after, verdict.limits))
        quality = {**verdict.quality, **measured}
        return verdict.model_copy(
            update={"quality": quality, "proven_by": proven_by, "problems": problems, "passed": not problems}
        )
