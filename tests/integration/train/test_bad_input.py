"""Bad configurations and bad data: each is reported in one error, before anything is written."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file

from tests.fixture_types import Command


@dataclass
class Scenario:
    """Valid data and a valid configuration in a folder. Tests break them."""

    root: Path
    data: Path
    values: dict[str, Any]
    write_table: Callable[..., Path]
    make_masks: Callable[..., Path]

    @property
    def config(self) -> Path:
        """Write the scenario's configuration."""
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(self.values, sort_keys=False))
        return path

    def table(self, *changes: dict[str, Any], name: str = "labels.csv") -> None:
        """Write a table of the folder's images, with `changes` to its first rows, and train on it."""
        pictures = sorted(self.data.rglob("*.png"))
        rows = [{"image_path": str(p.relative_to(self.data)), "label": p.parent.name} for p in pictures]
        rows[: len(changes)] = [{**row, **change} for row, change in zip(rows, changes, strict=False)]
        self.values["data"]["path"] = str(self.write_table(self.data / name, rows))

    def write(self, name: str, content: str, encoding: str = "utf-8") -> None:
        """Write a file of the data by hand, and train on it."""
        (self.data / name).write_text(content, encoding=encoding)
        self.values["data"]["path"] = str(self.data / name)

    def facts(self, *cells: str) -> None:
        """Write a multilabel table of all images, with these cells as column `seven` of the first rows."""
        pictures = sorted(self.data.rglob("*.png"))
        rows = [{"image_path": str(p), "one": "01"[p.parent.name == "1"], "seven": "0"} for p in pictures]
        for row, cell in zip(rows, cells, strict=False):
            row["seven"] = cell
        self.values |= {"task": "multilabel"}
        self.values["data"]["path"] = str(self.write_table(self.data / "facts.csv", rows))

    def segments(self, **data: Any) -> Path:
        """Write images and masks, and configure a Unet for them."""
        masked = self.make_masks(self.root / "masked", count=12)
        self.values |= {"task": "segmentation", "model": {"name": "Unet", "encoder": "resnet18"}}
        self.values["image"] = {"size": 64}
        self.values["data"] |= {"path": str(masked / "images"), "masks": str(masked / "masks"), **data}
        return masked

    def parts(self) -> Path:
        """Divide the images into the parts train and val."""
        for part, keep in (("train", slice(0, 8)), ("val", slice(8, None))):
            for label in "017":
                pictures = sorted((self.data / label).iterdir())[keep]
                (self.root / "parts" / part / label).mkdir(parents=True)
                for picture in pictures:
                    shutil.copy(picture, self.root / "parts" / part / label)
        self.values["data"] = {"path": str(self.root / "parts"), "test_ratio": 0.0}
        return self.root / "parts"


@pytest.fixture
def scenario(
    folder: Path, tmp_path: Path, write_table: Callable[..., Path], make_masks: Callable[..., Path]
) -> Scenario:
    values = {
        "name": "tiny",
        "output": str(tmp_path / "runs"),
        "data": {"path": str(folder), "val_ratio": 0.2, "test_ratio": 0.2},
        "model": {"name": "test_resnet"},
        "image": {"size": 32},
        "optimizer": {"lr": 0.005},
        "epochs": 1,
        "batch_size": 16,
        "workers": 0,
    }
    return Scenario(tmp_path, folder, values, write_table, make_masks)


CODE = re.compile(r"(config|data|spec)\.[a-z_]+")


