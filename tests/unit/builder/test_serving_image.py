"""A plan that the serving image cannot load is refused before it is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.formats import BuildJob, builder_for
from builder.formats.tensorrt import Trt
from builder.pipeline import export
from builder.repository.serving_image import check_build
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from tests.errors import raises
from tests.plans import IMAGE, build_record
from tritonkit.errors import CheckFailedError, InputError
from tritonkit.repository.build_record import BuildRecord
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE
from tritonkit.triton.releases import DEFAULT_IMAGE, IMAGE_VARIABLE

NEWER = "nvcr.io/nvidia/tritonserver:26.08-py3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version folder with a plan and the record of its build by TensorRT 11.2."""
    (tmp_path / "model.plan").write_bytes(b"a plan")
    (tmp_path / BUILD_FILE).write_text(build_record(tensorrt="11.2.1.7").model_dump_json())
    return tmp_path


def test_plan_is_refused_when_the_serving_image_cannot_load_it(folder: Path) -> None:
    with raises(CheckFailedError, "tensorrt.serving_image", "TRITON_IMAGE in .env", "--force"):
        check_build(BuildRecord.read(folder), IMAGE)
    (warning,) = check_build(BuildRecord.read(folder), IMAGE, force=True)
    assert "an older TensorRT never loads it" in warning


def test_plan_is_accepted_when_the_image_fits_is_unknown_or_built_it(folder: Path) -> None:
    assert check_build(BuildRecord.read(folder), NEWER) == []
    (warning,) = check_build(BuildRecord.read(folder), "our/triton:mine")
    assert "our/triton:mine" in warning
    built_there = BuildRecord.read_file(folder / BuildRecord.FILE)
    built_there = built_there.model_copy(update={"image": "our/triton:mine"})
    (folder / BUILD_FILE).write_text(built_there.model_dump_json())
    assert check_build(BuildRecord.read(folder), "our/triton:mine") == []
    (folder / BUILD_FILE).unlink()
    assert check_build(BuildRecord.read(folder), IMAGE) == []


def job_of(checkpoint: Path, folder: Path) -> BuildJob:
    source = source_from_checkpoint(checkpoint)
    return BuildJob(source, folder / "model.onnx", "fp16", folder, 4, None, lambda step: None)


def test_plan_is_refused_before_it_is_built_when_the_serving_image_is_older(checkpoint: Path, tmp_path: Path) -> None:
    job = job_of(checkpoint, tmp_path)
    newer = Trt(image=NEWER).expected_build_record(job)
    with pytest.raises(CheckFailedError, match=r"TensorRT 11\.2"):
        check_build(newer, DEFAULT_IMAGE)
    assert check_build(newer, NEWER) == []
    assert check_build(newer, DEFAULT_IMAGE, force=True)


def test_no_record_is_expected_when_triton_serves_no_plan_or_the_image_is_unknown(
    checkpoint: Path, tmp_path: Path
) -> None:
    job = job_of(checkpoint, tmp_path)
    assert Trt(image="our/triton:mine").expected_build_record(job) is None
    assert [builder_for(name).expected_build_record(job) for name in ("onnx", "rtx")] == [None, None]
    assert check_build(None, IMAGE) == []


def test_unreadable_env_file_is_refused_before_the_build(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    (tmp_path / ".env").write_bytes(b"OWNER=M\xfcller\n")
    steps: list[str] = []
    with pytest.raises(InputError, match="TRITON_IMAGE"):
        export(ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=2), steps.append)
    assert not steps
    assert not (tmp_path / "repository").exists()
