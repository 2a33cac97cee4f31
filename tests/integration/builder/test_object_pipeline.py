"""`builder pipeline`: a segmenter and a classifier are published as one, verified as served, and checked."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from PIL import Image

from builder.object_pipeline.config import PipelineConfig, PipelineRequest
from builder.object_pipeline.publish import publish_pipeline
from builder.packages import write_package
from builder.packages.signing import sign_models
from builder.pipeline import export
from builder.repository.encoded import PIPELINE_MODULES
from builder.repository.lint import check_repository
from builder.repository.published import PublishedVersion
from builder.request import ExportRequest
from client import Client
from client.results import Failed, ObjectsResult
from server.process import Server
from server.runtimes.pip_environment import ENVIRONMENT_VARIABLE
from tests.errors import error_codes, raises
from tests.fixture_types import Command
from tests.packages import contents, install, write
from tests.pictures import turned
from tests.pipelines import (
    MAX_BATCH,
    SIZE,
    grid,
    picture,
    publish_members,
    save_kinds_model,
    save_masks_model,
    write_config,
)
from tests.serving import options_for, serving
from tests.signatures import write_keys
from tritonkit.errors import ArtifactError, CheckFailedError, ConfigError, InferenceError, InputError
from tritonkit.images.crops import CropSettings
from tritonkit.images.objects import from_rle
from tritonkit.images.preprocess import ImageError
from tritonkit.repository.signing.check import check_signed
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import ModelSpec
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublishedVersion]:
    """A repository with both models and the pipeline `people`, and what the publication returned."""
    folder = tmp_path_factory.mktemp("pipeline")
    repository = publish_members(folder)
    return repository, publish_pipeline(PipelineRequest(config=write_config(folder), repository=repository))


@pytest.fixture
def repository(published: tuple[Path, PublishedVersion], tmp_path: Path) -> Path:
    """A copy of it of one's own."""
    return Path(shutil.copytree(published[0], tmp_path / "own" / "repository"))


@pytest.fixture(scope="module")
def server(published: tuple[Path, PublishedVersion]) -> Iterator[Server]:
    """A Triton that was told to serve the pipeline alone."""
    with serving(options_for(published[0], models=("people",))) as running:
        yield running


@pytest.fixture(scope="module")
def runner(server: Server) -> Iterator[TritonRunner]:
    with TritonRunner(TritonClient(server.options.grpc_url), "people") as opened:
        yield opened


def codes(repository: Path) -> set[tuple[str, str]]:
    return {(finding.severity, finding.code) for finding in check_repository(repository)}


# Publication


