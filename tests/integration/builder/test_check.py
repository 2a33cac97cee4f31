"""`builder check` reports what Triton would refuse, and what it would serve with wrong outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from builder.repository.lint import check_repository
from builder.repository.publish import staging
from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.repository.finding import Finding
from tritonkit.repository.staging import staging_folder


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def flip_a_weight(path: Path) -> None:
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(-np.array(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, path)


def errors(findings: list[Finding]) -> str:
    return "\n".join(
        f"{finding.code} {finding.path}: {finding.message}" for finding in findings if finding.severity == "error"
    )


def test_check_reports_nothing_when_the_repository_is_valid(tiny_repository: Path) -> None:
    assert check_repository(tiny_repository) == []


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda m: (m / "config.pbtxt").unlink(), "cannot be read"),
        (lambda m: replace_in(m / "config.pbtxt", "max_batch_size", "max_batch_sise"), "not a Triton model config"),
        (lambda m: replace_in(m / "config.pbtxt", "dims: 32", "dims: 31"), "repository.graph_interface"),
        (lambda m: replace_in(m / "config.pbtxt", "dims: 32", "dims: 31"), "repository.config_interface"),
        (lambda m: replace_in(m / "config.pbtxt", "dims: 32", "dims: -1"), "dims [-1, -1, 3]; expected"),
        (lambda m: replace_in(m / "config.pbtxt", "data_type: TYPE_UINT8", ""), "'image' has no data_type and dims"),
        (lambda m: replace_in(m / "config.pbtxt", 'name: "probabilities"', 'name: "scores"'), "scores FP32 [N, 3]"),
        (lambda m: replace_in(m / "config.pbtxt", 'name: "pets"', 'name: "cars"'), "repository.config_name"),
        (lambda m: replace_in(m / "labels.txt", "cat", "cow"), "repository.labels_differ"),
        (lambda m: replace_in(m / "model.json", '"cat"', '"cow"'), "repository.spec_differs"),
        (lambda m: (m / "model.json").write_text("{"), "repository.unreadable_spec"),
        (lambda m: (m / "1/model.onnx").unlink(), "repository.no_artifact"),
        (lambda m: (m / "1/model.onnx").write_bytes(b"onnx"), "repository.changed_file"),
        (lambda m: flip_a_weight(m / "1/model.onnx"), "repository.changed_file"),
        (lambda m: (m / "1/verdict.json").write_text("{}"), "repository.changed_file"),
        (lambda m: (m / "1/manifest.json").write_text("["), "repository.unreadable_manifest"),
        (lambda m: (m / "1").rename(m / "v1"), "repository.no_version"),
    ],
)
def test_check_reports_each_kind_of_damage(
    tiny_repository: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(tiny_repository / "pets")
    assert expected in errors(check_repository(tiny_repository))


@pytest.mark.parametrize(("old", "new"), [("dims: 32", "dims: -1"), ("data_type: TYPE_UINT8", "")])
def test_check_reports_a_dynamic_tensor_of_the_configuration_once(tiny_repository: Path, old: str, new: str) -> None:
    replace_in(tiny_repository / "pets/config.pbtxt", old, new)
    (finding,) = check_repository(tiny_repository)
    assert finding.path == str(tiny_repository / "pets/config.pbtxt")


def test_check_warns_of_leftovers_and_stray_folders(tiny_repository: Path) -> None:
    (staging_folder(tiny_repository) / "pets-1234").mkdir(parents=True)
    (tiny_repository / "pets" / "02").mkdir()
    findings = check_repository(tiny_repository)
    assert not errors(findings)
    assert {finding.code for finding in findings} == {"repository.leftover", "repository.ignored_folder"}


def test_check_reports_no_leftovers_while_a_builder_runs(tiny_repository: Path) -> None:
    with staging(tiny_repository) as folder:
        (folder / "pets-1234").mkdir()
        assert check_repository(tiny_repository) == []


def test_check_reports_all_models_at_once(tiny_repository: Path) -> None:
    for name in ("a", "b"):
        (tiny_repository / name).mkdir()
        (tiny_repository / name / "config.pbtxt").write_text("name: ")
    assert errors(check_repository(tiny_repository)).count("config_pbtxt.syntax") == 2


def test_check_refuses_a_missing_repository(tmp_path: Path) -> None:
    with raises(InputError, "repository.missing"):
        check_repository(tmp_path / "nowhere")
