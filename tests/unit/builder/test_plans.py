"""Built plans: their header, their build record, and the images and GPUs that load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises
from tests.plans import IMAGE, PLAN, build_record
from tests.programs import ROOT
from tritonkit.errors import ArtifactError, InputError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.repository.compatibility import SERVE_COMPATIBLE, plan_problems
from tritonkit.runtimes.tensorrt_plan import plan_header
from tritonkit.triton.releases import DEFAULT_IMAGE, IMAGE_TAG, IMAGE_VARIABLE, image_for, release_of, releases


def record_of(tensorrt: str, **settings: Any) -> BuildRecord:
    return build_record(tensorrt=tensorrt, settings=BuildSettings(max_batch=8, **settings))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (PLAN[:10], "is cut short: 10 bytes"),
        (PLAN[:64], "is cut short: its header says 128 bytes, the file has 64"),
        (b"\x08\x00\x00\x00" + b'{"a": 1}' + PLAN, r"Ultralytics .* begins at byte 12: tail -c \+13"),
        (b"\x08\x07onnx and so on", "is not a TensorRT plan"),
    ],
)
def test_header_error_describes_a_file_that_is_no_complete_plan(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=expected):
        plan_header(path)


def test_header_contains_flavour_and_version(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(PLAN)
    header = plan_header(path)
    assert (header.flavour, header.version, header.bytes) == ("tensorrt", "11.1.0.106", 128)


@pytest.mark.parametrize(
    ("tensorrt", "changed", "image", "severity", "expected", "fix"),
    [
        ("11.2.1.7", {}, IMAGE, "error", "older TensorRT never loads it", "a tag 26.08-py3, or export again"),
        ("10.13.3.9", {}, IMAGE, "error", "not version-compatible", "25.10-py3"),
        ("10.13.3.9", {"version_compatible": True}, IMAGE, "warning", "only with an option", "version-compatible=true"),
        ("11.2.1.7", {"version_compatible": True}, IMAGE, "error", "never loads it", "26.08-py3"),
        ("11.1.0.106", {}, "our/triton:mine", "warning", "not known here", "TRT_VERSION"),
        ("10.99.0.1", {}, IMAGE, "error", "not version-compatible", "--in-container"),
        ("11.1.0.106", {"version_compatible": True}, IMAGE, "warning", "only with an option", SERVE_COMPATIBLE),
    ],
)
def test_plan_is_refused_when_its_tensorrt_does_not_fit_the_image(
    tensorrt: str, changed: dict[str, Any], image: str, severity: str, expected: str, fix: str
) -> None:
    (problem,) = plan_problems(record_of(tensorrt, **changed), image)
    assert problem.severity == severity
    assert expected in problem.message
    assert fix in problem.fix


def test_plan_of_an_unknown_image_still_needs_the_flag_when_it_is_version_compatible() -> None:
    problems = plan_problems(record_of("11.1.0.106", version_compatible=True), "our/triton:mine")
    assert [SERVE_COMPATIBLE in problem.fix for problem in problems] == [True, False]


def test_plan_fits_when_image_and_gpu_are_those_it_was_built_for() -> None:
    assert plan_problems(record_of("11.1.0.106"), IMAGE, "8.9") == []
    assert plan_problems(record_of("11.1.0.106", hardware="ampere_plus"), IMAGE, "12.0") == []
    assert plan_problems(None, IMAGE, "8.9") == []


@pytest.mark.parametrize(("gpu", "count"), [("8.6", 1), ("7.0", 2)])
def test_plan_is_refused_when_the_gpu_is_another(gpu: str, count: int) -> None:
    problems = plan_problems(record_of("11.1.0.106"), IMAGE, gpu)
    assert len(problems) == count
    assert f"the GPU has {gpu}" in problems[-1].message


def test_releases_are_sorted_and_have_sources() -> None:
    rows = releases()
    assert [row.release for row in rows] == sorted(row.release for row in rows)
    assert all(row.source for row in rows)
    assert release_of(f"any/tritonserver:{IMAGE_TAG}") is not None


def test_image_is_read_from_env_file_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "models" / "repository"
    assert image_for(repository) == DEFAULT_IMAGE
    assert DEFAULT_IMAGE in (ROOT / "docker-compose.yml").read_text()
    (tmp_path / ".env").write_text("# ours\nHTTP_PORT=1\n")
    assert image_for(repository) == DEFAULT_IMAGE
    (tmp_path / ".env").write_text(f"TRITON_IMAGE='{IMAGE}'\n")
    assert image_for(repository) == IMAGE
    (tmp_path / ".env").write_bytes(b"OWNER=M\xfcller\n")
    with raises(InputError, "env_file.unreadable", ".env", "TRITON_IMAGE"):
        image_for(repository)
