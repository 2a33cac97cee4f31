"""NVIDIA's releases of Triton: what is in each image, and which image serves a repository."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from pathlib import Path

from model.env_file import setting
from model.spec import Frozen

IMAGE_TAG = "26.07-py3"
"""The oldest release of NVIDIA's Triton image without known security faults, which a repository is meant for."""
NEWEST_CVE = "CVE-2026-16497"
"""The newest vulnerability that this release fixes."""
IMAGE_VARIABLE = "TRITON_IMAGE"
DEFAULT_IMAGE = f"nvcr.io/nvidia/tritonserver:{IMAGE_TAG}"
"""What `docker-compose.yml` runs where nothing else is said."""


class Release(Frozen):
    """A release of NVIDIA's Triton image, `YY.MM`, and what is in it; None where that is not known."""

    release: str
    triton: str
    tensorrt: str | None
    cuda: str
    driver: str | None
    """The NVIDIA driver it was made with; data centre GPUs take some older ones."""
    compute_capability: str | None
    """The least it supports."""
    source: str


@cache
def releases() -> tuple[Release, ...]:
    """All known releases, the oldest first."""
    text = resources.files("model").joinpath("releases.json").read_text(encoding="utf-8")
    return tuple(Release.model_validate(row) for row in json.loads(text)["releases"])


def release_of(image: str) -> Release | None:
    """The release of an image or a tag, such as `…/tritonserver:26.07-py3`; None for one that is not listed."""
    found = re.match(r"(\d\d\.\d\d)-py3", image.rpartition(":")[2])
    return next((one for one in releases() if found and one.release == found.group(1)), None)


def image_for(repository: Path) -> str:
    """The image that will serve a repository: TRITON_IMAGE as Docker Compose would read it, or the default.

    Raises InputError for an `.env` that cannot be read.
    """
    return setting(IMAGE_VARIABLE, repository) or DEFAULT_IMAGE
