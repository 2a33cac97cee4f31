"""`train prepare`: writes the tables of a split."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.errors import error_codes
from tests.fixture_types import Command
from train.config.sections import DataConfig, HeadConfig
from train.data.prepare import parse_ratios
from train.data.splits import read_splits
from train.tasks import TRAINING_TASKS


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_prepare_writes_the_parts_when_given_class_folders(command: Command, folder: Path, tmp_path: Path) -> None:
    result = command("train", "prepare", folder, tmp_path / "splits", "--ratio", "50:25:25")
    assert result.exit_code == 0, result.output
    counts, folder_line = result.stdout.splitlines()
    assert counts.startswith("train 18, val 9, test 9; 3 labels; fingerprint ")
    assert folder_line == str(tmp_path / "splits")
    assert {path.name for path in (tmp_path / "splits").iterdir()} == {"train.csv", "val.csv", "test.csv", "data.json"}
    assert Counter(row["label"] for row in table(tmp_path / "splits" / "val.csv")) == {"0": 3, "1": 3, "7": 3}
    assert all(Path(row["image_path"]).is_absolute() for row in table(tmp_path / "splits" / "train.csv"))


def test_prepare_prints_one_document_with_json(command: Command, folder: Path, tmp_path: Path) -> None:
    result = command("train", "prepare", folder, tmp_path / "splits", "--ratio", "0.8:0.2", "--json")
    document = json.loads(result.stdout)
    facts = json.loads((tmp_path / "splits" / "data.json").read_text())
    assert document == {
        "folder": str(tmp_path / "splits"),
        "fingerprint": facts["fingerprint"],
        "labels": ["0", "1", "7"],
        "pictures": {"train": 29, "val": 7},
    }
    assert facts["labels"] == ["0", "1", "7"]
    assert facts["pictures"] == {"base": 0, "train": 29, "val": 7, "test": 0}


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_prepared_data_is_the_same_when_trained_on(
    command: Command, folder: Path, masked: Path, tmp_path: Path, task: str
) -> None:
    source = [folder] if task == "multiclass" else [masked / "images", "--masks", masked / "masks"]
    target = tmp_path / "deep" / "splits"
    result = command("train", "prepare", source[0], target, *source[1:], "--task", task, "--seed", 7, "--json")
    assert result.exit_code == 0, result.output
    splits = read_splits(DataConfig(path=target), TRAINING_TASKS[task](HeadConfig(task=task)), seed=0)
    assert splits.fingerprint == json.loads(result.stdout)["fingerprint"]
    assert [str(sample.path) for sample in splits.val] == [row["image_path"] for row in table(target / "val.csv")]


def test_prepare_keeps_the_most_common_classes_when_configured(command: Command, folder: Path, tmp_path: Path) -> None:
    for picture in sorted((folder / "1").iterdir())[:4]:
        picture.unlink()
    command("train", "prepare", folder, tmp_path / "splits", "--top-classes", 2)
    assert {row["label"] for row in table(tmp_path / "splits" / "train.csv")} == {"0", "7"}


def test_prepare_puts_whole_classes_into_parts_when_split_by_class(
    command: Command, copy_digits: Callable[..., Path], tmp_path: Path
) -> None:
    data = copy_digits(tmp_path / "digits", labels="01234", count=4)
    result = command("train", "prepare", data, tmp_path / "splits", "--by", "class", "--task", "embedding")
    assert result.exit_code == 0, result.output
    parts = [{row["label"] for row in table(tmp_path / "splits" / f"{part}.csv")} for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 5


def test_prepare_splits_another_way_when_the_seed_is_another(command: Command, folder: Path, tmp_path: Path) -> None:
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        assert command("train", "prepare", folder, tmp_path / str(number), "--seed", seed).exit_code == 0
        texts.append((tmp_path / str(number) / "val.csv").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_prepare_takes_columns_and_groups_as_named(
    command: Command, folder: Path, write_table: Callable[..., Path], tmp_path: Path
) -> None:
    pictures = sorted(folder.rglob("*.png"))
    rows = [{"filename": str(p), "class": p.parent.name, "patient": f"p{i % 8}"} for i, p in enumerate(pictures)]
    path, target = write_table(tmp_path / "cells.csv", rows), tmp_path / "splits"
    words = ["--column", "image=filename", "--column", "label=class", "--group", "patient", "--json"]
    result = command("train", "prepare", path, target, *words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["labels"] == ["0", "1", "7"]
    parts = [{row["image_path"] for row in table(target / f"{part}.csv")} for part in ("train", "val", "test")]
    patients = [{row["patient"] for row in rows if row["filename"] in part} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 8
    assert json.loads((target / "data.json").read_text())["group"] == "patient"
    multiclass = TRAINING_TASKS["multiclass"](HeadConfig(task="multiclass"))
    assert {s.group for s in read_splits(DataConfig(path=target), multiclass, seed=0).test} == patients[2]


def test_prepare_takes_masks_by_their_suffix_and_values_as_named(
    command: Command, masked: Path, tmp_path: Path
) -> None:
    for mask in list((masked / "masks").iterdir()):
        Image.open(mask).convert("L").point(lambda level: level // 100).save(mask.with_stem(f"{mask.stem}_mask"))
        mask.unlink()
    words = ["--masks", masked / "masks", "--mask-suffix", "_mask", "--mask-values", "background: 0, ink: 2"]
    result = command("train", "prepare", masked / "images", tmp_path / "s", "--task", "segmentation", *words, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["labels"] == ["background", "ink"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--column", "picture=file"], "option.column", "--column picture=file: "),
        (["--mask-values", "a: ["], "option.mask_values", "--mask-values a: [: "),
        (["--mask-values", "a: x, b: 1"], "option.invalid", "mask_values"),
        (["--ratio", "0.8"], "option.ratio", "--ratio 0.8: "),
        (["--ratio", "a:b"], "option.ratio", "--ratio a:b: "),
        (["--ratio", "1:0:0"], "option.ratio", "--ratio 1:0:0: "),
        (["--task", "detection"], "config.unknown_task", "'detection'"),
        (["--by", "folder"], "option.invalid", "split_by"),
        (["--masks", "no"], "data.not_found", "no: "),
        (["--task", "segmentation"], "data.no_masks", "data.masks"),
    ],
)
def test_prepare_is_refused_and_writes_nothing_when_it_cannot(
    command: Command, folder: Path, tmp_path: Path, words: list[str], code: str, expected: str
) -> None:
    result = command("train", "prepare", folder, tmp_path / "splits", *words, "--json")
    assert result.exit_code == 2
    assert code in error_codes(result)
    assert expected in json.loads(result.stdout)["error"]["message"]
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_prepare_leaves_the_target_alone_when_it_is_there(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    result = command("train", "prepare", folder, tmp_path / "splits", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "output.exists"
    assert not list((tmp_path / "splits").iterdir())


def test_ratios_are_shares_when_written_as_percent_or_parts() -> None:
    assert parse_ratios("80:20") == (0.2, 0.0)
    assert parse_ratios("0.7:0.15:0.15") == (pytest.approx(0.15), pytest.approx(0.15))
    assert parse_ratios("2:1:1") == (0.25, 0.25)
