"""Built plans: their header, their build record, and the images and GPUs that load them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from builder.pipeline import export
from builder.repository.lint import check_repository
from builder.repository.manifest import manifest_of
from builder.request import ExportRequest
from builder.tensorrt.build import build
from tests.plans import IMAGE
from tritonkit.repository.artifact_files import artifact_files, artifact_sha256
from tritonkit.repository.build_record import BuildSettings
from tritonkit.repository.compatibility import damage_reason, header_problems, plan_problems, stale_problems
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE, plan_header
from tritonkit.triton.releases import IMAGE_VARIABLE


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory, exported_once: Path) -> Path:
    """A repository whose version has an RTX engine next to its graph; tests copy it."""
    repository = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("built") / "repository"))
    folder = repository / "pets" / "1"
    record = build(
        folder / "model.onnx", folder / "model.rtx", BuildSettings(flavour="rtx", max_batch=8), lambda step: None
    )
    (folder / BUILD_FILE).write_text(record.model_dump_json())
    identity = {"artifact_sha256": artifact_sha256(artifact_files(folder))}
    Verdict.read_file(folder / Verdict.FILE).model_copy(update=identity).write(folder)
    source = folder / "model.onnx"
    (folder / Manifest.FILE).write_text(manifest_of(folder, source, "a test").model_dump_json())
    return repository


@pytest.fixture
def version(built_once: Path, tmp_path: Path) -> Path:
    """A copy of the version with an RTX engine that the test may change."""
    return Path(shutil.copytree(built_once, tmp_path / "own" / "repository")) / "pets" / "1"


def test_manifest_of_a_version_with_an_engine_contains_the_build_record(version: Path) -> None:
    manifest = Manifest.read_file(version / Manifest.FILE)
    assert manifest.tensorrt == plan_header(version / "model.rtx").version
    assert manifest.compute_capability == "8.6, 8.9, 12.0"
    assert {"model.rtx", BUILD_FILE} < manifest.files.keys()
    assert check_repository(version.parents[1]) == []
    assert stale_problems(manifest) == []


def test_manifest_names_the_image_of_env(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, IMAGE)
    published = export(ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=2))
    assert Manifest.read_file(published.artifact.with_name(Manifest.FILE)).triton_image == "26.07-py3"


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
    unproven, finding = sorted(check_repository(tiny_repository), key=lambda found: found.path == str(plan))
    assert unproven.code == "repository.other_verdict"  # the verdict is about a version without a plan
    assert (finding.severity, finding.path) == (severity, str(plan))
    assert expected in finding.message
    assert [problem.message for problem in header_problems(plan, IMAGE)] == [finding.message]
