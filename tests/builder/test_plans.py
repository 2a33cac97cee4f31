"""Built plans: their header, their build record, and the images and GPUs that load them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from builder.repository.lint import check_repository
from builder.repository.manifest import manifest_of
from builder.tensorrt.build import build
from tests.errors import raises
from tritonkit.errors import ArtifactError, InputError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.repository.compatibility import (
    SERVE_COMPATIBLE,
    damage_reason,
    header_problems,
    plan_problems,
    stale_problems,
)
from tritonkit.repository.manifest import Manifest
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE, plan_header
from tritonkit.triton.releases import DEFAULT_IMAGE, IMAGE_TAG, IMAGE_VARIABLE, image_for, release_of, releases

ROOT = Path(__file__).parents[2]
IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"
PLAN = struct.pack("<4s12xQ4B", b"ftrt", 128, 11, 1, 0, 106) + bytes(100)
"""The header of a plan of TensorRT 11.1.0.106, followed by zeros."""


def record_of(tensorrt: str, **changed: Any) -> BuildRecord:
    settings = BuildSettings(max_batch=8, **changed)
    return BuildRecord(
        flavour="tensorrt",
        tensorrt=tensorrt,
        gpu="NVIDIA L4",
        compute_capabilities=("8.9",),
        seconds=1,
        bytes=1,
        sha256="a",
        graph_sha256="b",
        settings=settings,
    )


def manifest_with(record: BuildRecord | None) -> Manifest:
    return Manifest.model_validate(
        {
            "files": {},
            "created": "2026-11-01T00:00:00Z",
            "tools": {},
            "python": "3.11",
            "source": "checkpoint best.safetensors",
            "source_sha256": "c",
            "build": record,
        }
    )


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory, exported_once: Path) -> Path:
    """A repository whose version has an RTX engine next to its graph; tests copy it."""
    repository = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("built") / "repository"))
    folder = repository / "pets" / "1"
    record = build(
        folder / "model.onnx", folder / "model.rtx", BuildSettings(flavour="rtx", max_batch=8), lambda step: None
    )
    (folder / BUILD_FILE).write_text(record.model_dump_json())
    source = folder / "model.onnx"
    (folder / Manifest.FILE).write_text(manifest_of(folder, source, "a test").model_dump_json())
    return repository


@pytest.fixture
def version(built_once: Path, tmp_path: Path) -> Path:
    """A copy of the version with an RTX engine that the test may change."""
    return Path(shutil.copytree(built_once, tmp_path / "own" / "repository")) / "pets" / "1"


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


def test_manifest_of_a_version_with_an_engine_contains_the_build_record(version: Path) -> None:
    manifest = Manifest.read_file(version / Manifest.FILE)
    assert manifest.tensorrt == plan_header(version / "model.rtx").version
    assert manifest.compute_capability == "8.6, 8.9, 12.0"
    assert {"model.rtx", BUILD_FILE} < manifest.files.keys()
    assert check_repository(version.parents[1]) == []
    assert stale_problems(manifest) == []


def test_manifest_without_plan_fields_is_still_read(tiny_repository: Path) -> None:
    path = tiny_repository / "pets" / "1" / Manifest.FILE
    old = {key: value for key, value in json.loads(path.read_text()).items() if key != "build"}
    assert plan_problems(Manifest.model_validate(old).build, IMAGE) == []


def test_check_reports_a_truncated_plan(version: Path) -> None:
    engine = version / "model.rtx"
    engine.write_bytes(engine.read_bytes()[:-1000])
    messages = [finding.message for finding in check_repository(version.parents[1]) if finding.path == str(engine)]
    assert len(messages) == 1
    assert messages[0].startswith("is cut short: its header says")


def test_check_reports_a_plan_when_a_bit_is_flipped(version: Path) -> None:
    engine = version / "model.rtx"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    assert any(finding.code == "repository.changed_file" for finding in check_repository(version.parents[1]))
    assert damage_reason(engine) is None


def test_plan_is_stale_when_it_or_its_graph_changed(version: Path) -> None:
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes() + b" ")
    (version / "model.rtx").write_bytes(b"another")
    manifest = manifest_of(version, version / "model.onnx", "a test")
    messages = [problem.message for problem in stale_problems(manifest)]
    assert messages == [
        "model.rtx is not the plan of the build record: its hash differs",
        "stale plan: model.rtx was built from another graph than model.onnx",
    ]


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


@pytest.mark.parametrize(
    ("header", "severity", "expected"),
    [
        ((b"ftrt", 11, 2), "error", "an older TensorRT never loads it"),
        ((b"ftrt", 10, 13), "error", "not known to be version-compatible"),
        ((b"ftrt", 11, 1), "warning", "no build record"),
        ((b"vtrt", 1, 7), "error", "an engine of TensorRT for RTX"),
    ],
)
def test_check_compares_a_plan_without_a_record_with_the_image(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch, header: tuple[bytes, int, int], severity: str, expected: str
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, IMAGE)
    magic, major, minor = header
    plan = tiny_repository / "pets/1/model.plan"
    plan.write_bytes(struct.pack("<4s12xQ4B", magic, 128, major, minor, 0, 0) + bytes(100))
    (finding,) = check_repository(tiny_repository)
    assert (finding.severity, finding.path) == (severity, str(plan))
    assert expected in finding.message
    assert [problem.message for problem in header_problems(plan, IMAGE)] == [finding.message]


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
    with raises(InputError, "env_file.unreadable") as caught:
        image_for(repository)
    assert ".env" in str(caught.value)
    assert "TRITON_IMAGE" in str(caught.value)
