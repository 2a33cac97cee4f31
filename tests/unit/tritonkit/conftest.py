"""Parts of a spec."""

from __future__ import annotations

import pytest

from tritonkit.spec import ModelSpec


@pytest.fixture
def document(spec: ModelSpec) -> dict[str, object]:
    """The spec as the JSON object it travels as."""
    return spec.model_dump(mode="json")
