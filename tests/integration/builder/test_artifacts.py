"""Inspection of artifacts, for `builder show` and for the comparison with their configuration."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from builder.artifacts import inspect_artifact
from builder.formats import BuildJob, builder_for
from builder.interface import interface_of
from builder.onnx.interface import onnx_interface
from builder.precision.cast import cast_graph
from builder.repository.lint import check_repository
from builder.show import show
from builder.sources.base import NetworkSource
from tests.errors import raises
from tests.fixture_types import Command, MakeNetwork
from tests.plans import IMAGE, PLAN, build_record
from tritonkit.errors import ArtifactError
from tritonkit.repository.finding import Finding
from tritonkit.runtimes.formats import BUILT_IN
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE
from tritonkit.spec import ModelSpec
from tritonkit.triton.releases import IMAGE_VARIABLE

BACKENDS = {".onnx": "onnxruntime", ".xml": "openvino", ".pt": "pytorch", ".plan": "tensorrt"}


@pytest.fixture(scope="session")
def artifacts_once(tmp_path_factory: pytest.TempPathFactory, exported_once: Path, make_network: MakeNetwork) -> Path:
    """One artifact of each kind, of the same network."""
    folder = tmp_path_factory.mktemp("artifacts")
    network = make_network("test_resnet")
    shutil.copy(exported_once / "pets/1/model.onnx", folder)
    job = BuildJob(
        NetworkSource(folder / "model.onnx", None, "a test", network),
        folder / "model.onnx",
        "fp32",
        folder,
        8,
        None,
        lambda step: None,
    )
    names: tuple[str, ...] = ("openvino", "torchscript")
    for name in names:
        builder_for(name).write(job)
    (folder / "model.plan").write_bytes(PLAN)
    (folder / BUILD_FILE).write_text(
        build_record(inputs=(network.spec.input,), outputs=network.spec.outputs).model_dump_json()
    )
    return folder


@pytest.fixture
def artifacts(artifacts_once: Path, tmp_path: Path) -> Path:
    """A copy of the artifacts that the test may change."""
    return Path(shutil.copytree(artifacts_once, tmp_path / "1"))


@pytest.fixture
def published(artifacts: Path, tiny_repository: Path) -> Callable[[str], Path]:
    """A function that publishes the artifact with a suffix in the test repository."""

    def publish(suffix: str) -> Path:
        for name in {".xml": ("model.xml", "model.bin"), ".plan": ("model.plan", BUILD_FILE)}.get(
            suffix, (f"model{suffix}",)
        ):
            shutil.copy(artifacts / name, tiny_repository / "pets/1")
        replace_in(tiny_repository / "pets/config.pbtxt", '"onnxruntime"', f'"{BACKENDS[suffix]}"')
        replace_in(tiny_repository / "pets/config.pbtxt", '"model.onnx"', f'"model{suffix}"', at_least=0)
        return tiny_repository

    return publish


def replace_in(path: Path, old: str, new: str, at_least: int = 1) -> None:
    text = path.read_text()
    assert text.count(old) >= at_least
    path.write_text(text.replace(old, new))


def damage_output_name(path: Path) -> None:
    """Damage the first byte of the name of an ONNX file's output; in protobuf its length stands before it."""
    content = path.read_bytes()
    assert b"\x0a\x0dprobabilities" in content
    path.write_bytes(content.replace(b"\x0a\x0dprobabilities", b"\x0a\x0d\xe9robabilities"))


def findings_of(repository: Path, suffix: str) -> list[Finding]:
    return [finding for finding in check_repository(repository) if finding.path.endswith(f"1/model{suffix}")]


@pytest.mark.parametrize("suffix", BACKENDS)
def test_inspection_reads_the_interface_of_an_artifact(artifacts: Path, spec: ModelSpec, suffix: str) -> None:
    info = inspect_artifact(artifacts / f"model{suffix}")
    assert info.interface == interface_of(spec)
    if suffix != ".plan":
        assert info.spec == spec


@pytest.mark.parametrize("suffix", [known.suffix for known in BUILT_IN])
def test_damaged_artifact_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    with raises(ArtifactError, "artifact.missing", path.name):
        inspect_artifact(path)
    path.write_bytes(b"\x00damaged")
    with pytest.raises(ArtifactError, match=f"model{suffix}: "):
        inspect_artifact(path)


def test_torchscript_archive_is_refused_by_name_when_its_spec_cannot_be_unpacked(artifacts: Path) -> None:
    path = artifacts / "model.pt"
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir + next(at for at, name in enumerate(archive.namelist()) if "/extra/" in name)
    content = bytearray(path.read_bytes())
    assert content[place : place + 4] == b"PK\x01\x02"  # the spec is the first entry of the directory
    content[place + 10] ^= 8  # the entry claims that its stored bytes are deflated
    path.write_bytes(content)
    with raises(ArtifactError, "torchscript.unreadable", "model.pt", "Error -3"):
        inspect_artifact(path)


