"""`client drift` on real digits: the sketch goes from training to the served version, and pictures are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from sklearn.linear_model import LogisticRegression
from torch import nn

from builder.pipeline import export
from builder.request import ExportRequest
from server.process import Server
from tests.browser import open_browser
from tests.errors import error_codes
from tests.fixture_types import Command, NetworkOf
from tests.html_pages import Balanced
from tests.serving import options_for, serving
from tritonkit.golden import Golden
from tritonkit.images.preprocess import load_file
from tritonkit.networks.backbones import head_of
from tritonkit.networks.network import save_network
from tritonkit.repository.manifest import Manifest
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.sketch import Sketch, SketchSampler
from tritonkit.spec import TaskSpec

Edit = Callable[[Image.Image], Image.Image]
PER_LABEL = 75


@pytest.fixture(scope="module")
def digits_checkpoint(digits: Path, network_of: NetworkOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 0, 1 and 7, with its golden sample and its sketch: logistic regression on random features."""
    network = network_of(TaskSpec(task="multiclass", labels=tuple("017")))
    network.spec = network.spec.renamed("digits")
    shown = [sorted((digits / label).iterdir())[: 2 * PER_LABEL] for label in "017"]
    images = np.stack([load_file(path, network.spec.preprocess)[0] for paths in shown for path in paths])
    head = next(layer for layer in head_of(network.backbone).modules() if isinstance(layer, nn.Linear))
    features: list[torch.Tensor] = []
    with torch.inference_mode():
        hook = head.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
        network(torch.from_numpy(images))
        hook.remove()
        is_trained = np.arange(len(images)) % 2 == 0
        fitted = LogisticRegression(C=100, max_iter=2000).fit(
            features[0].numpy()[is_trained], np.repeat([0, 1, 2], 2 * PER_LABEL)[is_trained]
        )
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    checkpoint = tmp_path_factory.mktemp("drift") / "best.safetensors"
    validation, runner, sampler = images[~is_trained], TorchRunner(network, "a test"), SketchSampler(network.spec)
    sampler.add(validation, runner.infer(validation))
    sampler.sketch("validation images").save(checkpoint.with_name("sketch.npz"))
    Golden(validation[:32], runner.infer(validation[:32])).save(checkpoint.with_name("golden.npz"))
    save_network(checkpoint, network)
    return checkpoint


@pytest.fixture(scope="module")
def drift_repository(digits_checkpoint: Path) -> Path:
    """A repository with the classifier."""
    repository = digits_checkpoint.parent / "repository"
    export(ExportRequest(source=digits_checkpoint, repository=repository, max_batch=8))
    return repository


@pytest.fixture(scope="module")
def drift_server(drift_repository: Path) -> Iterator[Server]:
    """A real Triton that serves the classifier."""
    with serving(options_for(drift_repository)) as server:
        yield server


@pytest.fixture
def drift(command: Command, drift_server: Server, drift_repository: Path) -> Command:
    """Compare pictures with the sketch of the served classifier."""
    connection = ("--url", drift_server.options.grpc_url, "--repository", drift_repository)
    return partial(command, "client", "drift", "digits", *connection, "--json")


