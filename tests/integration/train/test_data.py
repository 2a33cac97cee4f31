"""Reading, checking and splitting of data."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.errors import raises
from train.config.loading import Config
from train.config.sections import DataConfig, HeadConfig
from train.data.splits import Splits, read_splits
from train.tasks import TRAINING_TASKS, training_task
from tritonkit.errors import DataError
from tritonkit.evaluation.labelled_images import read_labelled
from tritonkit.evaluation.readers import read_table
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.evaluation.samples.sample import IMAGE
from tritonkit.evaluation.tasks import EvaluationTask, evaluation_task_of
from tritonkit.evaluation.tasks.base import natural_sort_key
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import Lineage, ModelSpec

Table = Callable[..., Path]
DATA = {"name": "x", "model": {"name": "x"}, "image": {"size": 32}}


def split(path: Path, task: str = "multiclass", seed: int = 0, **data: object) -> Splits:
    return read_splits(DataConfig(path=path, **data), TRAINING_TASKS[task](HeadConfig(task=task)), seed)


def split_masks(folder: Path, **data: object) -> Splits:
    return split(folder / "images", task="segmentation", masks=folder / "masks", **data)


def labels_of(splits: Splits, part: str) -> Counter[str]:
    return Counter(sample.truth for sample in getattr(splits, part))


def all_paths(splits: Splits) -> list[Path]:
    return [sample.path for part in PARTS for sample in getattr(splits, part)]


def test_split_is_stratified_when_a_folder_has_class_folders(folder: Path) -> None:
    splits = split(folder, val_ratio=0.25, test_ratio=0.25)
    assert splits.task_spec.labels == ("0", "1", "7")
    for part, count in (("train", 6), ("val", 3), ("test", 3)):
        assert labels_of(splits, part) == {"0": count, "1": count, "7": count}
    assert len(set(all_paths(splits))) == len(all_paths(splits)) == 36


def test_split_is_the_same_when_the_seed_is(folder: Path) -> None:
    assert split(folder, seed=3) == split(folder, seed=3)
    assert split(folder, seed=3).test != split(folder, seed=4).test


def test_every_part_has_every_label_when_pictures_have_several(
    facts_about_digits: Callable[..., list[dict[str, str]]], write_table: Table, tmp_path: Path
) -> None:
    rows = [{key: value for key, value in row.items() if key != "digit"} for row in facts_about_digits(8)]
    # A rare one, which chance alone would leave out of a part.
    rows = [{**row, "rare": str(int(number % 20 == 0))} for number, row in enumerate(rows)]
    for seed in range(5):
        splits = split(write_table(tmp_path / "facts.csv", rows), task="multilabel", seed=seed)
        for part in ("train", "val", "test"):
            counts = Counter(label for sample in getattr(splits, part) for label in sample.truth)
            assert set(counts) == {"round", "odd", "large", "rare"}, (seed, part)
        assert len(all_paths(splits)) == 80


def test_copies_stay_in_one_part_when_split(folder: Path) -> None:
    for picture in sorted(folder.rglob("*.png")):
        shutil.copy(picture, picture.with_stem(f"{picture.stem}-copy"))
    splits = split(folder)
    assert len(all_paths(splits)) == 72
    places: dict[bytes, set[str]] = {}
    for part in PARTS:
        for sample in getattr(splits, part):
            places.setdefault(sample.path.read_bytes(), set()).add(part)
    assert len(places) == 36
    assert all(len(parts) == 1 for parts in places.values())


def test_no_class_is_in_two_parts_when_split_by_class(copy_digits: Callable[..., Path], tmp_path: Path) -> None:
    data = copy_digits(tmp_path / "data", labels="0123456789", count=4)
    splits = split(data, task="embedding", val_ratio=0.2, test_ratio=0.2)
    classes = {part: set(labels_of(splits, part)) for part in ("train", "val", "test")}
    assert [len(each) for each in classes.values()] == [6, 2, 2]
    assert set.union(*classes.values()) == set("0123456789")
    assert split(data, task="embedding", seed=1).test != split(data, task="embedding", seed=0).test
    # The same task may be split by picture, and another by class.
    assert set(
        labels_of(split(data, task="embedding", split_by="picture", val_ratio=0.25, test_ratio=0.25), "val")
    ) == set("0123456789")


def test_parts_are_kept_when_the_folder_has_them(copy_digits: Callable[..., Path], tmp_path: Path) -> None:
    for part, start in (("train", 0), ("val", 12), ("test", 18)):
        copy_digits(tmp_path / "data" / part, count=6, start=start)
    splits = split(tmp_path / "data")
    for part in ("train", "val", "test"):
        assert {sample.path.parents[1].name for sample in getattr(splits, part)} == {part}
        assert len(getattr(splits, part)) == 18


def test_a_part_is_split_off_when_the_folder_lacks_it(copy_digits: Callable[..., Path], tmp_path: Path) -> None:
    copy_digits(tmp_path / "data" / "train")
    copy_digits(tmp_path / "data" / "test", count=4, start=20)
    splits = split(tmp_path / "data", val_ratio=0.25)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [27, 9, 12]


def test_gallery_is_the_base_part_when_the_folder_has_one(copy_digits: Callable[..., Path], tmp_path: Path) -> None:
    copy_digits(tmp_path / "data" / "train", labels="0123", count=4)
    copy_digits(tmp_path / "data" / "val", labels="45", count=4)
    copy_digits(tmp_path / "data" / "base", labels="45", count=4, start=8)
    splits = split(tmp_path / "data", task="embedding", test_ratio=0)
    assert {part: len(getattr(splits, part)) for part in PARTS} == {"base": 8, "train": 16, "val": 8, "test": 0}
    assert all(sample.gallery for sample in splits.base)
    assert not any(sample.gallery for sample in (*splits.train, *splits.val))


@pytest.mark.parametrize("pair", [("train", "val"), ("train", "test"), ("val", "test"), ("base", "val")])
def test_data_is_refused_when_a_picture_is_in_two_parts(
    copy_digits: Callable[..., Path], tmp_path: Path, pair: tuple[str, str]
) -> None:
    for number, part in enumerate(PARTS):
        copy_digits(tmp_path / "data" / part, count=3, start=3 * number)
    source = min((tmp_path / "data" / pair[0] / "0").iterdir())
    shutil.copy(source, tmp_path / "data" / pair[1] / "0" / "copy.png")
    with raises(DataError, "data.image_in_two_parts", f"copy.png in {pair[1]} is {source} in {pair[0]}"):
        split(tmp_path / "data")


def test_top_classes_are_the_most_common_when_configured(copy_digits: Callable[..., Path], tmp_path: Path) -> None:
    for label, count in (("3", 5), ("4", 9), ("5", 7), ("6", 7)):
        copy_digits(tmp_path / "data", labels=label, count=count)
    splits = split(tmp_path / "data", top_classes=2, val_ratio=0.25, test_ratio=0.25)
    assert splits.task_spec.labels == ("4", "5")  # of equally common ones, the first
    assert len(all_paths(splits)) == 16


def test_top_classes_of_train_count_in_all_parts_when_there_are_parts(
    copy_digits: Callable[..., Path], tmp_path: Path
) -> None:
    for label, count in (("3", 5), ("4", 9), ("5", 7)):
        copy_digits(tmp_path / "data" / "train", labels=label, count=count)
        copy_digits(tmp_path / "data" / "val", labels=label, count=14 - count, start=20)
    splits = split(tmp_path / "data", top_classes=2, test_ratio=0)
    assert set(labels_of(splits, "val")) == {"4", "5"}
    assert len(splits.val) == 5 + 7


def test_fingerprint_follows_the_content_when_the_folder_moves(folder: Path, tmp_path: Path) -> None:
    before = split(folder).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert split(moved).fingerprint == before
    assert split(moved, seed=1).fingerprint == before
    first, second = sorted((moved / "0").iterdir())[:2]
    shutil.copy(first, second)
    assert split(moved).fingerprint != before


def test_fingerprint_differs_when_one_label_does(folder: Path) -> None:
    before = split(folder).fingerprint
    picture = min((folder / "0").iterdir())
    picture.rename(folder / "1" / "was-a-zero.png")
    assert split(folder).fingerprint != before


def test_fingerprint_differs_when_one_mask_does(masked: Path, tmp_path: Path) -> None:
    before = split_masks(masked).fingerprint
    moved = masked.rename(tmp_path / "elsewhere")
    assert split_masks(moved).fingerprint == before
    mask = np.array(Image.open(moved / "masks" / "03.png"))
    mask[0, 0] ^= 255
    Image.fromarray(mask).save(moved / "masks" / "03.png")
    assert split_masks(moved).fingerprint != before


@pytest.mark.parametrize("columns", [["image_path", "round", "odd"], ["image_path", "odd", "round"]])
def test_fingerprint_is_the_same_when_the_columns_change_places(
    facts_about_digits: Callable[..., list[dict[str, str]]], write_table: Table, tmp_path: Path, columns: list[str]
) -> None:
    rows = facts_about_digits(4)
    columnwise = split(
        write_table(tmp_path / "columnwise.csv", [{c: row[c] for c in columns} for row in rows]), "multilabel"
    )
    lists = [{"image_path": r["image_path"], "labels": [n for n in ("odd", "round") if r[n] == "1"]} for r in rows]
    listed = split(write_table(tmp_path / "listed.json", lists), "multilabel")
    assert columnwise.fingerprint == listed.fingerprint
    assert columnwise.task_spec == listed.task_spec
    assert all_paths(columnwise) == all_paths(listed)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation", "embedding", "heads"])
def test_splits_are_the_same_when_saved_and_read_back(
    facts_about_digits: Callable[..., list[dict[str, str]]], write_table: Table, masked: Path, tmp_path: Path, task: str
) -> None:
    rows = facts_about_digits(8)
    data: dict[str, object] = {"path": tmp_path / "rows.csv"}
    own: dict[str, object] = {"column": "digit"}
    if task == "heads":
        rows = [{**row, "seen": "odd|large" if row["odd"] == "1" else "|"} for row in rows]
        heads = {
            "digit": {"task": "multiclass"},
            "seen": {"task": "multilabel"},
            "alike": {"task": "embedding", "column": "digit"},
        }
        own = {"heads": heads}
    if task == "multilabel":
        rows, own = [{key: row[key] for key in ("image_path", "round", "large", "odd")} for row in rows], {}
    if task == "segmentation":
        data, own = {"path": masked / "images", "masks": masked / "masks"}, {}
    write_table(tmp_path / "rows.csv", rows)
    training = training_task(Config.model_validate({**DATA, "task": task, "data": data, **own}))
    splits = read_splits(DataConfig.model_validate(data), training, seed=0)
    splits.save(tmp_path / "splits", training)
    again = read_splits(DataConfig(path=tmp_path / "splits"), training, seed=5)
    assert again == splits


def test_labels_are_in_natural_order_when_they_hold_numbers() -> None:
    labels = ["b", "10", "2", "a12", "a2", "1a"]
    assert sorted(labels, key=natural_sort_key) == ["1a", "2", "10", "a2", "a12", "b"]


def test_pictures_of_any_mode_are_accepted_when_they_decode(folder: Path) -> None:
    Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(folder / "0" / "alpha.PNG")
    assert len(all_paths(split(folder))) == 37


def multiclass(labels: tuple[str, ...], spec: ModelSpec) -> tuple[ModelSpec, EvaluationTask]:
    relabelled = spec.model_copy(update={"labels": labels})
    return relabelled, evaluation_task_of(relabelled)


def test_labelled_pictures_are_refused_when_the_model_does_not_know_them(folder: Path, spec: ModelSpec) -> None:
    with raises(DataError, "data.unknown_labels", ": 7; "):
        read_labelled(folder, *multiclass(("0", "1"), spec))


def test_labelled_pictures_are_the_test_part_when_the_folder_has_one(
    copy_digits: Callable[..., Path], tmp_path: Path, spec: ModelSpec
) -> None:
    for part, start in (("train", 0), ("test", 20)):
        copy_digits(tmp_path / "data" / part, count=2, start=start)
    assert {s.path.parents[1].name for s in read_labelled(tmp_path / "data", *multiclass(("0", "1", "7"), spec))} == {
        "test"
    }


def test_labelled_pictures_are_read_when_other_folders_lie_beside_the_test_part(
    copy_digits: Callable[..., Path], tmp_path: Path, spec: ModelSpec
) -> None:
    copy_digits(tmp_path / "data" / "test", count=2)
    copy_digits(tmp_path / "data" / "drafts", count=2, start=9)
    assert len(read_labelled(tmp_path / "data", *multiclass(("0", "1", "7"), spec))) == 6


def table_of(folder: Path, name: str, write_table: Table, **columns: Callable[[int, Path], object]) -> Path:
    """Write a table of the folder's images into the folder, with the label, and more columns from number and path."""
    pictures = sorted(folder.rglob("*.png"))
    rows = [
        {"image_path": str(p.relative_to(folder)), "label": p.parent.name}
        | {column: value(number, p) for column, value in columns.items()}
        for number, p in enumerate(pictures)
    ]
    return write_table(folder / name, rows)


