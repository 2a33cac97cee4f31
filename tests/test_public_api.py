"""The public Python API of the shared package: typed names that load only what they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tritonkit


@pytest.mark.parametrize("name", tritonkit.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(tritonkit, name).__name__ == name


def test_import_of_the_package_loads_no_library() -> None:
    code = "import tritonkit, sys; print({'numpy', 'PIL', 'pydantic', 'torch', 'tritonclient'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        tritonkit.no_such_name  # noqa: B018 - the access itself is tested
