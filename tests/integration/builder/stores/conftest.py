"""Packages to push, and the HTTP store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_store import ModelStore


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A file to push. Stores never look into it, except those of OCI."""
    path = tmp_path / "digits.zip"
    path.write_bytes(os.urandom(3_000_000))
    return path


@pytest.fixture
def other_package(tmp_path: Path) -> Path:
    """A file with other content."""
    path = tmp_path / "other.zip"
    path.write_bytes(os.urandom(2_000_000))
    return path


@pytest.fixture
def model_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelStore]:
    """A running HTTP store without a token."""
    monkeypatch.delenv("TRITONKIT_STORE_TOKEN", raising=False)
    store = ModelStore(tmp_path / "store")
    store.start()
    yield store
    store.kill()
