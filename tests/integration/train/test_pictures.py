"""The plots and image sheets of a run, and the report of mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.train.conftest import CopyDigits, WriteConfig, WriteTable
from train.config.loading import load_config
from train.engine.fit import FitResult, fit, resume
from train.evaluate import evaluate
from train.reports.confusion import write_confusion_image
from train.reports.overlays import class_overlay, comparison_overlay
from train.reports.plots import draw_curves
from train.reports.sheets import SheetCell, write_sheet
from tritonkit.evaluation.evaluate import measure
from tritonkit.evaluation.labelled_images import read_labelled
from tritonkit.evaluation.tasks import evaluation_task_of
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.evaluation.tasks.nearest_neighbors import find_nearest
from tritonkit.images.preprocess import load_file
from tritonkit.runtimes import open_artifact
from tritonkit.tasks.segmentation import IGNORED

PICTURES = {"curves.png", "batches.png", "predictions.png", "confusion.png"}


def read_png(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    assert image.format == "PNG"
    assert min(image.size) >= 300
    assert max(image.size) <= 2500
    return image


def confusions_of(checkpoint: Path, data: Path) -> dict[str, ConfusionMatrix]:
    """Count the confusion matrices of a checkpoint over the images of a CSV."""
    found: dict[str, ConfusionMatrix] = {}
    with open_artifact(checkpoint) as runner:
        task = evaluation_task_of(runner.spec)

        def count(batch):
            for head, each in task.confusion(batch.outputs, task.golden_targets(batch.targets), runner.spec).items():
                found[head] = found[head] + each if head in found else each

        measure(runner, read_labelled(data, runner.spec, task), task, count)
    return found


def listed_on(page: Path) -> list[str]:
    """Return the names of the images on a page, in order."""
    return [Path(found).name for found in re.findall(r'<small title="(\S+) ·', page.read_text())]


@pytest.fixture(scope="module")
def segmented(
    make_masks: Callable[..., Path], write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory
) -> FitResult:
    root = tmp_path_factory.mktemp("segmented")
    data = make_masks(root / "data", count=20)
    small = {"encoder_depth": 3, "decoder_channels": [16, 16, 8]}
    model = {"name": "Unet", "encoder": "resnet18", "arguments": small}
    config = write_config(root / "config.yaml", data / "images", task="segmentation", model=model, batch_size=4)
    return fit(load_config(config, [f"data.masks={data / 'masks'}", "data.val_ratio=0.3"]))


def test_run_leaves_pictures_to_look_at(trained: FitResult) -> None:
    assert {path.name for path in trained.run.glob("*.png")} == PICTURES
    for name in PICTURES:
        assert len(read_png(trained.run / name).getcolors(2**20) or ()) > 20


def test_confusion_counts_each_val_picture_once(trained: FitResult) -> None:
    (confusion,) = confusions_of(trained.checkpoint, trained.run / "splits" / "val.csv").values()

    assert confusion.counts.sum() == 36
    assert confusion.counts.sum(axis=1).tolist() == [12, 12, 12]
    assert np.trace(confusion.counts) / 36 == pytest.approx(trained.metrics["val_accuracy"], abs=1e-5)


def test_segmentation_leaves_masks_and_counts_pixels(segmented: FitResult) -> None:
    assert {path.name for path in segmented.run.glob("*.png")} == PICTURES
    predictions = read_png(segmented.run / "predictions.png")
    assert predictions.width > predictions.height  # two pictures of each stand side by side

    (confusion,) = confusions_of(segmented.checkpoint, segmented.run / "splits" / "val.csv").values()

    assert confusion.unit == "pixels"
    assert confusion.counts.sum() == 6 * 32 * 32


def test_heads_leave_a_confusion_each(
    tmp_path: Path,
    facts_about_digits: Callable[..., list[dict[str, str]]],
    write_table: WriteTable,
    write_config: WriteConfig,
) -> None:
    rows = [
        {**row, "facts": "|".join(name for name in ("odd", "large") if row[name] == "1") or "|"}
        for row in facts_about_digits(6)
    ]
    data = write_table(tmp_path / "facts.csv", rows)
    heads = {"digit": {"task": "multiclass"}, "facts": {"task": "multilabel"}, "alike": {"task": "embedding"}}
    heads["alike"] |= {"embedding_size": 8, "column": "digit"}

    run = fit(load_config(write_config(tmp_path / "config.yaml", data, task="heads", heads=heads)))

    names = {path.name for path in run.run.glob("*.png")}
    assert names == {*PICTURES - {"confusion.png"}, "confusion.digit.png", "confusion.facts.png"}
    found = confusions_of(run.checkpoint, run.run / "splits" / "val.csv")
    assert found["digit"].counts.sum() == sum(1 for _ in (run.run / "splits" / "val.csv").open()) - 1
    assert found["facts"].answers == ("found", "missed", "invented")


def test_checkpoints_are_written_when_no_picture_can_be(
    folder: Path, tmp_path: Path, write_config: WriteConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    run = fit(load_config(write_config(tmp_path / "config.yaml", folder)))
    run.checkpoint.unlink()
    config = run.run / "config.yaml"
    config.write_text(config.read_text().replace("\nepochs: 1\n", "\nepochs: 2\n"))
    for name in PICTURES:
        (run.run / name).unlink()
        (run.run / name).mkdir()

    again = resume(run.run)

    assert again.checkpoint.is_file()
    output = capfd.readouterr().err
    assert "epoch 2/2" in output
    assert all(f"{name}: not drawn" in output for name in PICTURES)


def test_mistakes_lists_exactly_the_wrong_ones_worst_first(
    trained: FitResult, copy_digits: CopyDigits, tmp_path: Path
) -> None:
    data = copy_digits(tmp_path / "data", count=20, start=100)
    for path in sorted((data / "1").iterdir())[:5]:
        path.rename(data / "7" / f"one-{path.name}")
    page = tmp_path / "mistakes.html"

    evaluation = evaluate(trained.checkpoint, data, mistakes=page)

    pictures = sorted(data.rglob("*.png"))
    with open_artifact(trained.checkpoint) as runner:
        probabilities = runner.infer(np.stack([load_file(path, runner.spec.preprocess)[0] for path in pictures]))[
            "probabilities"
        ]
        truths = np.array([runner.spec.labels.index(path.parent.name) for path in pictures])
    wrong = probabilities.argmax(axis=1) != truths
    doubt = 1 - probabilities[np.arange(len(pictures)), truths]
    expected = sorted((-doubt[i], path.name) for i, path in enumerate(pictures) if wrong[i])
    assert 5 <= len(expected) == round(60 * (1 - evaluation.metrics["accuracy"]))
    assert listed_on(page) == [name for _, name in expected]
    assert f"{len(expected)} of 60 " in page.read_text()
    assert "truth: 7" in page.read_text()


def test_mistakes_says_so_when_there_are_none(trained: FitResult, write_table: WriteTable, digits: Path) -> None:
    pictures = sorted((digits / "0").iterdir())[:4]
    with open_artifact(trained.checkpoint) as runner:
        images = np.stack([load_file(path, runner.spec.preprocess)[0] for path in pictures])
        answers = [runner.spec.labels[i] for i in runner.infer(images)["probabilities"].argmax(axis=1)]
    rows = [{"image_path": str(path), "label": answer} for path, answer in zip(pictures, answers, strict=True)]
    data = write_table(trained.run.parent / "right.csv", rows)

    evaluate(trained.checkpoint, data, mistakes=data.with_suffix(".html"))

    page = data.with_suffix(".html").read_text()
    assert "no mistakes" in page
    assert "all 4 " in page
    assert "<figure" not in page


def test_mistakes_of_masks_tell_their_colours(segmented: FitResult, tmp_path: Path) -> None:
    evaluate(segmented.checkpoint, mistakes=tmp_path / "mistakes.html")

    page = (tmp_path / "mistakes.html").read_text()
    assert page.count("<figure") == 4
    assert "amber: " in page


def test_mistakes_are_refused_where_no_file_can_be_written(trained: FitResult, command, tmp_path: Path) -> None:
    result = command("train", "test", trained.checkpoint, "--mistakes", tmp_path)

    assert result.exit_code == 2
    assert "is a folder" in result.output


def test_neighbours_are_looked_up_in_the_gallery_alone() -> None:
    angles = np.array([0.0, 0.1, 0.3, 0.5, 1.4])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    classes = np.array([7, 7, 1, 7, 5])
    nobody = np.zeros(5, dtype=bool)

    alone = find_nearest(vectors, classes, nobody)
    shelved = find_nearest(vectors, classes, np.array([False, False, True, True, False]))

    assert alone.nearest.tolist() == [1, 0, 1, 2, 3]
    assert (alone.error_score > 0).tolist() == [False, False, False, True, False]
    assert shelved.nearest[:2].tolist() == [2, 2]
    assert (shelved.error_score > 0).tolist() == [True, True, False, False, False]


def test_judged_colours_what_is_wrong_and_leaves_the_rest() -> None:
    image = np.full((2, 3, 3), 100, dtype=np.uint8)
    truth = np.array([[0, 1, 1], [0, 2, IGNORED]], dtype=np.uint8)
    answer = np.array([[0, 1, 0], [1, 1, 1]], dtype=np.uint8)

    pixels = np.asarray(comparison_overlay(image, truth, answer))

    assert (pixels[0, 0] == 100).all()
    assert len({tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}) == 6
    assert (pixels[1, 2] == 177).all()
    assert (np.asarray(class_overlay(image, truth))[1, 2] == 177).all()


def test_plots_take_many_classes_and_odd_labels(tmp_path: Path) -> None:
    labels = tuple(f"${number}_{'long ' * 9}漢" for number in range(60))
    few, many = (ConfusionMatrix(labels[:n], labels[:n], np.eye(n, dtype=np.int64) * 12345) for n in (2, 60))
    rows = [{"epoch": 1, "lr": 0.1, "train_loss": 2.0, **{f"val_head.{n}": n / 20 for n in range(14)}}]

    write_confusion_image(tmp_path / "few.png", few, "$few")
    write_confusion_image(tmp_path / "many.png", many, "many")
    draw_curves(tmp_path / "curves.png", rows, "val_head.3", "one epoch")
    write_sheet(tmp_path / "sheet.png", [SheetCell(Image.new("RGB", (640, 8)), labels[0] * 9)], "wide", "")

    for name in ("few.png", "many.png", "curves.png"):
        read_png(tmp_path / name)
    assert Image.open(tmp_path / "sheet.png").width <= 1440