def test_onnx_file_is_refused_when_a_tensor_name_is_not_text(artifacts: Path) -> None:
    path = artifacts / "model.onnx"
    damage_output_name(path)
    with raises(ArtifactError, "onnx.name", "model.onnx"):
        inspect_artifact(path)


def test_check_reports_all_findings_when_a_tensor_name_is_not_text(tiny_repository: Path, command: Command) -> None:
    damage_output_name(tiny_repository / "pets/1/model.onnx")
    check_result = command("builder", "check", tiny_repository, "--json")
    assert check_result.exit_code == 1
    messages = [finding["message"] for finding in json.loads(check_result.stdout)["findings"]]
    assert any("its hash differs" in message for message in messages)
    assert any("is not text" in message for message in messages)
    show_result = command("builder", "show", tiny_repository / "pets/1/model.onnx")
    assert (show_result.exit_code, "is not text" in show_result.stderr) == (2, True)


def test_batch_axis_without_a_name_is_dynamic(artifacts: Path, spec: ModelSpec) -> None:
    path = artifacts / "model.onnx"
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
    onnx.save(model, path)
    assert onnx_interface(path) == interface_of(spec)


@pytest.mark.parametrize("suffix", BACKENDS)
def test_check_compares_every_kind_of_artifact_with_the_configuration(
    published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, IMAGE)
    repository = published(suffix)
    # A plan that the manifest does not list is a finding, but its interface is right.
    assert [finding.message for finding in findings_of(repository, suffix) if "the graph" in finding.message] == []
    replace_in(repository / "pets/config.pbtxt", "dims: 3\n", "dims: 4\n")
    messages = "; ".join(finding.message for finding in findings_of(repository, suffix) if finding.severity == "error")
    assert "the graph has image UINT8 [N, 32, 32, 3] -> probabilities FP32 [N, 3]; config.pbtxt says" in messages


def test_check_compares_every_version_with_the_configuration(tiny_repository: Path) -> None:
    model = tiny_repository / "pets"
    shutil.copytree(model / "1", model / "2")
    path = model / "1/model.onnx"
    graph = onnx.load(path)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(graph, path)

    def severities() -> list[str]:
        return [f.severity for f in findings_of(tiny_repository, ".onnx") if "the graph has" in f.message]

    assert severities() == ["warning"]
    with (model / "config.pbtxt").open("a") as config:
        config.write("version_policy { all { } }\n")
    assert severities() == ["error"]


def test_check_warns_when_onnx_runtime_serves_bf16(tiny_repository: Path) -> None:
    path = tiny_repository / "pets/1/model.onnx"
    onnx.save(cast_graph(onnx.load(path), "bf16"), path)
    warnings = [finding for finding in findings_of(tiny_repository, ".onnx") if finding.severity == "warning"]
    assert len(warnings) == 1
    assert "computes in bf16" in warnings[0].message
    with (tiny_repository / "pets/config.pbtxt").open("a") as config:
        config.write('optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }\n')
    assert not [finding for finding in findings_of(tiny_repository, ".onnx") if "bf16" in finding.message]


def test_check_reports_one_error_when_the_env_file_cannot_be_read(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    (tiny_repository.parent / ".env").write_bytes(b"OWNER=M\xfcller\n")
    (finding,) = check_repository(tiny_repository)
    assert finding.severity == "error"
    assert "TRITON_IMAGE cannot be read" in finding.message


def test_show_reads_the_labels_of_a_version_when_another_version_is_served(artifacts: Path, spec: ModelSpec) -> None:
    own = spec.model_copy(update={"labels": ("hen", "fox", "owl")})
    (artifacts / "model.json").write_text(own.to_json())
    (artifacts.parent / "model.json").write_text(spec.to_json())
    (artifacts / "model.onnx").unlink()
    for path in (artifacts, artifacts / "model.plan"):
        shown_spec = show(path).spec
        assert shown_spec is not None
        assert shown_spec.labels == own.labels


@pytest.mark.parametrize(("suffix", "precision"), [(".onnx", "fp32"), (".xml", "fp32"), (".pt", None), (".plan", None)])
def test_show_reads_every_artifact_format(artifacts: Path, spec: ModelSpec, suffix: str, precision: str) -> None:
    (artifacts.parent / "model.json").write_text(spec.to_json())
    result = show(artifacts / f"model{suffix}")
    assert result.spec == spec
    assert result.interface == (str(spec.input), *map(str, spec.outputs))
    assert result.precision == precision
    if suffix == ".plan":
        assert result.header is not None
        assert result.header.version == "11.1.0.106"
        assert result.build is not None
        assert result.build.graph_sha256 == "b"