def test_verdict_is_of_the_served_pipeline(published: tuple[Path, PublishedVersion]) -> None:
    repository, result = published
    assert result.verdict.passed
    assert result.verdict.proven_by == "the pipeline as served by Triton (pip)"
    assert result.verdict.images.endswith("and a grey one with 63 objects")
    assert result.verdict.comparisons[0].max_abs <= 1e-5
    assert Verdict.read(repository / "people" / "1") == result.verdict
    spec = ModelSpec.read(repository / "people")
    assert spec is not None
    assert spec.pipeline is not None
    assert [(member.model, member.version) for member in spec.pipeline.members] == [("masks", 1), ("kinds", 1)]
    assert (repository / "people" / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert codes(repository) == set()


def test_failed_verdict_publishes_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    faulty = tmp_path / "pipeline.py"
    code = PIPELINE_MODULES["pipeline.py"].read_text()
    faulty.write_text(code.replace("np.int32).reshape(-1, 4)", "np.int32).reshape(-1, 4) // 2 * 2 + 1"))
    monkeypatch.setitem(PIPELINE_MODULES, "pipeline.py", faulty)
    config = write_config(tmp_path)
    result = command("builder", "pipeline", config, "--repository", repository, "--json")
    assert result.exit_code == 1
    assert {"verdict.failed", "pipeline.objects"} <= error_codes(result)
    assert not (repository / "people" / "2").exists()


def test_verdict_says_so_when_triton_cannot_be_started(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nothing"))
    result = publish_pipeline(PipelineRequest(config=write_config(tmp_path), repository=repository))
    assert result.version == 2
    assert result.verdict.passed
    assert "in this process, because there is no Triton here" in (result.verdict.proven_by or "")


def test_verdict_fails_when_triton_refuses_a_member(repository: Path, tmp_path: Path, command: Command) -> None:
    with (repository / "kinds" / "config.pbtxt").open("a") as config:
        config.write("instance_group { kind: KIND_GPU gpus: [0] }\n")
    result = command("builder", "pipeline", write_config(tmp_path), "--repository", repository, "--json")
    assert result.exit_code == 1
    assert error_codes(result) == {"verdict.failed", "pipeline.member_not_served"}
    assert "kinds needs a GPU" in json.loads(result.stdout)["error"]["problems"][0]["message"]  # the whole reason
    assert not (repository / "people" / "2").exists()


def test_pictures_without_objects_are_no_proof_unless_forced(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nothing"))
    config = write_config(tmp_path)
    for name in ("3.png", "60.png"):
        (tmp_path / "pictures" / name).unlink()
    with raises(CheckFailedError, "pipeline.no_objects"):
        publish_pipeline(PipelineRequest(config=config, repository=repository))
    assert not (repository / "people" / "2").exists()
    forced = publish_pipeline(PipelineRequest(config=config, repository=repository, force=True))
    assert (forced.verdict.state, forced.version) == ("FORCED", 2)
    assert ("warning", "repository.forced") in codes(repository)


def test_all_problems_of_a_configuration_are_reported_at_once(repository: Path, tmp_path: Path) -> None:
    config = tmp_path / "people.yaml"
    config.write_text(
        "name: a b\nsegmenter: masks\nclasifier: kinds\ncrop: {margin: -1}\ninstances: 0\nlabel: 2026-01-01\nname: a/b"
    )
    with raises(ConfigError, "config.invalid") as caught:
        PipelineConfig.read(config)
    assert {(problem.code, problem.message.partition(":")[0]) for problem in caught.value.problems} == {
        ("config.duplicate_key", "line 7, name"),
        ("config.name_pattern", "line 7, name"),
        ("config.unknown_key", "line 3, clasifier"),
        ("config.missing_key", "classifier"),
        ("config.rule", "line 4, crop"),
        ("config.value", "line 5, instances"),
        ("config.needs_quotes", "line 6, label"),
    }
    config.write_text("name: a\nsegmenter: masks\nclassifier: kinds\ncrop: {margn: 1}\n")
    with raises(ConfigError, "config.unknown_key", "line 4, crop.margn: unknown key; did you mean crop.margin?"):
        PipelineConfig.read(config)
    config.write_text("name: kinds\nsegmenter: kinds\nclassifier: nobody\nlabel: thing\n")
    with raises(ConfigError, "config.invalid") as caught:
        publish_pipeline(PipelineRequest(config=config, repository=repository))
    assert [problem.code for problem in caught.value.problems] == [
        "pipeline.member_task",
        "pipeline.no_member",
        "pipeline.name_taken",
    ]


def test_crops_and_label_must_be_those_of_the_members(repository: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, label="sky", crop="{margin: 0.3}")
    with raises(ConfigError, "config.invalid") as caught:
        publish_pipeline(PipelineRequest(config=config, repository=repository))
    assert [problem.code for problem in caught.value.problems] == ["pipeline.label", "pipeline.crop"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "config.not_found"),
        ("", "config.not_a_mapping"),
        ("- a list", "config.not_a_mapping"),
        ("name: [", "config.not_yaml"),
        ("\0", "config.not_yaml"),
        ("label: 2020-13-45", "config.not_yaml"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, command: Command, text: str | None, code: str) -> None:
    config = tmp_path / "people.yaml"
    if text is not None:
        config.write_text(text)
    result = command("builder", "pipeline", config, "--repository", tmp_path / "none", "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {code}
    assert not (tmp_path / "none").exists()


# Members that change


def test_check_finds_members_that_changed(repository: Path, tmp_path: Path) -> None:
    other = save_kinds_model(tmp_path / "kinds.onnx", scale=50)
    result = export(ExportRequest(source=other, repository=repository, max_batch=MAX_BATCH, encoded=False))
    assert any("verdict of the pipeline people" in warning for warning in result.warnings)
    assert codes(repository) == {("warning", "pipeline.other_version")}


def test_package_and_signature_of_a_pipeline_are_about_its_members(repository: Path, tmp_path: Path) -> None:
    key = write_keys(tmp_path, "model")
    sign_models(repository, (), tmp_path / "model.pem")
    package = write_package(repository / "people", 1, tmp_path)
    received = install(package, tmp_path / "received", public_key=key).folder.parents[1]
    other = save_kinds_model(tmp_path / "kinds.onnx", scale=50)
    export(ExportRequest(source=other, repository=repository, max_batch=MAX_BATCH, encoded=False))
    with raises(CheckFailedError, "pipeline.other_version"):
        sign_models(repository, ("people",), tmp_path / "model.pem")
    sign_models(repository, ("kinds",), tmp_path / "model.pem")
    with raises(CheckFailedError, "signature.unproven", "another model"):
        check_signed(repository, ("people",), key)
    kinds = write_package(repository / "kinds", 2, tmp_path)
    mixed = contents(package) | {name: data for name, data in contents(kinds).items() if "package.json" not in name}
    with raises(ArtifactError, "pipeline.other_version"):
        install(write(tmp_path / "mixed.zip", mixed), tmp_path / "none")
    assert any("verdict of the pipeline people" in warning for warning in install(kinds, received).warnings)
    smaller = ExportRequest(source=other, repository=repository, max_batch=2, encoded=False)
    export(smaller)
    assert ("error", "pipeline.batch") in codes(repository)
    shutil.rmtree(repository / "kinds")
    assert codes(repository) == {("error", "pipeline.no_member")}


def test_check_finds_other_preprocessing_and_other_code(repository: Path) -> None:
    version = repository / "people" / "1"
    settings, code = version / "pipeline.json", version / "crops.py"
    settings.write_text(settings.read_text().replace('"squash"', '"pad"'))
    code.write_text(f"{code.read_text()}# changed\n")
    assert {("error", "pipeline.settings"), ("warning", "pipeline.code_version")} <= codes(repository)


def test_same_member_again_is_no_finding_and_the_pipeline_can_be_promoted(
    repository: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_masks_model(tmp_path / "masks.onnx")
    export(ExportRequest(source=source, repository=repository, max_batch=MAX_BATCH, encoded=False))
    assert codes(repository) == set()
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nothing"))
    publish_pipeline(PipelineRequest(config=write_config(tmp_path, instances=3), repository=repository))
    promoted = command("builder", "promote", "people", 1, "--repository", repository)
    assert promoted.exit_code == 0, promoted.output
    config = (repository / "people" / "config.pbtxt").read_text()
    assert "max_batch_size" not in config
    assert "count: 3" in config
    assert codes(repository) == set()


# Answers


@pytest.mark.parametrize("count", [0, 1, MAX_BATCH, MAX_BATCH + 1, 60])
def test_boxes_masks_and_labels_are_those_that_were_drawn(runner: TritonRunner, count: int) -> None:
    outputs = runner.infer_encoded(picture(count))
    assert outputs["boxes"].tolist() == [list(box) for box, _ in grid(count)]
    assert outputs["labels"].tolist() == [name for _, name in grid(count)]
    assert outputs["size"].tolist() == list(SIZE)
    assert outputs["probabilities"].shape == (count, 3)
    for (box, _), counts in zip(grid(count), outputs["masks"], strict=True):
        restored = from_rle(str(counts), SIZE)
        assert restored.box == box
        assert restored.mask.all()


def test_an_upright_picture_is_answered_whatever_its_orientation(runner: TritonRunner) -> None:
    file = io.BytesIO()
    sideways = Image.open(io.BytesIO(picture(3))).transpose(Image.Transpose.ROTATE_90)
    sideways.save(file, "JPEG", quality=100, subsampling=0, exif=turned())
    outputs = runner.infer_encoded(file.getvalue())
    assert outputs["size"].tolist() == list(SIZE)
    assert np.abs(outputs["boxes"] - [list(box) for box, _ in grid(3)]).max() <= 1


@pytest.mark.parametrize("data", [b"", b"no picture", picture(3)[:300]])
def test_a_broken_picture_is_refused_and_others_are_answered(runner: TritonRunner, data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        runner.infer_encoded(data)
    assert caught.value.code == "image.refused"
    assert len(runner.infer_encoded(picture(3))["boxes"]) == 3


def test_requests_overlap(runner: TritonRunner) -> None:
    before = runner.server.statistics("people")[("people", "1")]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(runner.infer_encoded, [picture(number % 61) for number in range(120)]))
    assert [len(answer["boxes"]) for answer in answers] == [number % 61 for number in range(120)]
    assert runner.server.statistics("people")[("people", "1")].since(before).failures == 0


def test_http_answers_a_plain_request(server: Server) -> None:
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.options.http_port}")
    tensor = tritonclient.http.InferInput("encoded", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture(0)], np.object_))
    result = client.infer("people", [tensor])
    assert result.as_numpy("boxes").shape == (0, 4)
    assert result.as_numpy("masks").shape == (0,)


def test_curl_sends_a_file_as_it_is(server: Server, tmp_path: Path) -> None:
    url = f"{server.options.http_url}/v2/models/people/infer"
    for data, status in ((picture(3), "200"), (b"no picture", "400")):
        (tmp_path / "file").write_bytes(data)
        command = ["curl", "--silent", "--output", tmp_path / "answer", "--write-out", "%{http_code}"]
        header = ["--header", "Inference-Header-Content-Length: 0", "--data-binary", f"@{tmp_path / 'file'}"]
        assert subprocess.run([*command, *header, url], capture_output=True, text=True).stdout == status


def test_unloaded_member_is_named_and_other_pictures_are_answered(server: Server, runner: TritonRunner) -> None:
    with server.client() as admin:
        admin.unload("kinds")
        try:
            with pytest.raises(InferenceError, match="kinds"):
                runner.infer_encoded(picture(3))
            assert len(runner.infer_encoded(picture(0))["boxes"]) == 0
        finally:
            admin.load("kinds")
    assert len(runner.infer_encoded(picture(3))["boxes"]) == 3


# The client


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "asked"
    folder.mkdir()
    for count in (0, 3, 60):
        (folder / f"{count:02}.png").write_bytes(picture(count))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_client_writes_rows_masks_overlays_and_a_sheet(
    server: Server, pictures: Path, tmp_path: Path, command: Command
) -> None:
    url, rows, table = server.options.grpc_url, tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    drawn = ("--masks", tmp_path / "masks", "--overlays", tmp_path / "overlays", "--gallery", tmp_path / "sheet.html")
    words = ("client", "infer", pictures, "--model", "people", "--url", url, "--output", rows, "--output", table)
    result = command(*words, *drawn)
    assert result.exit_code == 1, result.output  # the broken picture
    answers = [json.loads(line) for line in rows.read_text().splitlines()]
    assert answers[0]["objects"] == []
    assert answers[1]["counts"] == {"red": 1, "green": 1, "blue": 1}
    assert [(tuple(entry["box"]), entry["label"]) for entry in answers[1]["objects"]] == grid(3)
    assert len(answers[2]["objects"]) == 60
    assert "not an image" in answers[3]["error"]
    mask = np.asarray(Image.open(tmp_path / "masks" / "03.png"))
    for number, (box, _) in enumerate(grid(3), start=1):
        assert (mask[box[1] : box[3], box[0] : box[2]] == number).all()
    overlay = np.asarray(Image.open(tmp_path / "overlays" / "03.png"))
    assert (overlay != np.asarray(Image.open(pictures / "03.png").convert("RGB"))).any()
    assert table.read_text().splitlines()[0].startswith("path,error,width,height,counts.red,counts.green,counts.blue,")
    assert "1 red, 1 green, 1 blue" in (tmp_path / "sheet.html").read_text()
    (pictures / "04.png").write_bytes(picture(4))
    (pictures / "broken.png").unlink()
    again = command(*words, *drawn, "--json")
    assert [Path(row["path"]).name for row in json.loads(again.stdout)["rows"]] == ["04.png"]


def test_filter_keeps_pictures_with_an_object_of_the_class(server: Server, pictures: Path, command: Command) -> None:
    (pictures / "01.png").write_bytes(picture(1))
    words = ("--model", "people", "--url", server.options.grpc_url, "--class", "blue", "--min-probability", 0.9)
    result = command("client", "infer", pictures, *words, "--json")
    kept = [Path(row["path"]).name for row in json.loads(result.stdout)["rows"] if "error" not in row]
    assert kept == ["03.png", "60.png"]


def test_python_client_returns_objects(server: Server) -> None:
    with Client("people", server.options.grpc_url) as client:
        result = client.infer(picture(3))
        assert isinstance(result, ObjectsResult)
        assert [(entry.box, entry.label) for entry in result.objects] == grid(3)
        assert result.counts == {"red": 1, "green": 1, "blue": 1}
        assert result.mask.shape == (SIZE[1], SIZE[0])
        image = Image.open(io.BytesIO(picture(9)))
        kinds = [type(entry) for entry in client.infer_many([image, b"broken", np.asarray(image)])]
        assert kinds == [ObjectsResult, Failed, ObjectsResult]


@pytest.mark.parametrize(
    "words",
    [
        ("client", "check", "people"),
        ("client", "drift", "people", "PICTURES"),
        ("client", "compare", "people@1", "people@1", "PICTURES"),
        ("client", "shadow", "people", "--candidate", 2, "--repository", "REPOSITORY"),
    ],
    ids=lambda words: words[1],
)
def test_commands_that_need_pixels_refuse_a_pipeline(
    server: Server, pictures: Path, command: Command, words: tuple[object, ...]
) -> None:
    places = {"PICTURES": pictures, "REPOSITORY": server.options.repository}
    result = command(*(places.get(str(word), word) for word in words), "--url", server.options.grpc_url, "--json")
    assert result.exit_code == 2, result.output
    assert "pipeline.not_supported" in error_codes(result)


def test_pixels_and_views_are_refused(server: Server, runner: TritonRunner, pictures: Path, command: Command) -> None:
    with raises(InputError, "pipeline.not_supported"):
        runner.infer(np.zeros((1, 8, 8, 3), np.uint8))
    words = ("--model", "people", "--url", server.options.grpc_url, "--tta", "flip", "--json")
    result = command("client", "infer", pictures, *words)
    assert error_codes(result) == {"option.tta_text"}


def test_bench_sends_files_and_asks_for_them(
    server: Server, pictures: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (pictures / "broken.png").unlink()
    words = ("bench", "run", "people", "--url", server.options.grpc_url, "--concurrency", 1, "--window-s", 0.2)
    refused = command(*words, "--json")
    assert error_codes(refused) == {"benchmark.no_images"}
    measured = command(*words, "--max-windows", 3, "--images", pictures, "--json")
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout)["levels"][0]["images_per_s"] > 0


def test_default_crops_are_used_with_a_warning_when_the_classifier_names_none(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nothing"))
    source = save_kinds_model(tmp_path / "plain.onnx", "plain", crop=None)
    export(ExportRequest(source=source, repository=repository, max_batch=MAX_BATCH, encoded=False))
    config = write_config(tmp_path, name="others", classifier="plain")
    result = publish_pipeline(PipelineRequest(config=config, repository=repository))
    assert any("how the objects were cut out" in warning for warning in result.warnings)
    spec = ModelSpec.read(repository / "others")
    assert spec is not None
    assert spec.pipeline is not None
    assert spec.pipeline.crop == CropSettings()
