"""The files of a version folder are read and written through one type each."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.repository.versions import Mark
from tests.errors import raises
from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.tuning.record import TuningRecord
from tritonkit.repository.verdict import Verdict


def test_a_file_that_was_written_is_read_again_and_leaves_its_hard_links_alone(tmp_path: Path) -> None:
    first = Mark(note="first", marked=datetime.now(UTC))
    assert Mark.read(tmp_path) is None
    first.write(tmp_path)
    (tmp_path / "link").hardlink_to(tmp_path / Mark.FILE)
    first.model_copy(update={"note": "second"}).write(tmp_path)
    written = Mark.read(tmp_path)
    assert (written and written.note, Mark.read_file(tmp_path / "link")) == ("second", first)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Manifest, "repository.unreadable_manifest"),
        (Verdict, "repository.unreadable_verdict"),
        (BuildRecord, "build.record"),
        (Mark, "repository.mark"),
        (TuningRecord, "repository.unreadable_tuning"),
    ],
)
def test_a_damaged_file_is_refused_with_its_code(tmp_path: Path, kind: type[RepositoryFile], code: str) -> None:
    (tmp_path / kind.FILE).write_text("{")
    with raises(ArtifactError, code, str(tmp_path / kind.FILE)):
        kind.read(tmp_path)
    assert kind.find(tmp_path) is None


def test_a_file_of_a_newer_version_is_refused_with_the_fields_it_adds(tmp_path: Path) -> None:
    mark = Mark(marked=datetime.now(UTC)).model_dump(mode="json")
    (tmp_path / Mark.FILE).write_text(json.dumps({**mark, "until": "2030"}))
    with raises(ArtifactError, "repository.newer_file", "until; upgrade tritonkit"):
        Mark.read(tmp_path)