@pytest.fixture
def pictures(digits: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write pictures that the training has not seen: as many of each label as `counts` says, each edited."""

    def write(edit: Edit = Image.Image.copy, **counts: int) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for name, count in counts.items():
            for picture in sorted((digits / name[-1]).iterdir())[2 * PER_LABEL :][:count]:
                with Image.open(picture) as image:
                    edit(image.convert("RGB")).save(folder / f"{name}_{picture.name}")
        return folder

    return write


def test_sketch_is_part_of_the_version_when_exported(digits_checkpoint: Path, drift_repository: Path) -> None:
    trained, folder = Sketch.load(digits_checkpoint.with_name("sketch.npz")), drift_repository / "digits" / "1"
    published = Sketch.load(folder / "sketch.npz")
    assert published.version == "1"
    np.testing.assert_array_equal(published.outputs["probabilities"].values, trained.outputs["probabilities"].values)
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert "sketch.npz" in manifest.files


def test_no_drift_is_found_when_the_pictures_are_alike(drift: Command, pictures: Callable[..., Path]) -> None:
    completed = drift(pictures(n0=80, n1=80, n7=80))
    report = json.loads(completed.stdout)
    assert (completed.exit_code, report["drifted"]) == (0, False), completed.stdout + completed.stderr
    assert (report["images"], report["reference_images"], report["version"]) == (240, 225, "1")


def test_the_label_is_named_when_its_share_rose(drift: Command, pictures: Callable[..., Path]) -> None:
    completed = drift(pictures(n0=25, n1=25, n7=100))
    (output,) = json.loads(completed.stdout)["outputs"]
    assert completed.exit_code == 1
    assert output["labels"][0]["label"] == "7"
    assert output["labels"][0]["drifted"]
    assert output["labels"][0]["low"] > 0.1


def test_brightness_is_named_when_the_pictures_are_darker(drift: Command, pictures: Callable[..., Path]) -> None:
    completed = drift(pictures(lambda image: image.point(lambda level: level // 2), n0=30, n1=30, n7=30))
    drifted = {column["name"] for column in json.loads(completed.stdout)["pictures"] if column["drifted"]}
    assert completed.exit_code == 1
    assert {"brightness", "contrast"} <= drifted


def test_sharpness_and_outputs_are_named_on_a_page_when_the_pictures_are_blurred(
    command: Command, pictures: Callable[..., Path], drift_repository: Path, tmp_path: Path
) -> None:
    blurred = pictures(lambda image: image.filter(ImageFilter.GaussianBlur(2)), n0=30, n1=30, n7=30)
    (blurred / "broken.png").write_bytes(b"no picture")
    page = tmp_path / "drift.html"
    model = drift_repository / "digits" / "1" / "model.onnx"
    completed = command("client", "drift", blurred, "--from", model, "--html", page)
    assert completed.exit_code == 1
    assert "pictures: the sharpness is" in completed.stdout
    assert "probabilities: the distribution" in completed.stdout
    assert "broken.png" in completed.stderr
    Balanced(page.read_text())
    with open_browser() as browser:
        for width in (1280, 390):
            browser.open(page, width)
            assert browser.problems == []
            assert browser.requests == [page.as_uri()]
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("[...document.images].filter(i => i.naturalWidth).length") == 24


def test_new_sketch_is_compared_when_the_version_has_none(
    command: Command, drift_server: Server, drift_repository: Path, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    run = partial(command, "client", "drift", "digits", "--url", drift_server.options.grpc_url, "--json")
    folder, saved = pictures(n0=30, n1=30, n7=30), tmp_path / "mine.npz"
    empty = tmp_path / "empty"
    missing = run(folder, "--repository", empty)
    assert (missing.exit_code, error_codes(missing)) == (2, {"drift.no_sketch"})
    mistyped = run(folder, "--sketch", tmp_path / "mien.npz")
    assert (mistyped.exit_code, "mien.npz: no such file" in mistyped.stderr) == (2, True)
    assert run(folder, "--save-sketch", saved).exit_code == 0
    assert Sketch.load(saved).version == "1"
    same = run(folder, "--sketch", saved)
    assert same.exit_code == 0
    assert json.loads(same.stdout)["outputs"][0]["columns"][0]["distance"] == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda sketch: replace(sketch, version="2"), "drift.other_version"),
        (
            lambda sketch: replace(sketch, spec=sketch.spec.model_copy(update={"labels": ("0", "1", "8")})),
            "drift.other_model",
        ),
        (lambda sketch: replace(sketch, spec=sketch.spec.renamed("letters")), "drift.other_model"),
    ],
)
def test_sketch_is_refused_when_it_belongs_to_another_model(
    drift: Command, drift_repository: Path, pictures: Callable[..., Path], tmp_path: Path,
    change: Callable[[Sketch], Sketch], code: str,
) -> None:  # fmt: skip
    change(Sketch.load(drift_repository / "digits" / "1" / "sketch.npz")).save(tmp_path / "other.npz")
    refused = drift(pictures(n0=1), "--sketch", tmp_path / "other.npz")
    assert (refused.exit_code, error_codes(refused)) == (2, {code})


def test_too_few_pictures_are_refused(drift: Command, pictures: Callable[..., Path]) -> None:
    refused = drift(pictures(n0=10, n1=10))
    assert (refused.exit_code, error_codes(refused)) == (2, {"drift.too_few_images"})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["digits"], "drift.no_pictures"),
        (["x", "--from", "m.onnx", "--version", "1"], "option.from_model"),
        (["x", "--from", "m.onnx", "--url", "127.0.0.1:1"], "option.from_server"),
        (["digits", "x", "--save-sketch", "a.npz", "--alpha", "0.1"], "option.no_effect"),
        (["digits", "x", "--save-sketch", "a.json"], "drift.not_npz"),
        (["digits", "x", "--html", "a.pdf"], "output.not_html"),
    ],
)
def test_options_are_refused_when_they_contradict(command: Command, arguments: list[str], code: str) -> None:
    refused = command("client", "drift", *arguments, "--json")
    assert (refused.exit_code, error_codes(refused)) == (2, {code})


def test_sketch_of_a_folder_is_published_when_weights_have_none(
    digits_checkpoint: Path, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    lonely = Path(shutil.copy(digits_checkpoint, tmp_path / "lonely.safetensors"))
    folder = pictures(n0=20, n1=20)
    published = export(ExportRequest(source=lonely, repository=tmp_path / "repository", sketch=folder))
    sketch = Sketch.load(published.artifact.with_name("sketch.npz"))
    assert sketch.images == 40
    assert sketch.outputs["probabilities"].labels.sum(axis=0).tolist()[2] <= 4


@pytest.mark.parametrize("name", ["tags", "vector", "all", "mask", "soft"])
def test_each_task_is_compared_when_pictures_are_inverted(
    name: str, command: Command, models: dict[str, Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    run = partial(command, "client", "drift", "--from", models[name], "--json")
    folder, saved = pictures(n0=20, n7=20), tmp_path / "sketch.npz"
    assert run(folder, "--save-sketch", saved).exit_code == 0
    same = run(folder, "--sketch", saved)
    assert same.exit_code == 0, same.stdout + same.stderr
    shutil.rmtree(folder)
    inverted = run(pictures(ImageOps.invert, n0=20, n7=20), "--sketch", saved, "--html", tmp_path / "drift.html")
    report = json.loads(inverted.stdout)
    assert inverted.exit_code == 1
    assert {column["name"] for column in report["pictures"] if column["drifted"]} >= {"brightness"}
    assert [output["output"] for output in report["outputs"]] == list(Sketch.load(saved).outputs)
    Balanced((tmp_path / "drift.html").read_text())


def test_sketch_is_left_out_with_a_warning_when_the_threshold_changes(
    models: dict[str, Path], digits: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copy(models["tags"], tmp_path))
    with open_artifact(checkpoint) as runner:
        files = sorted((digits / "7").iterdir())[:4]
        images = np.stack([load_file(path, runner.spec.preprocess)[0] for path in files])
        outputs = runner.infer(images)
        Golden(images, outputs).save(tmp_path / "golden.npz")
        sampler = SketchSampler(runner.spec)
        sampler.add(images, outputs)
    sampler.sketch("a test").save(tmp_path / "sketch.npz")
    published = export(ExportRequest(source=checkpoint, repository=tmp_path / "repository", threshold=0.3))
    assert not published.artifact.with_name("sketch.npz").exists()
    assert any("thresholds" in warning and "sketch" in warning for warning in published.warnings)


def test_export_is_refused_when_the_sketch_has_too_few_images(
    command: Command, digits_checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    options = ("--repository", repository, "--sketch", photos, "--json")
    refused = command("builder", "export", digits_checkpoint, *options)
    assert (refused.exit_code, error_codes(refused)) == (2, {"sketch.too_few_images"})
    assert not list(repository.rglob("model.onnx"))
