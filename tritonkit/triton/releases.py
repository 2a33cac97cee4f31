"""NVIDIA's releases of Triton: the versions in each image, and the image that serves a repository."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from pathlib import Path

from tritonkit.spec import Frozen
from tritonkit.system.env_file import setting

IMAGE_TAG = "26.07-py3"
"""The oldest release of NVIDIA's Triton image without known vulnerabilities; the default target of a repository."""
NEWEST_CVE = "CVE-2026-16497"
"""The newest vulnerability that IMAGE_TAG fixes."""
IMAGE_VARIABLE = "TRITON_IMAGE"
DEFAULT_IMAGE = f"nvcr.io/nvidia/tritonserver:{IMAGE_TAG}"
"""The default image of `docker-compose.yml`."""


class Release(Frozen):
    """A release of NVIDIA's Triton image, `YY.MM`, and the versions in it; None if unknown."""

    release: str
    triton: str
    tensorrt: str | None
    cuda: str
    driver: str | None
    """The NVIDIA driver it was built with; data centre GPUs also work with some older drivers."""
    compute_capability: str | None
    """The lowest supported compute capability."""
    source: str


@cache
def releases() -> tuple[Release, ...]:
    """Return all known releases, the oldest first."""
    text = resources.files("tritonkit.triton").joinpath("releases.json").read_text(encoding="utf-8")
    return tuple(Release.model_validate(row) for row in json.loads(text)["releases"])


def release_of(image: str) -> Release | None:
    """Return the release of an image or a tag, such as `…/tritonserver:26.07-py3`; None if it is not listed."""
    match = re.match(r"(\d\d\.\d\d)-py3", image.rpartition(":")[2])
    return next((release for release in releases() if match and release.release == match.group(1)), None)


def image_for(repository: Path) -> str:
    """Return the image that will serve a repository: TRITON_IMAGE by the rules of Docker Compose, or the default.

    Raises InputError for an `.env` that cannot be read.
    """
    return setting(IMAGE_VARIABLE, repository) or DEFAULT_IMAGE
