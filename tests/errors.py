"""Assertions on errors: their class and their code, not their sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tritonkit.errors import TritonkitError


@contextmanager
def raises(error: type[TritonkitError], code: str) -> Iterator[pytest.ExceptionInfo[TritonkitError]]:
    """Expect an error of exactly this class, with this code or a problem that has it."""
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error
    assert code in {caught.value.code, *(problem.code for problem in caught.value.problems)}, str(caught.value)
