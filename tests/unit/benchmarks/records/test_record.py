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
        ('{"kind": "tritonkit-benchmark", "schema_version": 4}', "record.newer_version"),
        ('{"kind": "tritonkit-benchmark", "schema_version": 1, "load": 7, "levels": [8]}', "record.invalid"),
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


OLD_LEVEL = {
    "concurrency": 4, "images_per_s": 97.5, "share_of_limit": 0.9, "mean_ms": 41.0, "p50_ms": 40.0, "p90_ms": 50.0,
    "p95_ms": 55.0, "p99_ms": 60.0, "requests": 290, "errors": 0, "first_error": None, "stable": True, "windows": 3,
    "mean_batch": 2.5, "queue_us": 812.0, "client_cores": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_old_records_are_read(record: Record, version: int, tmp_path: Path) -> None:
    document = record.model_dump(mode="json")
    load = {
        "kind": "closed", "concurrency": [4], "batch": 1, "images": 5, "images_source": "x", "window_s": 1.0,
        "max_windows": 3, "warm_up_s": 1.0,
    }  # fmt: skip
    del document["run_id"], document["subject"]["settings"]
    silent = {**OLD_LEVEL, "mean_batch": None, "queue_us": None}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**document, "schema_version": version, "load": load, "levels": [OLD_LEVEL, silent]}))
    old = read_record(path)
    level, without = old.levels
    assert (old.schema_version, old.run_id, old.load.scenario, old.load.transport) == (3, "", "closed", "grpc")
    assert level.server is not None
    assert (level.server.queue_us, level.server.mean_batch, level.server.infer_us) == (812.0, 2.5, None)
    assert (level.client.cores, level.samples, level.histogram, without.server) == (0.25, (), "", None)
