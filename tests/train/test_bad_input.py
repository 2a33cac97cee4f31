"""Bad configurations and bad data: each is told in one message, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import Result

Command = Callable[..., Result]


@dataclass
class Ground:
    """Good data and a good configuration in a folder, to be broken."""

    root: Path
    data: Path
    values: dict[str, Any]
    write_table: Callable[..., Path]
    make_masks: Callable[..., Path]

    @property
    def config(self) -> Path:
        """The configuration as it is now."""
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(self.values, sort_keys=False))
        return path

    def table(self, *changes: dict[str, Any], name: str = "labels.csv") -> None:
        """Put the folder's pictures into a table, `changes` in place of its first rows, and train on that."""
        pictures = sorted(self.data.rglob("*.png"))
        rows = [{"image_path": str(p.relative_to(self.data)), "label": p.parent.name} for p in pictures]
        rows[: len(changes)] = [{**row, **change} for row, change in zip(rows, changes, strict=False)]
        self.values["data"]["path"] = str(self.write_table(self.data / name, rows))

    def facts(self, *cells: str) -> None:
        """A multilabel table of all pictures with the cells as the first rows' column `seven`."""
        pictures = sorted(self.data.rglob("*.png"))
        rows = [{"image_path": str(p), "one": "01"[p.parent.name == "1"], "seven": "0"} for p in pictures]
        for row, cell in zip(rows, cells, strict=False):
            row["seven"] = cell
        self.values |= {"task": "multilabel"}
        self.values["data"]["path"] = str(self.write_table(self.data / "facts.csv", rows))

    def segments(self, **data: Any) -> Path:
        """Pictures and masks, to be told apart by a Unet."""
        masked = self.make_masks(self.root / "masked", count=12)
        self.values |= {"task": "segmentation", "model": {"name": "Unet", "encoder": "resnet18"}}
        self.values["image"] = {"size": 64}
        self.values["data"] |= {"path": str(masked / "images"), "masks": str(masked / "masks"), **data}
        return masked

    def parts(self) -> Path:
        """The pictures as the parts train and val."""
        for part, keep in (("train", slice(0, 8)), ("val", slice(8, None))):
            for label in "017":
                pictures = sorted((self.data / label).iterdir())[keep]
                (self.root / "parts" / part / label).mkdir(parents=True)
                for picture in pictures:
                    shutil.copy(picture, self.root / "parts" / part / label)
        self.values["data"] = {"path": str(self.root / "parts"), "test_ratio": 0.0}
        return self.root / "parts"


@pytest.fixture
def ground(folder: Path, tmp_path: Path, write_table: Callable[..., Path], make_masks: Callable[..., Path]) -> Ground:
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
    return Ground(tmp_path, folder, values, write_table, make_masks)


def refused(command: Command, ground: Ground, *overrides: str) -> str:
    """What `train fit` says of it, which is one message and leaves nothing behind."""
    result = command("train", "fit", ground.config, *overrides)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    assert not (ground.root / "runs").exists()
    return str(result.stderr)


CONFIGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # The line of a key is that in Ground.config.
    "unknown_key": ({"optimizer": {"lrr": 0.1}}, ["line 12, optimizer.lrr: unknown key; did you mean optimizer.lr?"]),
    "wrong_type": ({"epochs": "many"}, ["line 13, epochs: expected a valid integer", "got 'many'"]),
    "missing_key": ({"model": {}}, ["line 7, model.name: is required"]),
    "unknown_task": (
        {"task": "multi-label"},
        ["there is no 'multi-label'; there are multiclass, multilabel, embedding, segmentation", "heads"],
    ),
    "heads_with_a_loss_for_all": (
        {"task": "heads", "heads": {"digit": {"column": "label"}}, "loss": "bce"},
        ["loss: each of `heads` has its own; say it there"],
    ),
    "head_with_a_dot": (
        {"task": "heads", "heads": {"a.b": {"column": "label"}}},
        ["head a.b: a dot stands between a head and its metric"],
    ),
    "thresholds_of_classes": (
        {"thresholds": {"0": 0.4}},
        ["multiclass: takes what is most probable, without thresholds"],
    ),
    "a_stage_that_the_schedule_does_not_know": (
        {"scheduler": {"name": "PolynomialLR"}, "frozen_epochs": 1, "frozen_lr": 0.1},
        ["frozen_lr: PolynomialLR knows no stages; take cosine, linear"],
    ),
    "an_export_that_is_too_large": (
        {"export": {"max_batch": 5000}},
        ["export.max_batch: expected less than or equal to 4096, got 5000"],
    ),
    "unknown_model": ({"model": {"name": "resnet18x"}}, ["has no model 'resnet18x'; similar: ", "resnet18"]),
    "unknown_dense_model": (
        {"task": "segmentation", "model": {"name": "Unett"}},
        ["has no network 'unett'; similar: ", "unet"],
    ),
    "unknown_encoder": (
        {"task": "segmentation", "model": {"name": "Unet", "encoder": "resnet19"}},
        ["segmentation-models-pytorch has no encoder 'resnet19'; similar: ", "resnet18"],
    ),
    "unknown_loss": ({"loss": "dice"}, ["loss: none is named 'dice' for this task; there are cross_entropy, bce"]),
    "misspelled_loss": ({"loss": "crossentropy"}, ["none is named 'crossentropy'", "did you mean cross_entropy?"]),
    "unknown_loss_argument": (
        {"loss": {"name": "cross_entropy", "smoothing": 0.1}},
        ["loss cross_entropy: its arguments {'smoothing': 0.1} do not fit"],
    ),
    "unknown_optimizer": (
        {"optimizer": {"name": "adamww"}},
        ["optimizer.name: timm has no optimizer 'adamww'", "adamw"],
    ),
    "unknown_optimizer_argument": (
        {"optimizer": {"name": "sgd", "arguments": {"speed": 1}}},
        ["optimizer: sgd does not take {'speed': 1}"],
    ),
    "unknown_scheduler": (
        {"scheduler": {"name": "cosin"}},
        ["scheduler.name: there is no 'cosin'; there are cosine, linear", "torch.optim.lr_scheduler"],
    ),
    "scheduler_of_a_metric": (
        {"scheduler": {"name": "ReduceLROnPlateau"}},
        ["scheduler.name: there is no 'ReduceLROnPlateau'", "without a metric"],
    ),
    "scheduler_arguments": (
        {"scheduler": {"name": "StepLR", "arguments": {"size": 3}}},
        ["scheduler: StepLR does not take {'size': 3}", "size"],
    ),
    "nothing_left_to_train": (
        {"data": {"path": "x", "val_ratio": 0.6, "test_ratio": 0.5}},
        ["line 3, data: val_ratio + test_ratio leave nothing to train on (0.6 + 0.5)"],
    ),
    "heads_without_their_task": (
        {"heads": {"kind": {"task": "multiclass"}}},
        ["`task: heads` and a section `heads` belong together; see train config"],
    ),
    "task_without_heads": ({"task": "heads"}, ["`task: heads` and a section `heads`"]),
    "two_beginnings": (
        {"model": {"name": "test_resnet", "pretrained": True, "weights": "x.safetensors"}},
        ["line 7, model: pretrained and weights both say what to start from; give one"],
    ),
    "rate_of_no_stage": ({"frozen_lr": 0.1}, ["frozen_lr is for frozen_epochs, which is 0"]),
    "missing_plugin": (
        {"plugins": ["no_such_module_of_ours"]},
        ["the plugin module 'no_such_module_of_ours' cannot be imported", "ModuleNotFoundError"],
    ),
    "plugin_not_named": (
        {"model": {"name": "os.path:join"}},
        ["model os.path:join: the module 'os.path' is imported only if you list it", "add it to `plugins:`"],
    ),
    "reader_not_registered": (
        {"data": {"path": "x", "reader": "parquett"}},
        ["data.reader: no reader is registered as 'parquett'", "Add its module to `plugins:`"],
    ),
    "callback_not_registered": ({"callbacks": ["Ping"]}, ["no callback is registered as 'Ping'"]),
    "no_value_of_a_choice": ({"precision": "fp16"}, ["line 16, precision: expected 'auto', '32-true'", "got 'fp16'"]),
    "model_arguments": (
        {"model": {"name": "test_resnet", "arguments": {"depth": 3}}},
        ["timm cannot build test_resnet {'depth': 3}"],
    ),
    "refused_model_arguments": (
        {"model": {"name": "test_resnet", "arguments": {"num_classes": 3}}},
        ["test_resnet: remove these arguments: num_classes"],
    ),
    "size_for_position_table": (
        {"model": {"name": "vit_tiny_patch16_224"}, "image": {"height": 33, "width": 8}},
        ["image.size 33x8 is not a multiple of the patch size 16 of vit_tiny_patch16_224; use 48x16"],
    ),
    "threshold_of_a_stranger": (
        {"task": "multilabel", "thresholds": {"zwei": 0.5}},
        ["thresholds for labels that there are not: zwei"],
    ),
    "threshold_outside": ({"task": "multilabel", "thresholds": {"one": 1.5}}, ["lies between 0 and 1, got one: 1.5"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_is_refused_in_one_message_when_it_cannot_be_used(command: Command, ground: Ground, kind: str) -> None:
    changes, expected = CONFIGS[kind]
    if changes.get("task") == "segmentation":
        ground.segments()
    if changes.get("task") == "multilabel":
        ground.facts("1", "1", "1", "1")
    ground.values |= changes
    text = refused(command, ground)
    for part in expected:
        assert part in text


def test_config_is_refused_when_a_dense_network_does_not_take_the_size(command: Command, ground: Ground) -> None:
    ground.segments()
    text = refused(command, ground, "model.name=Linknet", "image={size: 50}")
    assert "Linknet does not support images [50, 50, 3]" in text
    assert "(64, 64)" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes this precision")
def test_config_is_refused_when_half_precision_has_no_gpu(command: Command, ground: Ground) -> None:
    text = refused(command, ground, "precision=16-mixed")
    assert "precision: 16-mixed needs a CUDA GPU, and torch sees none; use auto or 32-true" in text


def test_config_is_refused_when_a_binary_loss_gets_three_labels(command: Command, ground: Ground) -> None:
    ground.segments(labels=["nothing", "ink", "paper"])
    for mask in (ground.root / "masked" / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(mask)) // 255 * (1 + int(mask.stem) % 2)).save(mask)
    assert "loss bce: is for two labels, there are 3; use cross_entropy" in refused(command, ground, "loss=bce")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs", "override 'epochs': expected KEY=VALUE"),
        ("optimizer.speed=1", "override 'optimizer.speed=1', optimizer.speed: unknown key"),
        ("image.size=[", "the value is not YAML"),
    ],
)
def test_override_is_refused_in_one_message_when_it_cannot_be_used(
    command: Command, ground: Ground, override: str, expected: str
) -> None:
    assert expected in refused(command, ground, override)


