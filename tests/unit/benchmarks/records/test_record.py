from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.environment import read_environment
from benchmarks.records.record import Record, read_record, write_record
from tests.errors import raises
from tritonkit.errors import InputError


def test_a_record_comes_back_as_it_was_written(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    write_record(path, record)
    assert read_record(path) == record
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_record_does_not_change(record: Record) -> None:
    with pytest.raises(ValidationError):
        record.limit_missing = "changed"


def test_the_best_level_is_sound(record: Record) -> None:
    assert record.best.concurrency == 4
    only_unsound = record.model_copy(update={"levels": record.levels[2:]})
    assert only_unsound.best.concurrency == 8


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "record.not_json"),
        ("[]", "record.other_document"),
        ('{"kind": "something"}', "record.other_document"),
        ('{"kind": "tritonkit-benchmark", "schema_version": 3}', "record.newer_version"),
        ('{"kind": "tritonkit-benchmark", "schema_version": 1}', "record.invalid"),
    ],
)
def test_what_is_no_record_is_refused(text: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with raises(InputError, code, str(path)):
        read_record(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with raises(InputError, "record.unreadable"):
        read_record(tmp_path / "none.json")


def test_unknown_fields_are_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({**record.model_dump(mode="json"), "surprise": 1}))
    with raises(InputError, "record.invalid", "surprise"):
        read_record(path)


def test_the_environment_names_this_machine() -> None:
    environment = read_environment(triton="2.51.0")
    assert environment.cpu
    assert environment.cores >= 1
    assert environment.memory_gib > 0
    assert {"numpy", "onnxruntime", "tritonclient"} <= set(environment.packages)