@pytest.mark.parametrize(
    ("true", "false"), [("1.0", "0.0"), ("True", "False"), ("true", "false"), ("TRUE", "0"), (1.0, 0.0), (True, False)]
)
def test_facts_are_read_when_a_program_writes_them_its_own_way(
    folder: Path, write_table: Table, true: object, false: object
) -> None:
    pictures = sorted(folder.rglob("*.png"))

    def facts(name: str, yes: object, no: object) -> Splits:
        rows = [
            {"image_path": str(p), "seven": yes if p.parent.name == "7" else no, "odd": no if "0" in p.parts else yes}
            for p in pictures
        ]
        return split(write_table(folder / name, rows), "multilabel")

    suffix = "csv" if isinstance(true, str) else "json"
    assert facts(f"facts.{suffix}", true, false) == facts("plain.csv", "1", "0")


def test_labels_are_the_named_columns_when_a_multilabel_table_has_others(folder: Path, write_table: Table) -> None:
    is_label = {label: lambda _, p, label=label: int(p.parent.name == label) for label in "017"}
    path = table_of(
        folder, "facts.csv", write_table, is_train=lambda i, _: i % 2, patient=lambda i, _: f"p{i}", **is_label
    )
    task = TRAINING_TASKS["multilabel"](HeadConfig(task="multilabel"), None, ("0", "7"))
    splits = read_splits(DataConfig(path=path, labels=("0", "7")), task, seed=0)
    assert splits.task_spec.labels == ("0", "7")
    assert {sample.truth for sample in splits.train} == {("0",), ("7",), ()}


