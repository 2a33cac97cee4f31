"""What the commands of `builder` print of a published version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonkit.system.console import print_text, quality_tables

if TYPE_CHECKING:
    from builder.repository.published import PublishedVersion


def print_published(published: PublishedVersion, *details: str) -> None:
    """Print the verdict, the details of the command, warnings, and where the version is."""
    verdict = published.verdict
    state = "PUBLISHED ALTHOUGH THE VERDICT FAILED" if verdict.forced else "verdict passed"
    print_text(f"{state}: {verdict.summary()}")
    quality_tables({measured: metrics for measured, metrics in verdict.quality.items() if " on " in measured})
    for detail in details:
        print_text(detail)
    if published.retention is not None:
        print_text(published.retention.summary())
    for warning in published.warnings:
        print_text(f"warning: {warning}")
    print_text(f"published: {published.artifact}")
    if published.served:
        print_text(f"Load it into a running server with: server reload {' '.join(published.models)}")