# Bad data: each breaks good ground in one way, and tells what the message has to say.


def a_missing_folder(ground: Ground) -> list[str]:
    ground.values["data"]["path"] = str(ground.root / "missing")
    return [str(ground.root / "missing"), "expected a folder, a .csv or a .json file, got nothing there"]


def a_file_of_another_kind(ground: Ground) -> list[str]:
    ground.values["data"]["path"] = str(ground.root / "config.yaml")
    return ["expected a folder, a .csv or a .json file, got a file of another kind"]


def no_class_folders(ground: Ground) -> list[str]:
    ground.values["data"]["path"] = str(ground.data / "0")
    return ["has no class folders; expected 0/<label>/<picture>"]


def a_class_without_pictures(ground: Ground) -> list[str]:
    (ground.data / "9").mkdir()
    return ["class folders without a picture, to be filled or deleted (1):", str(ground.data / "9")]


def a_class_too_small(ground: Ground) -> list[str]:
    for picture in sorted((ground.data / "7").iterdir())[2:]:
        picture.unlink()
    return ["classes too small to be split, which takes 3 pictures each; bring more, or leave them out", "7 has 2"]


def a_single_class(ground: Ground) -> list[str]:
    for label in "17":
        shutil.rmtree(ground.data / label)
    return ["multiclass needs at least 2 labels, got 1: 0"]