def test_labels_lose_their_fraction_when_the_whole_column_has_one(folder: Path, write_table: Table) -> None:
    whole = table_of(folder, "whole.csv", write_table)
    fractions = table_of(folder, "fractions.csv", write_table, label=lambda _, p: f"{p.parent.name}.0")
    assert split(fractions) == split(whole)


def test_labels_that_differ_in_capitals_are_noted_and_kept(
    folder: Path, write_table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table_of(folder, "letters.csv", write_table, label=lambda _, p: {"0": "a", "1": "A"}.get(p.parent.name, "b"))
    assert split(path).task_spec.labels == ("A", "a", "b")
    assert "(1):\n    'A' and 'a'" in capsys.readouterr().err


def test_groups_stay_in_one_part_when_they_are_named(folder: Path, write_table: Table) -> None:
    """Each patient has pictures of two classes; each part still gets all three."""
    path = table_of(
        folder, "cells.csv", write_table, patient=lambda i, p: f"p{i % 6}" if p.parent.name != "7" else f"p{i % 12}"
    )
    patients = {row[IMAGE]: row["patient"] for _, row in read_table(path).rows}
    for seed in range(3):
        splits = split(path, group="patient", seed=seed, val_ratio=0.25, test_ratio=0.25)
        groups = {
            part: {patients[sample.path] for sample in getattr(splits, part)} for part in ("train", "val", "test")
        }
        assert all(groups.values())
        assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 12
        assert all(set(labels_of(splits, part)) == {"0", "1", "7"} for part in groups)
        assert 6 <= len(splits.val) <= 12
        assert 6 <= len(splits.test) <= 12
    assert split(path, group="patient", seed=1) == split(path, group="patient", seed=1)


def test_groups_are_counted_in_the_facts_when_they_are_named(folder: Path, write_table: Table, tmp_path: Path) -> None:
    path = table_of(folder, "cells.csv", write_table, patient=lambda i, _: f"p{i % 9}")
    split(path, group="patient").save(tmp_path / "splits", TRAINING_TASKS["multiclass"](HeadConfig()))
    facts = json.loads((tmp_path / "splits" / "data.json").read_text())
    assert facts["group"] == "patient"
    assert sum(facts["groups"].values()) == 9


def test_parts_are_those_of_the_column_when_it_is_named(folder: Path, write_table: Table) -> None:
    names = ("train", "Valid", "TEST", "training")
    path = table_of(folder, "cells.csv", write_table, split=lambda i, _: names[i % 4], is_valid=lambda i, _: i % 4 == 1)
    splits = split(path, split_column="split")
    assert [len(getattr(splits, part)) for part in ("train", "val", "test")] == [18, 9, 9]
    only_val = split(path, split_column="is_valid", test_ratio=0)
    assert {sample.path for sample in only_val.val} == {sample.path for sample in splits.val}
    assert len(only_val.train) == 27


def test_a_column_of_the_split_is_noted_when_it_is_not_used(
    folder: Path, write_table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    split(table_of(folder, "cells.csv", write_table, split=lambda *_: "train"))
    output = capsys.readouterr().err
    assert "note: " in output
    assert "data.split_column: split" in output


def test_class_folders_of_folders_are_noted_when_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep").mkdir()
    shutil.move(folder / "7", folder / "deep" / "more")
    assert set(labels_of(split(folder), "train")) == {"0", "1", "deep"}
    assert f"(1):\n    {folder / 'deep'}: more" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cells.jsonl", "cells.tsv"])
def test_tables_of_other_kinds_are_read_as_a_csv(folder: Path, write_table: Table, name: str) -> None:
    path = table_of(folder, "cells.csv", write_table)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    if name.endswith("jsonl"):
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        (folder / name).write_text(
            "".join("\t".join(row) + "\n" for row in [rows[0].keys(), *(r.values() for r in rows)])
        )
    assert split(folder / name) == split(path)


def test_columns_are_the_named_ones_when_a_table_has_its_own(folder: Path, write_table: Table) -> None:
    expected = split(table_of(folder, "cells.csv", write_table))
    pictures = sorted(folder.rglob("*.png"))
    rows = [
        {"file": f"{p.parent.name}\\{p.name}", "class": p.parent.name, "label": i, "": i}
        for i, p in enumerate(pictures)
    ]
    path = write_table(folder / "own.csv", rows)
    assert split(path, columns={"image": "file", "label": "class"}) == expected


def test_parts_are_kept_when_pictures_and_masks_have_them(masked: Path) -> None:
    for kind in ("images", "masks"):
        for number, file in enumerate(sorted((masked / kind).iterdir())):
            part = ("train", "train", "val", "test")[number % 4]
            (masked / kind / part).mkdir(exist_ok=True)
            file.rename(masked / kind / part / file.name)
    splits = split_masks(masked)
    for part, count in (("train", 6), ("val", 3), ("test", 3)):
        assert {(s.path.parent.name, s.truth.parent.name) for s in getattr(splits, part)} == {(part, part)}
        assert len(getattr(splits, part)) == count


def test_masks_are_paired_by_a_suffix_when_it_is_named(masked: Path) -> None:
    expected = split_masks(masked).fingerprint
    for mask in sorted((masked / "masks").iterdir()):
        mask.rename(masked / "images" / f"{mask.stem}_mask.png")
    together = split(masked / "images", "segmentation", masks=masked / "images", mask_suffix="_mask")
    assert together.fingerprint == expected
    assert {sample.truth.name for sample in together.train} <= {f"{number:02}_mask.png" for number in range(12)}


def test_masks_are_read_as_in_training_when_a_model_is_measured(
    masked: Path, write_table: Table, spec: ModelSpec
) -> None:
    """Columns and mask values come from the lineage."""
    for mask in (masked / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(mask)) // 255 * np.uint8(2)).save(mask)
    pairs = [{"file": f"images/{n:02}.jpg", "truth": f"masks/{n:02}.png"} for n in range(12)]
    data = {
        "path": str(write_table(masked / "pairs.csv", pairs)),
        "columns": {"image": "file", "mask": "truth"},
        "mask_values": {"background": 0, "ink": 2},
    }
    config = Config.model_validate({**DATA, "task": "segmentation", "data": data})
    training = training_task(config)
    splits = read_splits(config.data, training, seed=0)
    assert splits.task_spec.labels == ("background", "ink")
    lineage = Lineage(config=config.model_dump(mode="json"))
    model = spec.model_copy(update={"task": "segmentation", "labels": splits.task_spec.labels, "lineage": lineage})
    task = evaluation_task_of(model)
    samples = read_labelled(masked / "pairs.csv", model, task)
    assert len(samples) == 12
    assert set(np.unique(task.target(samples[0].truth, False, Preprocess(64, 64), model))) == {0, 1}
