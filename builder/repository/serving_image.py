"""Whether the image that serves a repository can load the plan of a version that is to be published there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from model.build_record import BuildRecord
from model.compatibility import plan_problems
from model.env_file import ENV_FILE
from model.errors import CheckFailedError
from model.manifest import Manifest, record_in
from model.releases import IMAGE_VARIABLE


def check_loads(folder: Path, image: str, force: bool = False) -> list[str]:
    """What the image would say to the plan in a version folder; nothing for a version without a plan.

    image: that of `.env`. Raises CheckFailedError where it cannot load the plan, unless forced; ArtifactError for a
    broken record of its build.
    """
    return check_build(record_in(folder), image, force)


def check_build(record: BuildRecord | None, image: str, force: bool = False) -> list[str]:
    """The same for a record, which may be that of a plan still to be built; nothing for None."""
    if record is None or (record.image == image and not record.settings.version_compatible):  # it was proven in there
        return []
    alone = Manifest(
        files={}, created=datetime.now(UTC), tools={}, python="", source="", source_sha256="", build=record
    )
    problems = plan_problems(alone, image)
    told = [f"{one.message}; {one.fix}" for one in problems]
    errors = [text for one, text in zip(problems, told, strict=True) if one.severity == "error"]
    if errors and not force:
        reasons = "\n".join(errors)
        raise CheckFailedError(
            f"the image that serves this repository ({IMAGE_VARIABLE} in {ENV_FILE}, or the kit's default) cannot load "
            f"the plan, nothing was published.\n{reasons}\nTo publish it for another server, add --force"
        )
    return told
