"""Builders of artifacts, one for each format."""

from __future__ import annotations

from pkgutil import resolve_name

from builder.formats.base import ArtifactBuilder, BuildJob
from tritonkit.repository.build_record import BuildOptions
from tritonkit.runtimes.formats import format_named

__all__ = ["ArtifactBuilder", "BuildJob", "builder_for"]


def builder_for(name: str, options: BuildOptions | None = None, image: str | None = None) -> ArtifactBuilder:
    """The builder of a format. options: of TensorRT. image: the container image to build in."""
    builder: ArtifactBuilder = resolve_name(format_named(name).builder)(options, image)
    return builder
