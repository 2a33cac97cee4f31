"""The public Python API of the shared package and of the builder: typed names that load only what they need."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import builder
import tritonkit

NAMES = [(package, name) for package in (tritonkit, builder) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_public_name_is_there(package: ModuleType, name: str) -> None:
    assert getattr(package, name).__name__ == name


def test_import_of_the_packages_loads_no_library() -> None:
    libraries = {"numpy", "PIL", "pydantic", "torch", "tritonclient"}
    code = f"import builder, tritonkit, sys; print({libraries} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        tritonkit.no_such_name  # noqa: B018 - the access itself is tested
