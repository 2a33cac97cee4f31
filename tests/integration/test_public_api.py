"""The public Python API of the shared package and of the builder: typed names that load only what they need."""

from __future__ import annotations

from types import ModuleType

import pytest

import builder
import tritonkit

NAMES = [(package, name) for package in (tritonkit, builder) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_public_name_is_there(package: ModuleType, name: str) -> None:
    assert getattr(package, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        tritonkit.no_such_name  # noqa: B018 - the access itself is tested
