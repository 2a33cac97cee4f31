"""Write the files next to an artifact in its version folder: verdict, golden images, spec and manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from builder.fallback import BuildAttempt
from builder.repository.manifest import manifest_of
from builder.sources.base import Source
from builder.verification.context import VerificationContext
from builder.verification.report import VERDICT_PAGE, write_page
from builder.verification.report_images import ReportAnswers, collect_answers
from tritonkit.comparison import PROBES
from tritonkit.golden import GOLDEN_FILE
from tritonkit.repository.verdict import Verdict


@dataclass(frozen=True)
class VersionFiles:
    """The files that describe an artifact: what it is, and how it was verified."""

    source: Source
    attempt: BuildAttempt
    verdict: Verdict
    context: VerificationContext
    serving_image: str
    """The Triton image that serves the repository."""

    @cached_property
    def _answers(self) -> ReportAnswers:
        context, runner = self.context, self.attempt.verified.runner
        return collect_answers(context.reference, runner, context.golden, context.max_batch, context.preferred)

    def write_page(self, path: Path) -> None:
        """Write the verdict as an HTML page, also for a model that is not published."""
        facts = {"Source": self.source.description, "Artifact": self.attempt.artifact.name}
        write_page(path, self.source.spec.name, self.verdict, self._answers, facts)

    def write_version(self, folder: Path) -> None:
        """Write the files next to the artifact. The manifest comes last, because it hashes the others."""
        probed = next((answers.expected for answers in self._answers.batches if answers.inputs.name == PROBES), {})
        replace(self.context.golden, outputs=self._answers.expected, probe_outputs=probed).save(folder / GOLDEN_FILE)
        self.verdict.write(folder)
        self.write_page(folder / VERDICT_PAGE)
        self.context.spec.write(folder)
        manifest = manifest_of(folder, self.source.path, self.source.description)
        if manifest.build is None or manifest.build.image is None:  # a plan is for the image that it was built in
            manifest = manifest.model_copy(update={"triton_image": self.serving_image.rpartition(":")[2]})
        manifest.write(folder)
