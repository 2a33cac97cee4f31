"""Folds: stratified, by group or by class, with copies of an image in one fold; what is refused."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train_configs import tiny_config
from train.data.folding import fold_seed, read_folds
from train.data.splits import Splits
from train.experiments.folds import FoldResult, summarize
from train.experiments.out_of_fold import PREDICTIONS_FILE, out_of_fold
from train.tasks import training_task
from tritonkit.errors import DataError, TritonkitError

Row = dict[str, str]
WriteImages = Callable[..., Path]


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    """Write a table and an image of noise for each row; equal `content` gives equal images."""

    def write(rows: Iterable[Row], name: str = "data.csv") -> Path:
        lines = [{"image_path": f"{name}-{number:03}.png", **row} for number, row in enumerate(rows)]
        for number, line in enumerate(lines):
            noise = np.random.default_rng(int(line.pop("content", number + 1000 * len(name))))
            Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / line["image_path"])
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        return tmp_path / name

    return write


def folds_of(path: Path, count: int = 3, task: str = "multiclass", seed: int = 0, **data: object) -> list[Splits]:
    config = tiny_config(task=task, data={"path": str(path), "val_ratio": 0.3, **data})
    return read_folds(config.data, training_task(config), seed, count)[0]


def names(splits: Splits, part: str) -> list[str]:
    return [sample.path.name for sample in getattr(splits, part)]


def codes(error: TritonkitError) -> set[str]:
    return {problem.code for problem in error.problems}


def test_each_image_is_in_one_fold_in_the_proportions_of_the_classes(write_images: WriteImages) -> None:
    path = write_images({"label": label} for label in "a" * 12 + "b" * 6)
    folds = folds_of(path)
    assert sorted(name for splits in folds for name in names(splits, "test")) == sorted(
        f"data.csv-{number:03}.png" for number in range(18)
    )
    for splits in folds:
        assert Counter(sample.truth for sample in splits.test) == {"a": 4, "b": 2}
        assert {sample.truth for sample in splits.val} == {"a", "b"}
        parts = [set(names(splits, part)) for part in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 18
    assert len({splits.fingerprint for splits in folds}) == 1
    assert [names(splits, "val") for splits in folds_of(path)] == [names(splits, "val") for splits in folds]
    assert [names(splits, "test") for splits in folds_of(path, seed=1)] != [names(splits, "test") for splits in folds]


def test_copies_of_an_image_are_in_one_part(write_images: WriteImages) -> None:
    path = write_images(
        {"label": "ab"[number % 2], "content": str(number // 4 * 2 + number % 2)} for number in range(48)
    )
    for splits in folds_of(path):
        parts = [{sample.path.read_bytes() for sample in part} for part in (splits.train, splits.val, splits.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 24


def test_groups_stay_together_when_a_column_defines_them(write_images: WriteImages) -> None:
    path = write_images({"label": "ab"[number % 2], "patient": f"p{number // 4}"} for number in range(48))
    for splits in folds_of(path, group="patient"):
        parts = [{sample.group for sample in part} for part in (splits.train, splits.val, splits.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 12
        assert len(parts[2]) == 4


def test_classes_stay_together_for_embeddings(write_images: WriteImages) -> None:
    path = write_images({"label": label} for label in "abcdefghi" * 3)
    for splits in folds_of(path, task="embedding"):
        parts = [{sample.truth for sample in part} for part in (splits.train, splits.val, splits.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 9
        assert len(parts[2]) == 3


def test_train_and_val_of_the_data_are_divided_and_its_test_part_is_not(
    write_images: WriteImages, tmp_path: Path
) -> None:
    for part, count in (("train", 12), ("val", 6), ("test", 4)):
        write_images(({"label": "ab"[number % 2]} for number in range(count)), f"{part}.csv")
    config = tiny_config(data={"path": str(tmp_path), "val_ratio": 0.3})
    folds, test = read_folds(config.data, training_task(config), 0, 3)
    assert sorted(len(splits.test) for splits in folds) == [6, 6, 6]
    assert {sample.path.name[:4] for sample in test} == {"test"}
    assert not {sample.path for sample in test} & {sample.path for splits in folds for sample in splits.train}


@pytest.mark.parametrize(
    ("rows", "data", "code"),
    [
        ([{"label": label} for label in "a" * 9 + "b" * 2], {}, "folds.class_too_small"),
        ([{"label": "ab"[i % 2], "content": str(i % 2)} for i in range(12)], {}, "folds.too_few"),
        ([{"label": "ab"[i % 2], "who": f"p{i // 4}"} for i in range(8)], {"group": "who"}, "folds.too_few"),
        (
            [{"label": "ab"[i > 15], "who": f"p{i // 4}"} for i in range(24)],
            {"group": "who"},
            "folds.class_too_small",
        ),
        ([{"label": "ab"[i % 2]} for i in range(12)], {"group": "who"}, "data.missing_column"),
    ],
    ids=["small class", "copies", "groups", "groups of a class", "column"],
)
def test_folds_are_refused_when_a_class_cannot_be_in_each(
    write_images: WriteImages, rows: list[Row], data: dict[str, str], code: str
) -> None:
    with pytest.raises(DataError) as caught:
        folds_of(write_images(rows), **data)
    assert codes(caught.value) == {code}


def test_folds_are_refused_when_val_cannot_be_split_off(write_images: WriteImages) -> None:
    path = write_images({"label": label} for label in "abc" * 4)
    with pytest.raises(DataError, match="fold 1: of the other folds, 1 of 8 images") as caught:
        folds_of(path, val_ratio=0.1)
    assert caught.value.code == "data.split_ratio"


def test_seed_of_a_fold_depends_on_its_number_and_the_seed() -> None:
    seeds = {(seed, fold): fold_seed(seed, fold) for seed in range(3) for fold in range(1, 6)}
    assert len(set(seeds.values())) == 15
    assert seeds[0, 1] == fold_seed(0, 1)


def test_summary_leaves_out_folds_in_which_a_metric_cannot_be_measured() -> None:
    values: list[dict[str, float | None]] = [{"map": 0.5, "auroc": None}, {"map": 0.7, "auroc": 0.9}]
    folds = [
        FoldResult(fold=number, images=2, seed=0, checkpoint=Path("x"), metrics=each)
        for number, each in enumerate(values, start=1)
    ]
    summary = summarize(folds)
    assert (summary["map"].mean, summary["map"].std, summary["map"].folds) == (0.6, 0.141421, 2)
    assert (summary["auroc"].mean, summary["auroc"].std, summary["auroc"].folds) == (0.9, None, 1)


HEADER = "image_path,fold,error,truth,predicted,probability/a,probability/b|c"


def test_predictions_are_read_when_labels_hold_the_separator(tmp_path: Path) -> None:
    rows = ["x.png,1,0,b|c,b|c,0.25,0.75", "y.png,2,1,a,b|c,0.4,0.6"]
    (tmp_path / PREDICTIONS_FILE).write_text("\n".join([HEADER, *rows]))
    predictions = out_of_fold(tmp_path)
    head = predictions.heads[""]
    assert (predictions.images, predictions.folds.tolist()) == ((Path("x.png"), Path("y.png")), [1, 2])
    assert head.labels == ("a", "b|c")
    assert head.truths.tolist() == [[False, True], [True, False]]
    assert head.probabilities.tolist() == [[0.25, 0.75], [0.4, 0.6]]


@pytest.mark.parametrize("row", ["x.png,1,0,dog,a,0.9,0.1", "x.png,one,0,a,a,0.9,0.1", "x.png,1,0,a,a,0.9"])
def test_predictions_are_refused_when_a_row_is_broken(tmp_path: Path, row: str) -> None:
    (tmp_path / PREDICTIONS_FILE).write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(DataError) as caught:
        out_of_fold(tmp_path)
    assert caught.value.code == "folds.broken_predictions"
