"""A published ONNX file is a source only if it is unchanged and its verdict passed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from builder.pipeline import export
from builder.request import ExportRequest
from builder.sources import open_source
from tests.errors import raises
from tests.fixture_types import Command
from tritonkit.errors import ArtifactError
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.system.files import file_sha256


@pytest.fixture
def graph(tiny_repository: Path) -> Path:
    """The graph of a published version."""
    return tiny_repository / "pets/1/model.onnx"


def flip_in_weights(graph: Path) -> None:
    """Flip the highest bit of an exponent, as a memory or disk error would; ONNX has no checksum."""
    weights = {tensor.name: tensor.raw_data for tensor in onnx.load(graph).graph.initializer}
    content = bytearray(graph.read_bytes())
    place = content.index(weights["backbone.fc.weight"]) + 3
    content[place] ^= 0x40
    graph.write_bytes(content)
    onnx.checker.check_model(onnx.load(graph))


def test_tritonkit_file_is_refused_when_a_bit_of_its_weights_flipped(
    graph: Path, command: Command, tmp_path: Path
) -> None:
    flip_in_weights(graph)
    result = command("builder", "export", graph, "--openvino", "fp32", "--repository", tmp_path / "new", "--force")
    assert result.exit_code == 2
    with raises(ArtifactError, "artifact.changed"):
        open_source(graph, None, None)
    assert not (tmp_path / "new").exists()


def test_tritonkit_file_is_refused_when_it_does_not_reproduce_the_recorded_outputs(graph: Path) -> None:
    (graph.parent / Manifest.FILE).unlink()
    assert open_source(graph, None, None).golden is not None
    flip_in_weights(graph)
    with raises(ArtifactError, "golden.outputs_differ"):
        open_source(graph, None, None)


@pytest.mark.parametrize("name", [Verdict.FILE, GOLDEN_FILE])
def test_tritonkit_file_is_refused_when_its_verdict_or_sample_changed_or_is_missing(graph: Path, name: str) -> None:
    (graph.parent / name).write_bytes((graph.parent / name).read_bytes() + b" ")
    with raises(ArtifactError, "artifact.changed", f"{name}: "):
        open_source(graph, None, None)
    (graph.parent / name).unlink()
    with raises(ArtifactError, "artifact.changed"):
        open_source(graph, None, None)


def test_tritonkit_file_is_refused_when_it_was_published_with_force(
    checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    request = ExportRequest(
        source=checkpoint,
        repository=tmp_path / "repository",
        max_batch=4,
        force=True,
        limit=["fp32.max_abs=0", "fp32.relative=0"],
    )
    forced = export(request)
    assert forced.verdict.forced
    result = command("builder", "verify", forced.artifact, "--against", forced.artifact)
    assert result.exit_code == 2
    assert "checkpoint pets.safetensors" in " ".join(result.stderr.split())
    with raises(ArtifactError, "artifact.forced"):
        open_source(forced.artifact, None, None)


def test_reduced_tritonkit_file_is_verified_by_the_limits_of_its_verdict(checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=4, onnx="fp16")
    result = export(request)
    assert open_source(result.artifact, None, None).precision == result.verdict.precision == "fp16"
    path = result.artifact.parent / Verdict.FILE
    strict = Verdict.model_validate_json(path.read_bytes())
    (result.artifact.parent / Manifest.FILE).unlink()
    assert open_source(result.artifact, None, None).precision == strict.precision


def test_tritonkit_file_is_accepted_when_hashes_match_and_this_cpu_computes_differently(graph: Path) -> None:
    path = graph.parent / GOLDEN_FILE
    golden = Golden.load(path)
    Golden(golden.images, {name: array[::-1] for name, array in golden.outputs.items()}).save(path)
    record = graph.parent / Manifest.FILE
    manifest = json.loads(record.read_bytes())
    manifest["files"][GOLDEN_FILE]["sha256"] = file_sha256(path)
    record.write_text(json.dumps(manifest))
    assert open_source(graph, None, None).golden is not None


def test_golden_sample_of_another_model_is_refused(graph: Path, tmp_path: Path) -> None:
    copied_graph = Path(shutil.copy(graph, tmp_path / "alone.onnx"))
    assert open_source(copied_graph, None, None).golden is None
    golden = Golden.load(graph.parent / GOLDEN_FILE)
    smaller = np.ascontiguousarray(golden.images[:, :16, :16])
    Golden(smaller, golden.outputs).save(tmp_path / GOLDEN_FILE)
    with raises(ArtifactError, "golden.other_model"):
        open_source(copied_graph, None, None)


def test_outputs_recorded_in_training_may_differ_slightly(graph: Path, tmp_path: Path) -> None:
    copied_graph = Path(shutil.copy(graph, tmp_path / "alone.onnx"))
    golden = Golden.load(graph.parent / GOLDEN_FILE)
    nearly = {name: array * np.float32(1.001) for name, array in golden.outputs.items()}
    Golden(golden.images, nearly).save(tmp_path / GOLDEN_FILE)
    assert open_source(copied_graph, None, None).golden is not None


def test_tritonkit_file_is_accepted_when_the_manifest_belongs_to_other_files(graph: Path) -> None:
    model = onnx.load(graph)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).copy(), tensor.name))
    onnx.save(model, graph.with_name("mine.onnx"))
    assert open_source(graph.with_name("mine.onnx"), None, None).golden is not None