def a_picture_cut_short(ground: Ground) -> list[str]:
    picture = min((ground.data / "1").iterdir())
    os.truncate(picture, picture.stat().st_size // 2)
    return ["pictures that cannot be read (1):", str(picture), "the PNG data is broken"]


def a_label_that_train_lacks(ground: Ground) -> list[str]:
    parts = ground.parts()
    (parts / "val" / "7").rename(parts / "val" / "seven")
    return ["val has labels that train lacks, to be added there or taken out: seven"]


def a_part_of_another_name(ground: Ground) -> list[str]:
    parts = ground.parts()
    (parts / "val").rename(parts / "valid")
    return ["the parts of a data set are named base, train, val, test; rename valid to val, or move it away"]


def no_part_to_train_on(ground: Ground) -> list[str]:
    parts = ground.parts()
    (parts / "train").rename(parts / "training")
    return ["the parts of a data set are named base, train, val, test; rename training to train"]


def a_part_beside_a_stranger(ground: Ground) -> list[str]:
    shutil.copytree(ground.data / "0", ground.parts() / "drafts" / "0")
    return ["besides base, train, val, test there is also drafts; rename it to one of them, or move it away"]


def parts_in_capitals(ground: Ground) -> list[str]:
    parts = ground.parts()
    for part in ("train", "val"):
        (parts / part).rename(parts / part.capitalize())
    return [f"{parts}: the parts of a data set are named base, train, val, test; rename Train to train, Val to val"]


def parts_of_sets(ground: Ground) -> list[str]:
    parts = ground.parts()
    (parts / "train").rename(parts / "training_set")
    (parts / "val").rename(parts / "VAL2017")
    return ["rename VAL2017 to val, training_set to train"]


def parts_without_class_folders(ground: Ground) -> list[str]:
    ground.values["data"]["path"] = str(ground.root / "flat")
    for part, label in (("train", "0"), ("val", "1")):
        shutil.copytree(ground.data / label, ground.root / "flat" / part)
    return ["flat: train, val hold no class folders; expected train/<label>/<picture>"]


def parts_inside_of_classes(ground: Ground) -> list[str]:
    (ground.data / "1" / "Training").mkdir()
    return ["parts inside of class folders, where data/<part>/<label>/<picture> is expected (1):", "1/Training"]


def a_part_in_a_table_of_another_name(ground: Ground) -> list[str]:
    ground.table(name="train.csv")
    shutil.copy(ground.data / "train.csv", ground.data / "Valid.csv")
    ground.values["data"]["path"] = str(ground.data)
    return ["the parts of a data set are named base, train, val, test; rename Valid.csv to val.csv"]


def a_layout_of_detection(ground: Ground) -> list[str]:
    shutil.copytree(ground.data / "0", ground.root / "yolo" / "train" / "images")
    (ground.root / "yolo" / "train" / "labels").mkdir()
    ground.values["data"]["path"] = str(ground.root / "yolo")
    return ["train: holds images, labels, not class folders; for masks give data.path and data.masks"]


def a_picture_in_two_parts(ground: Ground) -> list[str]:
    parts = ground.parts()
    picture = min((parts / "train" / "0").iterdir())
    shutil.copy(picture, parts / "val" / "0" / "copy.png")
    return ["in two parts", f"{parts / 'val' / '0' / 'copy.png'} in val is {picture} in train"]


def another_header(ground: Ground) -> list[str]:
    path = ground.write_table(ground.data / "labels.csv", [{"file": "0/0000.png", "class": "0"}])
    ground.values["data"]["path"] = str(path)
    return [f"{path}: no column `image_path`; the columns are: file, class", "data.columns: {image: file}"]


def an_empty_file(ground: Ground) -> list[str]:
    (ground.data / "labels.csv").touch()
    ground.values["data"]["path"] = str(ground.data / "labels.csv")
    return ["expected a header with image_path", "got an empty file"]


def a_header_alone(ground: Ground) -> list[str]:
    (ground.data / "labels.csv").write_text("image_path,label\n")
    ground.values["data"]["path"] = str(ground.data / "labels.csv")
    return ["has a header and no rows"]


def a_table_without_a_header(ground: Ground) -> list[str]:
    (ground.data / "labels.csv").write_text("0/0000.png  1.0  mono\n0/0001.png  0.0  mono\n")
    ground.values["data"]["path"] = str(ground.data / "labels.csv")
    return ["its first line is no header: '0/0000.png  1.0  mono'; put one above, such as image_path,label"]


def a_table_in_latin_1(ground: Ground) -> list[str]:
    (ground.data / "labels.csv").write_bytes("image_path;label\n0/0000.png;schön\n".encode("latin-1"))
    ground.values["data"]["path"] = str(ground.data / "labels.csv")
    return ["labels.csv: line 2 is not UTF-8 (byte 0xf6); save it as UTF-8"]


def no_column_of_the_task(ground: Ground) -> list[str]:
    ground.table()
    ground.values["column"] = "species"
    return ["36 rows cannot be used (lines 2, 3, 4, …): no column `species`; the columns are: image_path, label"]


def a_blank_cell(ground: Ground) -> list[str]:
    ground.table({"label": " "})
    return ["rows that cannot be used (1):", "line 2: there is no value for label"]


def a_missing_picture(ground: Ground) -> list[str]:
    ground.table({"image_path": "0/9999.png"})
    return ["labels.csv that do not exist (1):", f"line 2: {ground.data / '0' / '9999.png'}"]


def a_picture_named_twice(ground: Ground) -> list[str]:
    ground.table({"image_path": "0/0001.png"})
    return ["labels.csv names twice (1):", "line 3: ", "0001.png, as line 2"]


def a_cell_that_is_no_fact(ground: Ground) -> list[str]:
    ground.facts("1", "yes")
    return [
        "rows that cannot be used (1):",
        "line 3: expected a column of 0 or 1 for each label",
        "seven 'yes'",
    ]


def a_label_that_no_picture_has(ground: Ground) -> list[str]:
    ground.facts()
    return ["classes without a picture in train (1):", "seven"]


def json_that_is_no_list(ground: Ground) -> list[str]:
    (ground.data / "labels.json").write_text(json.dumps({"pictures": []}))
    ground.values["data"]["path"] = str(ground.data / "labels.json")
    return ["labels.json: expected a list of objects with image_path, got dict"]


def json_that_is_none(ground: Ground) -> list[str]:
    (ground.data / "labels.json").write_text("[{")
    ground.values["data"]["path"] = str(ground.data / "labels.json")
    return ["labels.json: not readable JSON in UTF-8"]


def a_picture_without_a_mask(ground: Ground) -> list[str]:
    masked = ground.segments()
    (masked / "masks" / "03.png").unlink()
    return ["pictures without a mask of the same name (1):", str(masked / "images" / "03.jpg")]


def a_mask_without_a_picture(ground: Ground) -> list[str]:
    masked = ground.segments()
    (masked / "images" / "03.jpg").unlink()
    return ["masks without a picture of the same name (1):", str(masked / "masks" / "03.png")]


def a_mask_of_another_size(ground: Ground) -> list[str]:
    mask = ground.segments() / "masks" / "03.png"
    Image.open(mask).resize((32, 40), Image.Resampling.NEAREST).save(mask)
    return ["pictures whose truth cannot be used (1):", f"mask {mask}: is 32 x 40, expected its picture's 64 x 64"]


def a_mask_with_an_unknown_class(ground: Ground) -> list[str]:
    masked = ground.segments(labels=["nothing", "ink", "paper"])
    for path in (masked / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255 * (7 if path.stem == "03" else 2)).save(path)
    return [
        f"mask {masked / 'masks' / '03.png'}: holds 7, expected class numbers below 3 (or 255)",
        "data.labels names the classes, from 0; for other values data.mask_values: {nothing: 0, ink: 7, …}",
    ]


def redrawn(ground: Ground, draw: Callable[[np.ndarray], Image.Image], **data: Any) -> None:
    """Masks that are drawn anew from where their digits are."""
    for mask in (ground.segments(**data) / "masks").iterdir():
        draw(np.asarray(Image.open(mask)) > 0).save(mask)


def masks_in_a_colour(ground: Ground) -> list[str]:
    redrawn(ground, lambda there: Image.fromarray(there[..., None] * np.array([255, 0, 0], np.uint8)))
    return [
        "pictures whose truth cannot be used (12):",
        "00.png: holds the colours [0, 0, 0], [255, 0, 0], expected 0 and 1 (and 255 for what is not judged), or 0 and",
        "data.mask_values: {background: [0, 0, 0], foreground: [255, 0, 0]}",
    ]


def masks_of_zero_and_two(ground: Ground) -> list[str]:
    redrawn(ground, lambda there: Image.fromarray(there * np.uint8(2)))
    return ["00.png: holds 0, 2, expected 0 and 1", "data.mask_values: {background: 0, foreground: 2}"]


def masks_of_instances(ground: Ground) -> list[str]:
    redrawn(ground, lambda there: Image.fromarray(there * np.arange(64, dtype=np.uint16) * 9))
    return ["more, expected 0 and 1", "data.mask_values: {background: 0, foreground: nonzero}"]


def masks_with_soft_edges(ground: Ground) -> list[str]:
    redrawn(ground, lambda there: Image.fromarray(there * np.uint8(255)).resize((32, 32)).resize((64, 64)))
    return ["(or {background: 0-127, foreground: 128-255} where edges are soft)"]


def masks_that_are_transparent(ground: Ground) -> list[str]:
    redrawn(ground, lambda there: Image.fromarray(there[..., None] * np.array([255, 0, 0, 255], np.uint8)))
    return ["00.png: is transparent in parts; save it without transparency, so that each pixel has a value"]


def masks_of_nothing(ground: Ground) -> list[str]:
    redrawn(ground, lambda there: Image.fromarray(there * np.uint8(0)))
    return ["no mask of train has a pixel of foreground, so that nothing could be learned"]


def masks_with_a_value_that_is_not_mapped(ground: Ground) -> list[str]:
    values = {"background": 0, "ink": 2, "ignore": 9}
    redrawn(ground, lambda there: Image.fromarray(there * np.uint8(3)), mask_values=values)
    return ["00.png: holds 3, which data.mask_values does not name"]


def mask_values_of_other_labels(ground: Ground) -> list[str]:
    ground.segments(labels=["background", "ink"], mask_values={"background": 0, "paper": 255})
    return ["data.mask_values: names background, paper, the labels are background, ink; name each of them"]


def masks_with_a_suffix(ground: Ground) -> list[str]:
    masks = ground.segments() / "masks"
    for mask in list(masks.iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    return [f"{masks}: all masks end in _mask, so that none has its picture's name; set data.mask_suffix: _mask"]


def masks_of_other_names(ground: Ground) -> list[str]:
    masks = ground.segments() / "masks"
    for mask in list(masks.iterdir()):
        mask.rename(mask.with_stem(f"m{mask.stem}"))
    return ["no mask has its picture's name; pictures are named as 00.jpg, masks as m00.png"]


def two_masks_of_a_picture(ground: Ground) -> list[str]:
    masks = ground.segments() / "masks"
    Image.open(masks / "00.png").save(masks / "00.bmp")
    return ["00.jpg: has two masks, ", "00.bmp", "00.png"]


def a_column_of_the_split_beside_labels(ground: Ground) -> list[str]:
    pictures = sorted(ground.data.rglob("*.png"))
    rows = [
        {"image_path": str(p), "is_train": i % 2, "patient": f"p{i % 5}", "seven": int(p.parent.name == "7"), "odd": 1}
        for i, p in enumerate(pictures)
    ]
    ground.values |= {"task": "multilabel"}
    ground.values["data"]["path"] = str(ground.write_table(ground.root / "facts.csv", rows))
    return [
        "column is_train seems to say which part a picture is in",
        "column patient holds 'p0', 'p1', 'p2', 'p3', 'p4', expected 0 or 1 for each label; name the columns that are "
        "labels with data.labels: [seven, odd]",
    ]


def a_label_that_all_pictures_have(ground: Ground) -> list[str]:
    a_column_of_the_split_beside_labels(ground)
    ground.values["data"]["labels"] = ["seven", "odd"]
    return ["labels that each picture of train has, so that nothing can be learned; leave them out (1):\n    odd"]


def a_label_column_that_is_missing(ground: Ground) -> list[str]:
    a_column_of_the_split_beside_labels(ground)
    ground.values["data"]["labels"] = ["seven", "eight"]
    return ["no column `eight`, which data.labels names; the columns are: image_path, is_train, patient, seven, odd"]


def soft_labels(ground: Ground) -> list[str]:
    ground.facts("1", "0.5", "0.9")
    return ["line 3: expected a column of 0 or 1", "seven '0.5'; labels between 0 and 1 are not learned, round them"]


def a_column_of_soft_labels(ground: Ground) -> list[str]:
    ground.facts(*["0.5", "0.7"] * 18)
    return ["column seven holds '0.5', '0.7', expected 0 or 1 for each label; labels between 0 and 1 are not learned"]


def a_blank_fact(ground: Ground) -> list[str]:
    ground.facts("1", "", "1.0", "True", "false")
    return ["line 3: there is no value for seven"]


def one_picture_under_two_labels(ground: Ground) -> list[str]:
    shutil.copy(ground.data / "0" / "0000.png", ground.data / "1" / "same.png")
    return [
        "pictures that are there twice, with different truths; keep the right one (1):",
        f"{ground.data / '1' / 'same.png'} (1) is {ground.data / '0' / '0000.png'} (0)",
    ]


def one_picture_with_two_masks(ground: Ground) -> list[str]:
    masked = ground.segments()
    shutil.copy(masked / "images" / "03.jpg", masked / "images" / "04.jpg")
    return ["with different truths", "04.jpg (mask 04.png) is ", "03.jpg (mask 03.png)"]


def labels_spelled_in_two_ways(ground: Ground) -> list[str]:
    ground.table({"label": "0.0"}, {"label": "00"}, {"label": "cafe\u0301"}, {"label": "caf\u00e9"})
    return [
        "labels that differ by their spelling alone; write each in one way (2):",
        "'0' and '0.0' and '00'",
        r"'cafe\u0301' and 'caf\xe9'",
    ]


def labels_that_are_negative_in_two_ways(ground: Ground) -> list[str]:
    ground.table({"label": "-1"}, {"label": "-1.0"})
    return ["labels that differ by their spelling alone; write each in one way (1):", "'-1' and '-1.0'"]


def parts_of_unknown_names(ground: Ground) -> list[str]:
    for part in ("seg_a", "seg_b"):
        shutil.copytree(ground.data, ground.data.parent / "parts" / part)
    ground.values["data"]["path"] = str(ground.data.parent / "parts")
    return ["seg_a, seg_b hold the same folders, so they seem to be parts and not classes"]


def a_group_that_is_no_column(ground: Ground) -> list[str]:
    ground.table()
    ground.values["data"]["group"] = "patient"
    return ["no column `patient`, which data.group names; the columns are: image_path, label"]


def a_single_group(ground: Ground) -> list[str]:
    ground.table(*[{"patient": "p1"}] * 36)
    ground.values["data"]["group"] = "patient"
    return ["1 groups are too few to give test whole ones and keep some to train on"]


def a_group_in_two_parts(ground: Ground) -> list[str]:
    for part, label in (("train", "01"), ("val", "17")):
        pictures = [picture for each in label for picture in sorted((ground.data / each).iterdir())[:: len(label)]]
        rows = [{"image_path": str(p), "label": p.parent.name, "patient": p.parent.name} for p in pictures]
        (ground.root / "parts").mkdir(exist_ok=True)
        ground.write_table(ground.root / "parts" / f"{part}.csv", rows)
    ground.values["data"] = {"path": str(ground.root / "parts"), "group": "patient", "test_ratio": 0.0}
    return ["groups that are in two parts, where each belongs into one (1):\n    1 in train and val"]


def one_picture_in_two_groups(ground: Ground) -> list[str]:
    ground.table(*({"patient": f"p{number // 3}"} for number in range(36)))
    shutil.copy(ground.data / "0" / "0000.png", ground.data / "0" / "0011.png")
    names = sorted(path.name for path in (ground.data / "0").iterdir())
    shutil.copy(ground.data / "0" / names[0], ground.data / "0" / names[-1])
    ground.values["data"]["group"] = "patient"
    return ["pictures that are in two groups (1):", "of p3 is ", "of p0"]


def a_part_that_the_column_does_not_tell(ground: Ground) -> list[str]:
    ground.table(*({"split": ("train", "Valid", "later")[number % 3]} for number in range(36)))
    ground.values["data"]["split_column"] = "split"
    return ["12 rows cannot be used (lines 4, 7, 10, …): expected train, val or test in column split, got 'later'"]


def names_without_an_ending(ground: Ground) -> list[str]:
    ground.table(*({"image_path": f"a{number}"} for number in range(36)))
    return ["that do not exist (36):", "the names have no ending; write paths from the folder of labels.csv"]


def options_of_segmentation(ground: Ground) -> list[str]:
    ground.values["data"] |= {"mask_values": {"a": 0, "b": 1}, "mask_suffix": "_mask"}
    return ["data.mask_values is for segmentation; leave it out", "data.mask_suffix is for segmentation; leave it out"]


def a_mask_cut_short(ground: Ground) -> list[str]:
    mask = ground.segments() / "masks" / "03.png"
    os.truncate(mask, mask.stat().st_size // 2)
    return [f"mask {mask}: the mask is broken or cut short"]


def an_embedding_of_one_class(ground: Ground) -> list[str]:
    for label in "17":
        shutil.rmtree(ground.data / label)
    ground.values["task"] = "embedding"
    return ["an embedding is learned by comparing classes: train has 1, expected at least 2"]


def an_embedding_of_too_few_classes(ground: Ground) -> list[str]:
    ground.values["task"] = "embedding"
    return ["3 classes are too few to give val whole ones and keep two to train on", "data.split_by: picture"]


def top_classes_of_masks(ground: Ground) -> list[str]:
    ground.segments(top_classes=2)
    return ["data.top_classes: the pictures of segmentation have no classes; leave it out"]


def a_share_too_small(ground: Ground) -> list[str]:
    ground.values["data"]["test_ratio"] = 0.01
    return ["0 of 36 pictures cannot become test and leave each of 3 classes in every part: raise data.test_ratio"]


def classes_that_training_does_not_know(ground: Ground) -> list[str]:
    ground.values["data"]["split_by"] = "class"
    return ["data.split_by: class is for embeddings; a multiclass model cannot tell unseen classes"]


def a_header_that_says_it_twice(ground: Ground) -> list[str]:
    path = ground.root / "twice.csv"
    path.write_text("image_path,label,label\n0/a.png,0,1\n")
    ground.values["data"]["path"] = str(path)
    return [f"{path}: its header names label more than once"]


def json_with_a_number_for_a_path(ground: Ground) -> list[str]:
    ground.table({"mask_path": 7}, name="labels.json")
    return ["entries of", "that name no file (1):", "entry 1: expected a path, got 7"]


def json_that_lacks_a_label(ground: Ground) -> list[str]:
    pictures = sorted(ground.data.rglob("*.png"))
    rows = [{"image_path": str(p), "round": int(p.parent.name == "0"), "odd": 1} for p in pictures]
    del rows[3]["odd"]
    ground.values |= {"task": "multilabel"}
    ground.values["data"]["path"] = str(ground.write_table(ground.root / "facts.json", rows))
    return ["entry 4: there is no value for odd"]


def a_label_that_is_a_column(ground: Ground) -> list[str]:
    pictures = sorted(ground.data.rglob("*.png"))
    rows = [
        {"image_path": str(p), "labels": ["odd", "image_path"] if i % 2 else ["odd"]} for i, p in enumerate(pictures)
    ]
    ground.values |= {"task": "multilabel"}
    ground.values["data"]["path"] = str(ground.write_table(ground.root / "facts.json", rows))
    return ["a label 'image_path' could not be told from a column or a list; rename it"]


def names_for_the_numbers_of_no_mask(ground: Ground) -> list[str]:
    ground.values["data"]["labels"] = ["zero", "one", "seven"]
    return ["data.labels is for segmentation and multilabel; leave it out"]


def pictures_without_a_folder_of_masks(ground: Ground) -> list[str]:
    ground.segments()
    del ground.values["data"]["masks"]
    return ["images: where are the masks of these pictures? name their folder with data.masks"]


def labels_in_a_column_that_is_not_there(ground: Ground) -> list[str]:
    pictures = sorted(ground.data.rglob("*.png"))
    rows = [{"image_path": str(path), "odd": number % 2, "even": 1} for number, path in enumerate(pictures)]
    ground.values |= {"task": "multilabel", "column": "nope"}
    ground.values["data"]["path"] = str(ground.write_table(ground.root / "facts.csv", rows))
    return ["no column `nope`; the columns are: image_path, odd, even"]


def labels_in_a_column_of_facts(ground: Ground) -> list[str]:
    labels_in_a_column_that_is_not_there(ground)
    ground.values["column"] = "even"
    return ["expected labels in column even, got 1; for a column of 0 or 1 each, leave `column` out"]


def weights_that_fit_nothing(ground: Ground) -> list[str]:
    path = ground.root / "other.safetensors"
    save_file({"encoder.layer.weight": np.zeros((3, 3), np.float32)}, path)
    ground.values["model"]["weights"] = str(path)
    return [f"{path}: none of its 1 tensors has name and shape of one of the network's", "encoder.layer.weight"]


def weights_that_are_missing(ground: Ground) -> list[str]:
    ground.values["model"]["weights"] = str(ground.root / "no.safetensors")
    return [f"{ground.root / 'no.safetensors'}: no such checkpoint"]


DATA = [
    a_missing_folder, a_file_of_another_kind, no_class_folders, a_class_without_pictures, a_class_too_small,
    a_single_class, a_picture_cut_short, a_label_that_train_lacks, a_part_of_another_name, no_part_to_train_on,
    a_picture_in_two_parts, another_header, an_empty_file, a_header_alone, no_column_of_the_task, a_blank_cell,
    a_missing_picture, a_picture_named_twice, a_cell_that_is_no_fact, a_label_that_no_picture_has,
    json_that_is_no_list, json_that_is_none, a_picture_without_a_mask, a_mask_without_a_picture,
    a_mask_of_another_size, a_mask_with_an_unknown_class, a_mask_cut_short, an_embedding_of_one_class,
    an_embedding_of_too_few_classes, top_classes_of_masks, a_share_too_small, weights_that_fit_nothing,
    weights_that_are_missing, classes_that_training_does_not_know, a_header_that_says_it_twice,
    json_with_a_number_for_a_path, json_that_lacks_a_label, a_label_that_is_a_column,
    names_for_the_numbers_of_no_mask, pictures_without_a_folder_of_masks,
    labels_in_a_column_that_is_not_there, labels_in_a_column_of_facts, a_part_beside_a_stranger, parts_in_capitals,
    parts_of_sets, parts_without_class_folders, parts_inside_of_classes, a_part_in_a_table_of_another_name,
    a_layout_of_detection, masks_in_a_colour, masks_of_zero_and_two, masks_of_instances, masks_with_soft_edges,
    masks_that_are_transparent, masks_of_nothing, masks_with_a_value_that_is_not_mapped, mask_values_of_other_labels,
    masks_with_a_suffix, masks_of_other_names, two_masks_of_a_picture, a_column_of_the_split_beside_labels,
    a_label_that_all_pictures_have, a_label_column_that_is_missing, soft_labels, a_column_of_soft_labels, a_blank_fact,
    one_picture_under_two_labels, one_picture_with_two_masks, labels_spelled_in_two_ways,
    labels_that_are_negative_in_two_ways, parts_of_unknown_names, a_group_that_is_no_column,
    a_single_group, a_group_in_two_parts, one_picture_in_two_groups, a_part_that_the_column_does_not_tell,
    names_without_an_ending, options_of_segmentation, a_table_without_a_header, a_table_in_latin_1,
]  # fmt: skip


@pytest.mark.parametrize("broken", DATA, ids=lambda broken: broken.__name__)
def test_data_is_refused_in_one_message_when_it_cannot_be_used(
    command: Command, ground: Ground, broken: Callable[[Ground], list[str]]
) -> None:
    expected = broken(ground)
    text = refused(command, ground)
    for part in expected:
        assert part in text


def test_message_has_all_problems_when_names_and_data_are_wrong(command: Command, ground: Ground) -> None:
    ground.table({"image_path": "0/9999.png"})
    ground.values["model"]["name"] = "resnet18x"
    ground.values["optimizer"]["name"] = "adamww"
    ground.values["scheduler"] = {"name": "cosin"}
    ground.values["callbacks"] = ["Ping"]
    text = refused(command, ground)
    for part in ("'resnet18x'", "'adamww'", "'cosin'", "'Ping'", "9999.png"):
        assert part in text


def test_message_has_all_problems_of_the_config_when_there_are_several(command: Command, ground: Ground) -> None:
    ground.values["optimizer"] |= {"lr": -1, "speed": 3}
    del ground.values["model"]
    text = refused(command, ground, "epochs=0", "seed=x")
    assert "5 problems in the configuration" in text
    for part in ("optimizer.lr: ", "optimizer.speed: ", "model: is required", "epochs=0", "seed=x"):
        assert part in text


def test_message_has_all_problems_of_the_data_when_there_are_several(command: Command, ground: Ground) -> None:
    for breaking in (a_class_without_pictures, a_class_too_small, a_picture_cut_short):
        breaking(ground)
    text = refused(command, ground)
    for part in ("class folders without a picture", "7 has 2", "the PNG data is broken"):
        assert part in text


def test_message_counts_the_rest_when_many_pictures_are_unreadable(command: Command, ground: Ground) -> None:
    for picture in (ground.data / "0").iterdir():
        picture.write_bytes(b"not a picture")
    text = refused(command, ground)
    assert "pictures that cannot be read (12)" in text
    assert "... and 2 more" in text
    assert text.count("not a picture") == 10


def test_message_is_one_document_when_asked_for_json(command: Command, ground: Ground) -> None:
    a_missing_picture(ground)
    result = command("train", "fit", ground.config, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "DataError"
    assert "9999.png" in error["message"]