class Refusal:
    """The error document of a command."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.type, self.text = str(error["type"]), str(error["message"])
        self.codes = {error["code"], *(problem["code"] for problem in error.get("problems", ()))}

    def check(self, expected: Iterable[str]) -> None:
        """Each expected entry is a code of the error, or part of its message, such as a path or a value."""
        for part in expected:
            assert part in (self.codes if CODE.fullmatch(part) else self.text), (part, self.codes, self.text)


def refused(command: Command, scenario: Scenario, *overrides: str) -> Refusal:
    """The error of `train fit --json`, which writes nothing."""
    result = command("train", "fit", scenario.config, *overrides, "--json")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    assert not (scenario.root / "runs").exists()
    return Refusal(json.loads(result.stdout)["error"])


CONFIGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # The line of a key is that in Scenario.config.
    "unknown_key": ({"optimizer": {"lrr": 0.1}}, ["config.unknown_key", "line 12, optimizer.lrr: ", "optimizer.lr?"]),
    "unknown_task": (
        {"task": "multi-label"},
        ["config.unknown_task", "'multi-label'", "multiclass, multilabel, embedding, segmentation"],
    ),
    "heads_with_a_loss_for_all": (
        {"task": "heads", "heads": {"digit": {"column": "label"}}, "loss": "bce"},
        ["config.rule", "loss: ", "`heads`"],
    ),
    "head_with_a_dot": ({"task": "heads", "heads": {"a.b": {"column": "label"}}}, ["a.b"]),
    "thresholds_of_classes": ({"thresholds": {"0": 0.4}}, ["multiclass: ", "thresholds"]),
    "a_stage_that_the_schedule_does_not_know": (
        {"scheduler": {"name": "PolynomialLR"}, "frozen_epochs": 1, "frozen_lr": 0.1},
        ["config.frozen_lr", "PolynomialLR", "cosine, linear"],
    ),
    "an_export_that_is_too_large": (
        {"export": {"max_batch": 5000}},
        ["config.value", "export.max_batch: ", "4096", "5000"],
    ),
    "unknown_model": ({"model": {"name": "resnet18x"}}, ["'resnet18x'", "resnet18"]),
    "unknown_dense_model": ({"task": "segmentation", "model": {"name": "Unett"}}, ["'unett'", "unet"]),
    "unknown_encoder": (
        {"task": "segmentation", "model": {"name": "Unet", "encoder": "resnet19"}},
        ["segmentation-models-pytorch", "'resnet19'", "resnet18"],
    ),
    "unknown_loss": ({"loss": "dice"}, ["config.unknown_loss", "'dice'", "cross_entropy, bce"]),
    "unknown_loss_argument": (
        {"loss": {"name": "cross_entropy", "smoothing": 0.1}},
        ["config.loss_arguments", "cross_entropy", "{'smoothing': 0.1}"],
    ),
    "unknown_optimizer": ({"optimizer": {"name": "adamww"}}, ["config.unknown_optimizer", "'adamww'", "adamw?"]),
    "unknown_optimizer_argument": (
        {"optimizer": {"name": "sgd", "arguments": {"speed": 1}}},
        ["config.optimizer_arguments", "sgd", "{'speed': 1}"],
    ),
    "unknown_scheduler": ({"scheduler": {"name": "cosin"}}, ["config.unknown_scheduler", "'cosin'", "cosine, linear"]),
    "scheduler_arguments": (
        {"scheduler": {"name": "StepLR", "arguments": {"size": 3}}},
        ["config.scheduler_arguments", "StepLR", "{'size': 3}"],
    ),
    "heads_without_their_task": (
        {"heads": {"kind": {"task": "multiclass"}}},
        ["config.rule", "`task: heads`", "train config --task heads"],
    ),
    "task_without_heads": ({"task": "heads"}, ["config.rule", "`task: heads`", "train config --task heads"]),
    "two_beginnings": (
        {"model": {"name": "test_resnet", "pretrained": True, "weights": "x.safetensors"}},
        ["config.rule", "line 7, model: ", "pretrained and weights"],
    ),
    "rate_of_no_stage": ({"frozen_lr": 0.1}, ["config.rule", "frozen_lr", "frozen_epochs"]),
    "missing_plugin": ({"plugins": ["no_such_module_of_ours"]}, ["'no_such_module_of_ours'", "ModuleNotFoundError"]),
    "plugin_not_named": ({"model": {"name": "os.path:join"}}, ["os.path:join", "`plugins:`"]),
    "reader_not_registered": (
        {"data": {"path": "x", "reader": "parquett"}},
        ["data.reader: ", "'parquett'", "`plugins:`"],
    ),
    "callback_not_registered": ({"callbacks": ["Ping"]}, ["callback", "'Ping'"]),
    "no_value_of_a_choice": (
        {"precision": "fp16"},
        ["config.value", "line 16, precision: ", "'auto', '32-true'", "'fp16'"],
    ),
    "model_arguments": ({"model": {"name": "test_resnet", "arguments": {"depth": 3}}}, ["test_resnet {'depth': 3}"]),
    "refused_model_arguments": (
        {"model": {"name": "test_resnet", "arguments": {"num_classes": 3}}},
        ["test_resnet", "num_classes"],
    ),
    "one_channel": ({"model": {"name": "test_resnet", "arguments": {"in_chans": 1}}}, ["`in_chans`"]),
    "size_for_position_table": (
        {"model": {"name": "vit_tiny_patch16_224"}, "image": {"height": 33, "width": 8}},
        ["image.size 33x8", "vit_tiny_patch16_224", "48x16"],
    ),
    "threshold_of_a_stranger": ({"task": "multilabel", "thresholds": {"zwei": 0.5}}, ["spec.invalid", "zwei"]),
    "threshold_outside": ({"task": "multilabel", "thresholds": {"one": 1.5}}, ["one: 1.5"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_is_refused_in_one_message_when_it_cannot_be_used(
    command: Command, scenario: Scenario, kind: str
) -> None:
    changes, expected = CONFIGS[kind]
    if changes.get("task") == "segmentation":
        scenario.segments()
    if changes.get("task") == "multilabel":
        scenario.facts("1", "1", "1", "1")
    scenario.values |= changes
    refused(command, scenario).check(expected)


def test_config_is_refused_when_a_dense_network_does_not_take_the_size(command: Command, scenario: Scenario) -> None:
    scenario.segments()
    refusal = refused(command, scenario, "model.name=Linknet", "image={size: 50}")
    refusal.check(["Linknet", "[50, 50, 3]", "(64, 64)"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes this precision")
def test_config_is_refused_when_half_precision_has_no_gpu(command: Command, scenario: Scenario) -> None:
    refused(command, scenario, "precision=16-mixed").check(["config.precision_needs_gpu", "16-mixed"])


def test_config_is_refused_when_a_binary_loss_gets_three_labels(command: Command, scenario: Scenario) -> None:
    scenario.segments(labels=["nothing", "ink", "paper"])
    for mask in (scenario.root / "masked" / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(mask)) // 255 * (1 + int(mask.stem) % 2)).save(mask)
    refused(command, scenario, "loss=bce").check(["config.loss_label_count", "bce", "cross_entropy"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs", ["config.override_syntax", "override 'epochs'"]),
        ("optimizer.speed=1", ["config.unknown_key", "override 'optimizer.speed=1', optimizer.speed: "]),
        ("image.size=[", ["config.override_not_yaml", "override 'image.size=['"]),
    ],
)
def test_override_is_refused_in_one_message_when_it_cannot_be_used(
    command: Command, scenario: Scenario, override: str, expected: list[str]
) -> None:
    refused(command, scenario, override).check(expected)


# Bad data: each function breaks the good data in one way, and returns the expected codes and parts of the message.


def a_missing_folder(scenario: Scenario) -> list[str]:
    scenario.values["data"]["path"] = str(scenario.root / "missing")
    return ["data.not_found", str(scenario.root / "missing")]


def a_file_of_another_kind(scenario: Scenario) -> list[str]:
    scenario.values["data"]["path"] = str(scenario.root / "config.yaml")
    return ["data.file_type", "/config.yaml: "]


def no_class_folders(scenario: Scenario) -> list[str]:
    scenario.values["data"]["path"] = str(scenario.data / "0")
    return ["data.no_class_folders", "0/<label>/"]


def a_class_without_pictures(scenario: Scenario) -> list[str]:
    (scenario.data / "9").mkdir()
    return ["data.empty_class_folder", "(1):", str(scenario.data / "9")]


def a_class_too_small(scenario: Scenario) -> list[str]:
    for picture in sorted((scenario.data / "7").iterdir())[2:]:
        picture.unlink()
    return ["data.class_too_small", "3 images", "7 has 2"]


def a_single_class(scenario: Scenario) -> list[str]:
    for label in "17":
        shutil.rmtree(scenario.data / label)
    return ["multiclass", " 1: 0"]


def a_picture_cut_short(scenario: Scenario) -> list[str]:
    picture = min((scenario.data / "1").iterdir())
    os.truncate(picture, picture.stat().st_size // 2)
    return ["data.image_unreadable", "(1):", str(picture)]


def a_label_that_train_lacks(scenario: Scenario) -> list[str]:
    parts = scenario.parts()
    (parts / "val" / "7").rename(parts / "val" / "seven")
    return ["data.label_not_in_train", "val ", ": seven"]


def a_part_of_another_name(scenario: Scenario) -> list[str]:
    parts = scenario.parts()
    (parts / "val").rename(parts / "valid")
    return ["data.misnamed_part", "base, train, val, test", "valid to val"]


def no_part_to_train_on(scenario: Scenario) -> list[str]:
    parts = scenario.parts()
    (parts / "train").rename(parts / "training")
    return ["data.misnamed_part", "training to train"]


def a_part_beside_a_stranger(scenario: Scenario) -> list[str]:
    shutil.copytree(scenario.data / "0", scenario.parts() / "drafts" / "0")
    return ["data.unknown_part", "base, train, val, test", "drafts"]


def parts_in_capitals(scenario: Scenario) -> list[str]:
    parts = scenario.parts()
    for part in ("train", "val"):
        (parts / part).rename(parts / part.capitalize())
    return ["data.misnamed_part", str(parts), "Train to train, Val to val"]


def parts_of_sets(scenario: Scenario) -> list[str]:
    parts = scenario.parts()
    (parts / "train").rename(parts / "training_set")
    (parts / "val").rename(parts / "VAL2017")
    return ["data.misnamed_part", "VAL2017 to val, training_set to train"]


def parts_without_class_folders(scenario: Scenario) -> list[str]:
    scenario.values["data"]["path"] = str(scenario.root / "flat")
    for part, label in (("train", "0"), ("val", "1")):
        shutil.copytree(scenario.data / label, scenario.root / "flat" / part)
    return ["data.parts_without_classes", "flat: train, val ", "train/<label>/"]


def parts_inside_of_classes(scenario: Scenario) -> list[str]:
    (scenario.data / "1" / "Training").mkdir()
    return ["data.parts_in_classes", "data/<part>/<label>/", "(1):", "1/Training"]


def a_part_in_a_table_of_another_name(scenario: Scenario) -> list[str]:
    scenario.table(name="train.csv")
    shutil.copy(scenario.data / "train.csv", scenario.data / "Valid.csv")
    scenario.values["data"]["path"] = str(scenario.data)
    return ["data.misnamed_part", "Valid.csv to val.csv"]


def a_layout_of_detection(scenario: Scenario) -> list[str]:
    shutil.copytree(scenario.data / "0", scenario.root / "yolo" / "train" / "images")
    (scenario.root / "yolo" / "train" / "labels").mkdir()
    scenario.values["data"]["path"] = str(scenario.root / "yolo")
    return ["data.other_layout", "images, labels", "data.masks "]


def a_picture_in_two_parts(scenario: Scenario) -> list[str]:
    parts = scenario.parts()
    picture = min((parts / "train" / "0").iterdir())
    shutil.copy(picture, parts / "val" / "0" / "copy.png")
    return ["data.image_in_two_parts", f"{parts / 'val' / '0' / 'copy.png'} in val is {picture} in train"]


def another_header(scenario: Scenario) -> list[str]:
    path = scenario.write_table(scenario.data / "labels.csv", [{"file": "0/0000.png", "class": "0"}])
    scenario.values["data"]["path"] = str(path)
    return ["data.no_image_column", str(path), "`image_path`", "file, class", "data.columns: {image: file}"]


def an_empty_file(scenario: Scenario) -> list[str]:
    scenario.write("labels.csv", "")
    return ["data.empty_file", "image_path", "labels.csv"]


def a_header_alone(scenario: Scenario) -> list[str]:
    scenario.write("labels.csv", "image_path,label\n")
    return ["data.no_rows", "labels.csv"]


def a_table_without_a_header(scenario: Scenario) -> list[str]:
    scenario.write("labels.csv", "0/0000.png  1.0  mono\n0/0001.png  0.0  mono\n")
    return ["data.no_header", "'0/0000.png  1.0  mono'", "image_path,label"]


def a_table_in_latin_1(scenario: Scenario) -> list[str]:
    scenario.write("labels.csv", "image_path;label\n0/0000.png;schön\n", encoding="latin-1")
    return ["data.table_unreadable", "labels.csv: line 2 ", "0xf6"]


def no_column_of_the_task(scenario: Scenario) -> list[str]:
    scenario.table()
    scenario.values["column"] = "species"
    return ["data.missing_column", "36 rows", "lines 2, 3, 4, …", "`species`", "image_path, label"]


def a_blank_cell(scenario: Scenario) -> list[str]:
    scenario.table({"label": " "})
    return ["data.blank_cell", "(1):", "line 2: ", "label"]


def a_missing_picture(scenario: Scenario) -> list[str]:
    scenario.table({"image_path": "0/9999.png"})
    return ["data.missing_image", "labels.csv", "(1):", f"line 2: {scenario.data / '0' / '9999.png'}"]


def a_picture_named_twice(scenario: Scenario) -> list[str]:
    scenario.table({"image_path": "0/0001.png"})
    return ["data.duplicate_image", "labels.csv", "(1):", "line 3: ", "0001.png", " line 2"]


def a_cell_that_is_no_fact(scenario: Scenario) -> list[str]:
    scenario.facts("1", "yes")
    return ["data.not_binary", "(1):", "line 3: ", "seven 'yes'"]


def a_label_that_no_picture_has(scenario: Scenario) -> list[str]:
    scenario.facts()
    return ["data.class_not_in_train", "(1):", "seven"]


def json_that_is_no_list(scenario: Scenario) -> list[str]:
    scenario.write("labels.json", json.dumps({"pictures": []}))
    return ["data.not_a_list", "labels.json", "image_path", "dict"]


def json_that_is_none(scenario: Scenario) -> list[str]:
    scenario.write("labels.json", "[{")
    return ["data.not_json", "labels.json"]


def a_picture_without_a_mask(scenario: Scenario) -> list[str]:
    masked = scenario.segments()
    (masked / "masks" / "03.png").unlink()
    return ["data.image_without_mask", "(1):", str(masked / "images" / "03.jpg")]


def a_mask_without_a_picture(scenario: Scenario) -> list[str]:
    masked = scenario.segments()
    (masked / "images" / "03.jpg").unlink()
    return ["data.mask_without_image", "(1):", str(masked / "masks" / "03.png")]


def a_mask_of_another_size(scenario: Scenario) -> list[str]:
    mask = scenario.segments() / "masks" / "03.png"
    Image.open(mask).resize((32, 40), Image.Resampling.NEAREST).save(mask)
    return ["data.mask_size", "(1):", f"mask {mask}: ", "32 x 40", "64 x 64"]


def a_mask_with_an_unknown_class(scenario: Scenario) -> list[str]:
    masked = scenario.segments(labels=["nothing", "ink", "paper"])
    for path in (masked / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255 * (7 if path.stem == "03" else 2)).save(path)
    return [
        "data.mask_values",
        f"mask {masked / 'masks' / '03.png'}: ",
        " 7, ",
        " 3 (or 255)",
        "data.mask_values_undefined",
        "data.mask_values: {nothing: 0, ink: 7, …}",
    ]


def redrawn(scenario: Scenario, draw: Callable[[np.ndarray], Image.Image], **data: Any) -> None:
    """Redraw each mask from the pixels of its digit."""
    for mask in (scenario.segments(**data) / "masks").iterdir():
        draw(np.asarray(Image.open(mask)) > 0).save(mask)


def masks_in_a_colour(scenario: Scenario) -> list[str]:
    redrawn(scenario, lambda there: Image.fromarray(there[..., None] * np.array([255, 0, 0], np.uint8)))
    return [
        "data.mask_values",
        "(12):",
        "00.png: ",
        "[0, 0, 0], [255, 0, 0]",
        "data.mask_values_undefined",
        "data.mask_values: {background: [0, 0, 0], foreground: [255, 0, 0]}",
    ]


def masks_of_zero_and_two(scenario: Scenario) -> list[str]:
    redrawn(scenario, lambda there: Image.fromarray(there * np.uint8(2)))
    return ["data.mask_values", "00.png: ", " 0, 2, ", "data.mask_values: {background: 0, foreground: 2}"]


def masks_of_instances(scenario: Scenario) -> list[str]:
    redrawn(scenario, lambda there: Image.fromarray(there * np.arange(64, dtype=np.uint16) * 9))
    return ["data.mask_values", "data.mask_values: {background: 0, foreground: nonzero}"]


def masks_with_soft_edges(scenario: Scenario) -> list[str]:
    redrawn(scenario, lambda there: Image.fromarray(there * np.uint8(255)).resize((32, 32)).resize((64, 64)))
    return ["data.mask_values_undefined", "{background: 0-127, foreground: 128-255}"]


def masks_that_are_transparent(scenario: Scenario) -> list[str]:
    redrawn(scenario, lambda there: Image.fromarray(there[..., None] * np.array([255, 0, 0, 255], np.uint8)))
    return ["data.mask_transparent", "00.png: "]


def masks_of_nothing(scenario: Scenario) -> list[str]:
    redrawn(scenario, lambda there: Image.fromarray(there * np.uint8(0)))
    return ["data.class_without_pixels", "foreground"]


def masks_with_a_value_that_is_not_mapped(scenario: Scenario) -> list[str]:
    values = {"background": 0, "ink": 2, "ignore": 9}
    redrawn(scenario, lambda there: Image.fromarray(there * np.uint8(3)), mask_values=values)
    return ["data.mask_values", "00.png: ", " 3, "]


def mask_values_of_other_labels(scenario: Scenario) -> list[str]:
    scenario.segments(labels=["background", "ink"], mask_values={"background": 0, "paper": 255})
    return ["config.mask_values_labels", "background, paper", "background, ink"]


def masks_with_a_suffix(scenario: Scenario) -> list[str]:
    masks = scenario.segments() / "masks"
    for mask in list(masks.iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    return ["data.mask_suffix_missing", str(masks), "data.mask_suffix: _mask"]


def masks_of_other_names(scenario: Scenario) -> list[str]:
    masks = scenario.segments() / "masks"
    for mask in list(masks.iterdir()):
        mask.rename(mask.with_stem(f"m{mask.stem}"))
    return ["data.mask_names", "00.jpg", "m00.png"]


def two_masks_of_a_picture(scenario: Scenario) -> list[str]:
    masks = scenario.segments() / "masks"
    Image.open(masks / "00.png").save(masks / "00.bmp")
    return ["data.two_masks", "00.jpg: ", "00.bmp", "00.png"]


def a_column_of_the_split_beside_labels(scenario: Scenario) -> list[str]:
    pictures = sorted(scenario.data.rglob("*.png"))
    rows = [
        {"image_path": str(p), "is_train": i % 2, "patient": f"p{i % 5}", "seven": int(p.parent.name == "7"), "odd": 1}
        for i, p in enumerate(pictures)
    ]
    scenario.values |= {"task": "multilabel"}
    scenario.values["data"]["path"] = str(scenario.write_table(scenario.root / "facts.csv", rows))
    return [
        "data.split_column_as_label",
        "column is_train ",
        "data.not_binary",
        "column patient ",
        "'p0', 'p1', 'p2', 'p3', 'p4'",
        "data.labels: [seven, odd]",
    ]


def a_label_that_all_pictures_have(scenario: Scenario) -> list[str]:
    a_column_of_the_split_beside_labels(scenario)
    scenario.values["data"]["labels"] = ["seven", "odd"]
    return ["data.constant_label", "(1):\n    odd"]


def a_label_column_that_is_missing(scenario: Scenario) -> list[str]:
    a_column_of_the_split_beside_labels(scenario)
    scenario.values["data"]["labels"] = ["seven", "eight"]
    return ["data.missing_column", "`eight`", "data.labels ", "image_path, is_train, patient, seven, odd"]


def soft_labels(scenario: Scenario) -> list[str]:
    scenario.facts("1", "0.5", "0.9")
    return ["data.soft_label", "line 3: ", "seven '0.5'"]


def a_column_of_soft_labels(scenario: Scenario) -> list[str]:
    scenario.facts(*["0.5", "0.7"] * 18)
    return ["data.soft_label", "column seven ", "'0.5', '0.7'"]


def a_blank_fact(scenario: Scenario) -> list[str]:
    scenario.facts("1", "", "1.0", "True", "false")
    return ["data.blank_cell", "line 3: ", "seven"]


def one_picture_under_two_labels(scenario: Scenario) -> list[str]:
    shutil.copy(scenario.data / "0" / "0000.png", scenario.data / "1" / "same.png")
    return [
        "data.contradicting_truths",
        "(1):",
        f"{scenario.data / '1' / 'same.png'} (1) is {scenario.data / '0' / '0000.png'} (0)",
    ]


def one_picture_with_two_masks(scenario: Scenario) -> list[str]:
    masked = scenario.segments()
    shutil.copy(masked / "images" / "03.jpg", masked / "images" / "04.jpg")
    return ["data.contradicting_truths", "04.jpg (mask 04.png) is ", "03.jpg (mask 03.png)"]


def labels_spelled_in_two_ways(scenario: Scenario) -> list[str]:
    scenario.table({"label": "0.0"}, {"label": "00"}, {"label": "cafe\u0301"}, {"label": "caf\u00e9"})
    return ["data.label_spelling", "(2):", "'0' and '0.0' and '00'", r"'cafe\u0301' and 'caf\xe9'"]


def labels_that_are_negative_in_two_ways(scenario: Scenario) -> list[str]:
    scenario.table({"label": "-1"}, {"label": "-1.0"})
    return ["data.label_spelling", "(1):", "'-1' and '-1.0'"]


def parts_of_unknown_names(scenario: Scenario) -> list[str]:
    for part in ("seg_a", "seg_b"):
        shutil.copytree(scenario.data, scenario.data.parent / "parts" / part)
    scenario.values["data"]["path"] = str(scenario.data.parent / "parts")
    return ["data.parts_as_classes", "seg_a, seg_b"]


def a_group_that_is_no_column(scenario: Scenario) -> list[str]:
    scenario.table()
    scenario.values["data"]["group"] = "patient"
    return ["data.missing_column", "`patient`", "data.group ", "image_path, label"]


def a_single_group(scenario: Scenario) -> list[str]:
    scenario.table(*[{"patient": "p1"}] * 36)
    scenario.values["data"]["group"] = "patient"
    return ["data.too_few_groups", "1 groups", "test"]


def a_group_in_two_parts(scenario: Scenario) -> list[str]:
    for part, label in (("train", "01"), ("val", "17")):
        pictures = [picture for each in label for picture in sorted((scenario.data / each).iterdir())[:: len(label)]]
        rows = [{"image_path": str(p), "label": p.parent.name, "patient": p.parent.name} for p in pictures]
        (scenario.root / "parts").mkdir(exist_ok=True)
        scenario.write_table(scenario.root / "parts" / f"{part}.csv", rows)
    scenario.values["data"] = {"path": str(scenario.root / "parts"), "group": "patient", "test_ratio": 0.0}
    return ["data.group_in_two_parts", "(1):\n    1 in train and val"]


def one_picture_in_two_groups(scenario: Scenario) -> list[str]:
    scenario.table(*({"patient": f"p{number // 3}"} for number in range(36)))
    shutil.copy(scenario.data / "0" / "0000.png", scenario.data / "0" / "0011.png")
    names = sorted(path.name for path in (scenario.data / "0").iterdir())
    shutil.copy(scenario.data / "0" / names[0], scenario.data / "0" / names[-1])
    scenario.values["data"]["group"] = "patient"
    return ["data.image_in_two_groups", "(1):", "of p3 is ", "of p0"]


def a_part_that_the_column_does_not_tell(scenario: Scenario) -> list[str]:
    scenario.table(*({"split": ("train", "Valid", "later")[number % 3]} for number in range(36)))
    scenario.values["data"]["split_column"] = "split"
    return ["data.unknown_part_value", "12 rows", "lines 4, 7, 10, …", "column split", "'later'"]


def names_without_an_ending(scenario: Scenario) -> list[str]:
    scenario.table(*({"image_path": f"a{number}"} for number in range(36)))
    return ["data.missing_image", "(36):", "no extension", "labels.csv"]


def options_of_segmentation(scenario: Scenario) -> list[str]:
    scenario.values["data"] |= {"mask_values": {"a": 0, "b": 1}, "mask_suffix": "_mask"}
    return ["data.option_not_used", "data.mask_values is ", "data.mask_suffix is ", "data.mask_suffix_without_masks"]


def a_mask_cut_short(scenario: Scenario) -> list[str]:
    mask = scenario.segments() / "masks" / "03.png"
    os.truncate(mask, mask.stat().st_size // 2)
    return ["data.mask_unreadable", f"mask {mask}: "]


def an_embedding_of_one_class(scenario: Scenario) -> list[str]:
    for label in "17":
        shutil.rmtree(scenario.data / label)
    scenario.values["task"] = "embedding"
    return ["data.too_few_classes_to_compare", "train has 1"]


def an_embedding_of_too_few_classes(scenario: Scenario) -> list[str]:
    scenario.values["task"] = "embedding"
    return ["data.too_few_classes", "3 classes", "val", "data.split_by: picture"]


def top_classes_of_masks(scenario: Scenario) -> list[str]:
    scenario.segments(top_classes=2)
    return ["data.top_classes_without_classes", "segmentation"]


def a_share_too_small(scenario: Scenario) -> list[str]:
    scenario.values["data"]["test_ratio"] = 0.01
    return ["data.split_ratio", "0 of 36", "test", "raise data.test_ratio"]


def classes_that_training_does_not_know(scenario: Scenario) -> list[str]:
    scenario.values["data"]["split_by"] = "class"
    return ["data.split_by_class", "multiclass"]


def a_header_that_says_it_twice(scenario: Scenario) -> list[str]:
    scenario.write("twice.csv", "image_path,label,label\n0/a.png,0,1\n")
    return ["data.duplicate_column", str(scenario.data / "twice.csv"), "label"]


def json_with_a_number_for_a_path(scenario: Scenario) -> list[str]:
    scenario.table({"mask_path": 7}, name="labels.json")
    return ["data.invalid_path", "(1):", "entry 1: ", " 7"]


def json_that_lacks_a_label(scenario: Scenario) -> list[str]:
    pictures = sorted(scenario.data.rglob("*.png"))
    rows = [{"image_path": str(p), "round": int(p.parent.name == "0"), "odd": 1} for p in pictures]
    del rows[3]["odd"]
    scenario.values |= {"task": "multilabel"}
    scenario.values["data"]["path"] = str(scenario.write_table(scenario.root / "facts.json", rows))
    return ["data.blank_cell", "entry 4: ", "odd"]


def a_label_that_is_a_column(scenario: Scenario) -> list[str]:
    pictures = sorted(scenario.data.rglob("*.png"))
    rows = [
        {"image_path": str(p), "labels": ["odd", "image_path"] if i % 2 else ["odd"]} for i, p in enumerate(pictures)
    ]
    scenario.values |= {"task": "multilabel"}
    scenario.values["data"]["path"] = str(scenario.write_table(scenario.root / "facts.json", rows))
    return ["data.reserved_label", "'image_path'"]


def names_for_the_numbers_of_no_mask(scenario: Scenario) -> list[str]:
    scenario.values["data"]["labels"] = ["zero", "one", "seven"]
    return ["data.option_not_used", "data.labels is "]


def pictures_without_a_folder_of_masks(scenario: Scenario) -> list[str]:
    scenario.segments()
    del scenario.values["data"]["masks"]
    return ["data.no_masks", "images: ", "data.masks "]


def labels_in_a_column_that_is_not_there(scenario: Scenario) -> list[str]:
    pictures = sorted(scenario.data.rglob("*.png"))
    rows = [{"image_path": str(path), "odd": number % 2, "even": 1} for number, path in enumerate(pictures)]
    scenario.values |= {"task": "multilabel", "column": "nope"}
    scenario.values["data"]["path"] = str(scenario.write_table(scenario.root / "facts.csv", rows))
    return ["data.missing_column", "`nope`", "image_path, odd, even"]


def labels_in_a_column_of_facts(scenario: Scenario) -> list[str]:
    labels_in_a_column_that_is_not_there(scenario)
    scenario.values["column"] = "even"
    return ["data.binary_label_list", "column even", "`column`"]


def weights_that_fit_nothing(scenario: Scenario) -> list[str]:
    path = scenario.root / "other.safetensors"
    save_file({"encoder.layer.weight": np.zeros((3, 3), np.float32)}, path)
    scenario.values["model"]["weights"] = str(path)
    return [str(path), " 1 tensors ", "encoder.layer.weight"]


def weights_that_are_missing(scenario: Scenario) -> list[str]:
    scenario.values["model"]["weights"] = str(scenario.root / "no.safetensors")
    return [str(scenario.root / "no.safetensors")]


def breaks_data(function: Callable[..., object]) -> bool:
    """Whether a function of this module breaks a scenario, and nothing else."""
    return inspect.get_annotations(function) == {"scenario": "Scenario", "return": "list[str]"}


DATA = [breaking for breaking in list(globals().values()) if inspect.isfunction(breaking) and breaks_data(breaking)]


@pytest.mark.parametrize("broken", DATA, ids=lambda broken: broken.__name__)
def test_data_is_refused_in_one_message_when_it_cannot_be_used(
    command: Command, scenario: Scenario, broken: Callable[[Scenario], list[str]]
) -> None:
    expected = broken(scenario)
    refused(command, scenario).check(expected)


def test_message_has_all_problems_when_names_and_data_are_wrong(command: Command, scenario: Scenario) -> None:
    scenario.table({"image_path": "0/9999.png"})
    scenario.values["model"]["name"] = "resnet18x"
    scenario.values["optimizer"]["name"] = "adamww"
    scenario.values["scheduler"] = {"name": "cosin"}
    scenario.values["callbacks"] = ["Ping"]
    refusal = refused(command, scenario)
    refusal.check(["'resnet18x'", "'adamww'", "'cosin'", "'Ping'", "9999.png"])
    refusal.check(["config.unknown_optimizer", "config.unknown_scheduler", "data.missing_image"])


def test_message_has_all_problems_of_the_config_when_there_are_several(command: Command, scenario: Scenario) -> None:
    scenario.values["optimizer"] |= {"lr": -1, "speed": 3}
    del scenario.values["model"]
    refusal = refused(command, scenario, "epochs=0", "seed=x")
    refusal.check(["5 problems", "optimizer.lr: ", "optimizer.speed: ", " model: ", "epochs=0", "seed=x"])
    assert refusal.codes == {"config.invalid", "config.value", "config.unknown_key", "config.missing_key"}


def test_message_has_all_problems_of_the_data_when_there_are_several(command: Command, scenario: Scenario) -> None:
    for breaking in (a_class_without_pictures, a_class_too_small, a_picture_cut_short):
        breaking(scenario)
    refusal = refused(command, scenario)
    refusal.check(["7 has 2", str(scenario.data / "9")])
    assert refusal.codes == {
        "data.invalid", "data.empty_class_folder", "data.class_too_small", "data.image_unreadable",
    }  # fmt: skip


def test_message_counts_the_rest_when_many_pictures_are_unreadable(command: Command, scenario: Scenario) -> None:
    for picture in (scenario.data / "0").iterdir():
        picture.write_bytes(b"not a picture")
    refusal = refused(command, scenario)
    refusal.check(["data.image_unreadable", "(12):", "... and 2 more"])
    assert refusal.text.count(f"{scenario.data / '0'}/") == 10


def test_error_is_one_message_on_stderr_when_the_output_is_text(command: Command, scenario: Scenario) -> None:
    a_missing_picture(scenario)
    result = command("train", "fit", scenario.config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    assert "9999.png" in result.stderr


def test_error_is_one_document_when_the_output_is_json(command: Command, scenario: Scenario) -> None:
    a_missing_picture(scenario)
    refusal = refused(command, scenario)
    assert refusal.type == "DataError"
    refusal.check(["data.missing_image", "9999.png"])
