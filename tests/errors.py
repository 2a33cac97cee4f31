"""Assertions on errors: their class and their codes, not their sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from typer.testing import Result

from tritonkit.errors import TritonkitError


@contextmanager
def raises(error: type[TritonkitError], code: str, *parts: str) -> Iterator[pytest.ExceptionInfo[TritonkitError]]:
    """Expect an error of exactly this class, with this code or a problem that has it, and parts of its message."""
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error
    assert code in {caught.value.code, *(problem.code for problem in caught.value.problems)}, str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def error_codes(result: Result) -> set[str]:
    """Return the codes in a command's `--json` document: of the error and of its problems."""
    error = json.loads(result.stdout)["error"]
    return {error["code"], *(problem["code"] for problem in error.get("problems", ()))}
