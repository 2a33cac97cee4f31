"""Check whether the Docker image that serves a repository can load the plan of a new version."""

from __future__ import annotations

from tritonkit.errors import CheckFailedError, Problem
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.compatibility import plan_problems
from tritonkit.system.env_file import ENV_FILE
from tritonkit.triton.releases import IMAGE_VARIABLE


def check_build(record: BuildRecord | None, image: str, force: bool = False) -> list[str]:
    """Check a build record against an image, also before the plan is built; return warnings, none without a record.

    image: the Docker image from `.env`. Raises CheckFailedError where it cannot load the plan, unless `force` is set.
    """
    if record is None or (record.image == image and not record.settings.version_compatible):  # verified in this image
        return []
    problems = plan_problems(record, image)
    messages = [f"{problem.message}; {problem.fix}" for problem in problems]
    errors = [
        Problem(problem.code, message)
        for problem, message in zip(problems, messages, strict=True)
        if problem.severity == "error"
    ]
    if errors and not force:
        reasons = "\n".join(map(str, errors))
        raise CheckFailedError(
            f"the image that serves this repository ({IMAGE_VARIABLE} in {ENV_FILE}, else tritonkit's default) cannot "
            f"load the plan; nothing was published.\n{reasons}\nTo publish it for another server, add --force",
            code="tensorrt.serving_image",
            problems=errors,
        )
    return messages
