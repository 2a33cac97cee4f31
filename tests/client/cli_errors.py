"""The error codes in a command's `--json` document."""

from __future__ import annotations

import json

from typer.testing import Result


def error_codes(result: Result) -> set[str]:
    """Return the code of the error and the codes of its problems."""
    error = json.loads(result.stdout)["error"]
    return {error["code"], *(problem["code"] for problem in error.get("problems", ()))}
