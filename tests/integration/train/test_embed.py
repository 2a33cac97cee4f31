"""`train embed`: vectors of digits and of other data, for a network of each task."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from tests.browser import Browser, open_browser
from tests.errors import error_codes
from tests.fixture_types import Command, NetworkOf
from tests.integration.train.conftest import CopyDigits, WriteTable
from tests.task_specs import PETS, TASK_SPECS
from train.embeddings.analysis import principal_components, project, recall_at_ranks
from train.embeddings.map_page import MAX_POINTS, render_map
from train.embeddings.pictures import EmbeddingInput
from train.embeddings.projector import MAX_SPRITE_SIDE, thumbnail_side
from train.embeddings.vectors import ImageVectors, grid_side
from train.evaluate import evaluate
from tritonkit.networks.network import save_network
from tritonkit.runtimes import open_artifact
from tritonkit.spec import TaskSpec
from tritonkit.system.commands import free_ports

LABELS = "017"


@pytest.fixture(scope="module")
def pictures(copy_digits: CopyDigits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures each of 0, 1 and 7."""
    return copy_digits(tmp_path_factory.mktemp("pictures") / "digits", LABELS)


@pytest.fixture(scope="module")
def classifier(network_of: NetworkOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a classifier of these digits, with random weights."""
    path = tmp_path_factory.mktemp("classifier") / "digits.safetensors"
    save_network(path, network_of(TaskSpec(task="multiclass", labels=tuple(LABELS))))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def reported(command: Command, *words: object, code: int = 0) -> Any:
    result = command("train", "embed", *words, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


# Files.


def test_files_hold_the_same_vectors_labels_and_answers_in_every_format(
    command: Command, classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    for name in ("v.npz", "v.npy", "v.parquet"):
        report = reported(command, classifier, pictures, "--output", tmp_path / name)
        assert (report["images"], report["labelled"], report["kind"]) == (36, 36, "features")
        assert report["files"] == [str(tmp_path / name)]
    packed = np.load(tmp_path / "v.npz")
    vectors = packed["embedding"]
    assert vectors.dtype == np.float32
    assert vectors.shape == (36, report["dimensions"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert packed["path"].tolist() == sorted(map(str, pictures.glob("*/*.png")))
    assert packed["label"].tolist() == [Path(path).parent.name for path in packed["path"]]
    with open_artifact(classifier) as runner:
        images = np.stack([np.asarray(Image.open(p).convert("RGB").resize((32, 32), 2)) for p in packed["path"]])
        answers = runner.infer(images)["probabilities"].argmax(axis=1)
    assert packed["answer"].tolist() == [LABELS[answer] for answer in answers]

    assert np.array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert json.loads((tmp_path / "v.paths.json").read_text()) == packed["path"].tolist()
    rows = list(csv.DictReader((tmp_path / "v.csv").open()))
    assert [(row["path"], row["label"], row["answer"]) for row in rows] == list(
        zip(packed["path"], packed["label"], packed["answer"], strict=True)
    )
    table = parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert np.array_equal(np.array(table["embedding"], np.float32), vectors)
    assert table["label"] == packed["label"].tolist()


def test_vectors_are_the_answers_of_an_embedding_model(
    command: Command, network_of: NetworkOf, pictures: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "vectors.safetensors"
    save_network(checkpoint, network_of(TASK_SPECS["embedding"]))
    report = reported(command, checkpoint, pictures, "--output", tmp_path / "v.npz")
    assert (report["kind"], report["dimensions"]) == ("embedding", 8)
    # `train test` searches with code of its own batches and data.
    assert report["recall"] == evaluate(checkpoint, pictures).metrics
    assert set(np.load(tmp_path / "v.npz")["answer"]) == {""}


@pytest.mark.parametrize("task", ["multilabel", "segmentation", "heads"])
def test_features_of_every_task_have_a_map(
    task: str, command: Command, network_of: NetworkOf, pictures: Path, tmp_path: Path
) -> None:
    checkpoint, page = tmp_path / "any.safetensors", tmp_path / "map.html"
    save_network(checkpoint, network_of(TASK_SPECS[task]))
    report = reported(command, checkpoint, pictures, "--map", page)
    assert report["images"] == 36
    # A folder of class folders has the labels, whatever the model answers; for masks it is a folder of images.
    assert report["labelled"] == (0 if task == "segmentation" else 36)
    assert sum(report["pca"]["explained_variance"]) == pytest.approx(1, abs=1e-3)
    assert page.is_file()


# Input.


def test_images_of_the_run_are_embedded_when_none_are_named(
    command: Command, classifier: Path, pictures: Path, write_table: WriteTable, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run" / "best.safetensors"
    (checkpoint.parent / "splits").mkdir(parents=True)
    checkpoint.write_bytes(classifier.read_bytes())
    assert error_codes(command("train", "embed", checkpoint, "--json")) == {"data.no_test_split"}
    rows = [{"image_path": str(path), "label": path.parent.name} for path in sorted(pictures.glob("*/*.png"))]
    write_table(checkpoint.parent / "splits" / "val.csv", rows[:6])
    write_table(checkpoint.parent / "splits" / "test.csv", rows[6:16])
    assert reported(command, checkpoint)["images"] == 10


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_labels_are_optional_in_folders_and_tables(
    suffix: str, command: Command, classifier: Path, pictures: Path, write_table: WriteTable, tmp_path: Path
) -> None:
    flat = reported(command, classifier, pictures / "0")
    assert (flat["images"], flat["labelled"], flat["recall"]) == (12, 0, {})
    rows = [{"image_path": str(path)} for path in sorted(pictures.glob("*/*.png"))]
    plain = reported(command, classifier, write_table(tmp_path / f"plain{suffix}", rows))
    assert (plain["images"], plain["labelled"]) == (36, 0)
    some = [{**row, "label": "a new one" if number < 3 else ""} for number, row in enumerate(rows)]
    mixed = reported(command, classifier, write_table(tmp_path / f"some{suffix}", some))
    assert (mixed["images"], mixed["labelled"], mixed["recall"]["recall@1"]) == (36, 3, 1.0)


def test_unreadable_image_is_named_and_left_out(
    command: Command, classifier: Path, pictures: Path, copy_digits: CopyDigits, tmp_path: Path
) -> None:
    folder = copy_digits(tmp_path / "some", LABELS, count=4)
    (folder / "1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    result = command("train", "embed", classifier, folder, "--output", tmp_path / "v.npz")
    assert result.exit_code == 1
    assert str(folder / "1" / "broken.png") in result.stderr
    assert "12 images" in result.stdout
    assert len(np.load(tmp_path / "v.npz")["embedding"]) == 12
    (problem,) = reported(command, classifier, folder, code=1)["unreadable"]
    assert problem["code"] == "data.image_unreadable"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("nowhere",), "data.not_found"),
        (("two",), "data.too_few_images"),
        (("empty",), "data.no_images"),
        (("lost.csv",), "data.missing_image"),
        (("two", "--output", "v.txt"), "output.format"),
        (("two", "--map", "map.pdf"), "output.not_html"),
        (("two", "--projector", "lost.csv"), "output.is_file"),
        (("two", "--method", "tsne"), "option.no_effect"),
        (("two", "--map", "map.html", "--method", "umap"), "option.unknown_method"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    words: tuple[str, ...],
    code: str,
    command: Command,
    classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("two", "empty"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / "two" / f"{name}.png")
    (tmp_path / "lost.csv").write_text("image_path,label\nlost.png,0\n")
    before = sorted(tmp_path.rglob("*"))
    result = command("train", "embed", classifier, *words, "--json")
    assert result.exit_code == 2
    assert code in error_codes(result)
    assert sorted(tmp_path.rglob("*")) == before


# Measures.


def test_components_are_those_of_the_singular_values() -> None:
    draw = np.random.default_rng(0)
    # Far from 0 and flat, as features after a ReLU are.
    vectors = (draw.normal(size=(60, 5)) * [1, 0.5, 0.1, 0.01, 0.001] + 20).astype(np.float32)
    for shape in (vectors, vectors[:4]):  # more and fewer images than numbers
        pca, coordinates = principal_components(shape)
        singular = np.linalg.svd(shape - shape.mean(0, dtype=np.float64), compute_uv=False) ** 2
        assert pca.explained_variance == pytest.approx(singular / singular.sum(), abs=1e-4)
        assert coordinates.var(axis=0, ddof=1) * (len(shape) - 1) == pytest.approx(singular, rel=1e-2, abs=1e-3)
    assert principal_components(vectors)[0].components_for_90_percent == 2


def test_equal_vectors_have_no_components_but_a_map() -> None:
    pca, coordinates = principal_components(np.full((6, 1), 1, np.float32))
    assert (pca.explained_variance, pca.components_for_90_percent) == ((0.0,), 0)
    for method in ("pca", "tsne"):
        positions = project(coordinates, method)  # type: ignore[arg-type]
        assert positions.shape == (6, 2)
        assert np.isfinite(positions).all()


def test_neighbours_stay_neighbours_on_a_tsne_map() -> None:
    draw = np.random.default_rng(0)
    centres = np.eye(3, 8)[np.repeat(range(3), 20)]
    vectors = (centres + draw.normal(size=(60, 8)) * 0.05).astype(np.float32)
    positions = project(principal_components(vectors)[1], "tsne")
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2) + np.eye(60) * 1e9
    assert (distances.argmin(1) // 20 == np.arange(60) // 20).all()


def test_recall_leaves_out_images_without_a_label_or_a_partner() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 1, 3]]
    assert recall_at_ranks(vectors, ["a", "a", "a", None, "b", None]) == {
        "recall@1": pytest.approx(2 / 3, abs=1e-6),
        "recall@5": 1.0,
        "recall@10": 1.0,
    }
    assert recall_at_ranks(vectors[:2], ["a", "b"])["recall@1"] is None


# TensorBoard.


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Start TensorBoard on a folder; yield the address of its projector."""
    port = free_ports(1)[0]
    words = ["-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}/data/plugin/projector"
            deadline = time.monotonic() + 300
            while True:
                try:
                    fetch(f"{address}/runs")
                    break
                except OSError:
                    assert process.poll() is None, "TensorBoard has ended"
                    assert time.monotonic() < deadline, "TensorBoard does not answer"
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()


def fetch(address: str, **query: str) -> bytes:
    with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return bytes(answer.read())


def test_tensorboard_shows_the_projector_folder(
    command: Command, classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    folder, vectors = tmp_path / "projector", tmp_path / "v.npz"
    reported(command, classifier, pictures, "--projector", folder, "--output", vectors)
    packed = np.load(vectors)
    with tensorboard(folder) as address:
        assert json.loads(fetch(f"{address}/runs")) == ["."]
        (embedding,) = json.loads(fetch(f"{address}/info", run="."))["embeddings"]
        query = {"run": ".", "name": embedding["tensorName"]}
        tensor = np.frombuffer(fetch(f"{address}/tensor", **query), np.float32)
        metadata = fetch(f"{address}/metadata", **query).decode().splitlines()
        (tmp_path / "sprites.png").write_bytes(fetch(f"{address}/sprite_image", **query))
    assert embedding["tensorShape"] == list(packed["embedding"].shape)
    assert np.allclose(tensor.reshape(packed["embedding"].shape), packed["embedding"], atol=1e-6)
    rows = [line.split("\t") for line in metadata]
    assert rows[0] == ["label", "answer", "path"]
    assert rows[1:] == [list(row) for row in zip(packed["label"], packed["answer"], packed["path"], strict=True)]
    sprites = np.asarray(Image.open(tmp_path / "sprites.png"))
    assert sprites.shape == (6 * 32, 6 * 32, 3)
    shown = np.asarray(Image.open(packed["path"][7]).convert("RGB").resize((32, 32), 2))
    assert np.array_equal(sprites[32:64, 32:64], shown)  # the eighth image is the second of the second row
    assert embedding["sprite"]["singleImageDim"] == [32, 32]


@pytest.mark.parametrize("images", [3, 16_384, 16_385, 100_000])
def test_sprites_of_any_number_of_images_fit_on_a_texture(images: int) -> None:
    assert 1 <= thumbnail_side(images) <= 64
    assert thumbnail_side(images) * grid_side(images) <= MAX_SPRITE_SIDE


# The map.

_HOVER = """(() => {
    const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect();
    const tip = document.querySelector(".tip");
    for (let y = 50; y < box.height; y += 6) for (let x = 6; x < box.width; x += 6) {
        const at = {clientX: box.left + x, clientY: box.top + y, pointerId: 1, pointerType: "POINTER"};
        for (const event of EVENTS) canvas.dispatchEvent(new PointerEvent(event, at));
        if (!tip.hidden) {
            const shown = tip.getBoundingClientRect();
            return [tip.innerText, shown.left >= 0 && shown.right <= innerWidth, tip.querySelector("img").complete];
        }
    }
})()"""
MOUSE = _HOVER.replace("POINTER", "mouse").replace("EVENTS", '["pointermove"]')
TOUCH = _HOVER.replace("POINTER", "touch").replace("EVENTS", '["pointerdown", "pointerup"]')
DRAWN = "document.querySelector('canvas').toDataURL()"
LEGEND = "[...document.querySelectorAll('.legend button')]"


def test_map_shows_an_image_under_the_mouse_or_finger(
    command: Command, classifier: Path, pictures: Path, browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "map.html"
    report = reported(command, classifier, pictures, "--map", page)
    for width, touch in ((1280, MOUSE), (390, TOUCH)):
        browser.open(page, width, dark=width < 600)
        text, is_inside, is_loaded = browser.evaluate(touch)
        label, answer, name = text.splitlines()
        assert (pictures / name).is_file()
        assert Path(name).parent.name == label
        assert answer.removeprefix("model: ") in LABELS
        assert is_inside
        assert is_loaded
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate(f"{LEGEND}.map(each => each.innerText.split(/\\s/)[0])") == [*LABELS]
        drawn = [browser.evaluate(DRAWN)]
        for number in range(len(LABELS)):
            browser.evaluate(f"{LEGEND}[{number}].click()")
            drawn.append(browser.evaluate(DRAWN))
        assert len(set(drawn)) == 4  # all labels, two, one, none
        assert browser.evaluate(MOUSE) is None
        assert f"{100 * report['recall']['recall@1']:.1f} %" in browser.evaluate("document.body.innerText")
        assert browser.problems == []
        assert browser.requests == [page.as_uri()]


def test_map_is_a_sample_when_there_are_many_images(browser: Browser, tmp_path: Path) -> None:
    count = MAX_POINTS + 1
    vectors = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    pca, coordinates = principal_components(vectors)
    named = [EmbeddingInput(tmp_path / f"</script>{number}.png") for number in range(count)]
    tile = np.zeros((2, 2, 3), np.uint8)
    embeddings = ImageVectors(named, vectors, ["<b>"] * count, [tile] * count, [], "features")
    page = tmp_path / "many.html"
    page.write_text(render_map(embeddings, coordinates, pca, {}, PETS.task, "pca"))
    browser.open(page, 1280)
    text = browser.evaluate("document.body.innerText")
    assert f"{count:,} images" in text
    assert f"random sample of {MAX_POINTS:,} images" in text
    assert "the model's answer" in text  # there are no labels
    assert browser.evaluate("document.querySelector('.legend small').innerText") == str(MAX_POINTS)
    assert browser.problems == []
