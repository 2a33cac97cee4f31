"""`train segment` and `train crop`: masks in SQLite and PostgreSQL, crops that serving would cut too, and training."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image, ImageDraw
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from builder.pipeline import export
from builder.request import ExportRequest
from tests.collection_server import Collection, CollectionServer
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.integration.train.conftest import WriteConfig
from tests.postgres import PostgresServer
from tests.serving import options_for, serving
from tests.tiny_graphs import colour_spec, save_brightness_mask, save_colour_graph
from tests.web import listening
from train.config.loading import load_config
from train.data.folding import read_folds
from train.data.splits import read_splits
from train.databases import parse_database_url
from train.people.segment import SegmentOptions, segment
from train.tasks import training_task
from tritonkit.checkpoint import read_spec
from tritonkit.images.crops import CropSettings, crop_object
from tritonkit.images.objects import objects_of
from tritonkit.images.pipeline import Pipeline
from tritonkit.images.preprocess import decode_image, load_file
from tritonkit.runtimes import open_artifact

Run = Callable[..., Any]
BACKENDS = ("sqlite", "postgresql")


def draw(path: Path, objects: int, seed: int, size: tuple[int, int] = (160, 120)) -> None:
    """Write a dark picture with bright rectangles, each in a cell of its own."""
    noise = np.random.default_rng(seed)
    image = Image.fromarray(noise.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8))
    width, height = size[0] // 4, size[1] // 2
    for cell in noise.permutation(8)[:objects].tolist():
        x, y = width * (cell % 4) + 6, height * (cell // 4) + 6
        colour = tuple(noise.integers(150, 256, 3).tolist())
        ImageDraw.Draw(image).rectangle((x, y, x + width // 2, y + height // 2), colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)


@pytest.fixture
def photos_of_people(tmp_path: Path) -> Path:
    """Ten pictures each of `worker` and `visitor` with one to four bright objects, 46 in all."""
    folder = tmp_path / "street"
    for number in range(20):
        draw(folder / ("worker", "visitor")[number % 2] / f"{number}.png", objects=1 + number // 2 % 4, seed=number)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A segmentation model of bright pixels."""
    return save_brightness_mask(tmp_path / "bright.onnx")


def segmented(command: Command, *arguments: object, code: int = 0) -> dict[str, Any]:
    done = command("train", "segment", *arguments, "--json")
    assert done.exit_code == code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def rows_of(address: str, query: str) -> list[tuple[Any, ...]]:
    engine = create_engine(parse_database_url(address))
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def contents(address: str) -> list[tuple[Any, ...]]:
    """All pictures and masks, without paths and times."""
    pictures = rows_of(address, "SELECT sha256, status, width, height, objects, label FROM pictures ORDER BY sha256")
    masks = "SELECT sha256, number, x, y, width, height, area, counts FROM masks ORDER BY sha256, number"
    return [*pictures, *rows_of(address, masks)]


def stored_rows(address: str) -> int:
    """The number of pictures and masks; 0 before their tables exist."""
    with suppress(SQLAlchemyError):
        ((count,),) = rows_of(address, "SELECT (SELECT count(*) FROM pictures) + (SELECT count(*) FROM masks)")
        return int(count)
    return 0


def address_of(backend: str, folder: Path, postgres: PostgresServer) -> str:
    return postgres.create_database() if backend == "postgresql" else f"sqlite:///{folder}/{backend}.db"


def test_crops_of_a_collection_are_what_serving_would_cut_and_checkpoints_know_how(
    photos_of_people: Path, model: Path, tmp_path: Path, command: Command, write_config: WriteConfig
) -> None:
    collected, crops = tmp_path / "collected", tmp_path / "crops"
    with listening(CollectionServer(Collection(photos_of_people))) as server:
        words = ("--url", server.url, "--group", "street", "--output", collected)
        assert command("train", "collect", *words).exit_code == 0
    result = segmented(command, collected, "--with", model)
    assert (result["segmented"], result["objects"], result["skipped"], result["failed"]) == (20, 46, 0, {})
    done = command("train", "crop", collected, "--output", crops, "--margin", 0.2, "--background", "remove")
    assert done.exit_code == 0, done.output
    settings = CropSettings(margin=0.2, background="remove")
    rows = json.loads((crops / "images.json").read_text())["images"]
    assert len(rows) == 46
    runner = open_artifact(model)
    for row in json.loads((collected / "images.json").read_text())["images"]:
        picture = collected / row["image_path"]
        pixels, geometry = load_file(picture, runner.spec.preprocess)
        objects = objects_of(runner.infer(pixels[None])["mask"][0], geometry, 1, settings.min_share)
        cut = [crop for crop in rows if crop["picture"] == row["image_path"]]
        assert [(crop["label"], tuple(crop["box"])) for crop in cut] == [(row["label"], found.box) for found in objects]
        for crop, found in zip(cut, objects, strict=True):
            served = crop_object(decode_image(picture.read_bytes()), found, settings)
            np.testing.assert_array_equal(Image.open(crops / crop["image_path"]), served)

    config = write_config(tmp_path / "config.yaml", crops)
    fitted = command("train", "fit", config, "--json")
    assert fitted.exit_code == 0, fitted.output
    trained = read_spec(Path(json.loads(fitted.stdout)["checkpoint"]))
    assert (trained.crop, trained.lineage.group) == (settings, "street")
    loaded = load_config(config)
    splits = read_splits(loaded.data, training_task(loaded), seed=1)
    pictures = [{sample.group for sample in part} for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, pictures)) == len(set.union(*pictures)) == 20
    assert command("train", "prepare", crops, tmp_path / "splits").exit_code == 0
    prepared = loaded.data.model_copy(update={"path": tmp_path / "splits"})
    folds, _ = read_folds(prepared, training_task(loaded), seed=1, count=2)
    for fold in folds:
        assert not {sample.group for sample in fold.train + fold.val} & {sample.group for sample in fold.test}
    assert (folds[0].provenance.crop, folds[0].group) == (settings, "picture")


def test_masks_of_a_large_jpeg_are_those_of_a_pipeline(tmp_path: Path, model: Path, command: Command) -> None:
    folder, runner = tmp_path / "street", open_artifact(model)
    folder.mkdir()
    blots = np.random.default_rng(3).integers(64, 192, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(blots).resize((2048, 1536), Image.Resampling.BICUBIC).save(folder / "large.jpg", quality=90)
    preprocess = {"preprocess": asdict(runner.spec.preprocess)}
    settings = {"segmenter": preprocess, "classifier": preprocess | {"max_batch": 64}, "labels": ["worker"]}
    settings |= {"crop": asdict(CropSettings(min_share=0.0005)), "class_number": 1}
    pipeline = Pipeline(settings, lambda image: runner.infer(image)["mask"], lambda crops: np.ones((len(crops), 1)))
    assert segmented(command, folder, "--with", model)["objects"] > 5
    stored = rows_of(f"sqlite:///{folder}/masks.db", "SELECT counts FROM masks ORDER BY number")
    assert [counts for (counts,) in stored] == pipeline.answer((folder / "large.jpg").read_bytes())["masks"].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_are_done_once_until_the_model_changes_or_all_are_asked_for(
    backend: str, photos_of_people: Path, model: Path, tmp_path: Path, command: Command, postgres: PostgresServer
) -> None:
    address = address_of(backend, tmp_path, postgres)
    words = (photos_of_people, "--with", model, "--database", address)
    assert segmented(command, *words)["segmented"] == 20
    first = contents(address)
    assert len(first) == 20 + 46
    again = segmented(command, *words)
    assert (again["segmented"], again["skipped"]) == (0, 20)
    shutil.copytree(photos_of_people, tmp_path / "moved")
    assert segmented(command, tmp_path / "moved", *words[1:])["skipped"] == 20
    assert segmented(command, *words, "--process-all")["segmented"] == 20
    assert contents(address) == first
    other = save_brightness_mask(tmp_path / "other.onnx", level=256)
    assert segmented(command, photos_of_people, "--with", other, "--database", address)["objects"] == 0
    assert rows_of(address, "SELECT count(*) FROM masks") == [(0,)]


def test_broken_pictures_are_recorded_and_the_others_go_on(
    photos_of_people: Path, model: Path, tmp_path: Path, command: Command
) -> None:
    (photos_of_people / "worker" / "page.jpg").write_text("<html>")
    (photos_of_people / "worker" / "empty.png").touch()
    latin = os.fsdecode(b"caf\xe9.png")
    draw(photos_of_people / "worker" / latin, objects=1, seed=99)
    (photos_of_people / "worker" / os.fsdecode(b"\xff.jpg")).write_text("<body>")
    shutil.copy(photos_of_people / "worker" / "0.png", photos_of_people / "worker" / "copy.png")
    result = segmented(command, photos_of_people, "--with", model, code=1)
    assert {Path(path).name for path in result["failed"]} == {"page.jpg", "empty.png", "\\udcff.jpg"}
    assert (result["segmented"], result["skipped"]) == (21, 1)
    failed = rows_of(f"sqlite:///{photos_of_people}/masks.db", "SELECT path FROM pictures WHERE status = 'failed'")
    assert sorted(failed) == [("worker/\\udcff.jpg",), ("worker/empty.png",), ("worker/page.jpg",)]
    done = command("train", "crop", photos_of_people, "--output", tmp_path / "crops", "--json")
    assert done.exit_code == 1
    cut = json.loads(done.stdout)
    assert (cut["crops"], cut["pictures"], len(cut["left_out"])) == (47, 21, 3)
    pictures = {row["picture"] for row in json.loads((tmp_path / "crops" / "images.json").read_text())["images"]}
    assert "worker/caf\\udce9.png" in pictures


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("--with", "MODEL", "--label", "car"), "people.unknown_label", 2),
        (("--with", "MODEL", "--model", "people"), "people.which_model", 2),
        ((), "people.which_model", 2),
        (("--with", "MODEL", "--url", "127.0.0.1:1"), "option.no_effect", 2),
        (("--with", "MODEL", "--database", "mysql://ada:secret@db/x"), "database.address", 2),
        (("--with", "MODEL", "--database", "postgresql://ada:secret@127.0.0.1:1/x"), "database.password", 2),
        (("--with", "MODEL", "--database", "postgresql://127.0.0.1:1/x?sslpassword=secret"), "database.password", 2),
        (("--with", "MODEL", "--database", "sqlite:///:memory:"), "database.address", 2),
        (("--with", "MODEL", "--database", "sqlite:///x.db?timeout=abc"), "database.address", 2),
        (("--with", "MODEL", "--database", "sqlite:///MODEL/x.db"), "output.not_writable", 2),
        (("--with", "COLOURS"), "people.not_segmentation", 2),
    ],
)
def test_segment_refuses_what_cannot_work(
    arguments: Sequence[str],
    code: str,
    exit_code: int,
    photos_of_people: Path,
    model: Path,
    tmp_path: Path,
    command: Command,
) -> None:
    unchanged = helper.make_node("Identity", ["means"], ["probabilities"])
    colours = save_colour_graph(tmp_path / "colours.onnx", colour_spec("colours"), unchanged)
    words = [word.replace("MODEL", str(model)).replace("COLOURS", str(colours)) for word in arguments]
    done = command("train", "segment", photos_of_people, *words, "--json")
    assert (done.exit_code, error_codes(done)) == (exit_code, {code})
    assert "secret" not in done.output
    assert not (photos_of_people / "masks.db").exists()


def test_password_in_the_environment_is_used_and_not_printed(
    photos_of_people: Path, model: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONKIT_MASKS", "postgresql://ada:secret@127.0.0.1:1/x")
    done = command("train", "segment", photos_of_people, "--with", model, "--json")
    assert (done.exit_code, error_codes(done)) == (3, {"people.database_failed"})
    assert "secret" not in done.output


def test_folder_with_parts_is_refused(photos_of_people: Path, model: Path, tmp_path: Path, command: Command) -> None:
    shutil.copytree(photos_of_people, tmp_path / "parts" / "train")
    for name, *options in (("segment", "--with", model), ("crop", "--output", tmp_path / "crops")):
        done = command("train", name, tmp_path / "parts", *options, "--json")
        assert (done.exit_code, error_codes(done)) == (2, {"people.parts"})


def test_columns_of_a_table_reach_its_crops(
    photos_of_people: Path, model: Path, tmp_path: Path, command: Command
) -> None:
    rows = []
    for labels in (["hat", "bag"], ["bag", "hat"]):  # the second file is a copy
        name = f"{len(rows)}.png"
        shutil.copy(photos_of_people / "worker" / "0.png", tmp_path / name)
        Image.new("L", (160, 120)).save(tmp_path / "mask.png")
        rows.append({"image_path": name, "mask_path": "mask.png", "labels": labels, "picture": "oil", "box": 7})
    table = tmp_path / "pictures.json"
    table.write_text(json.dumps(rows))
    segmented(command, table, "--with", model)
    done = command("train", "crop", table, "--output", tmp_path / "crops")
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "crops" / "images.json").read_text())["images"]
    assert (row["picture"], row["meta.picture"], row["meta.box"], row["labels"]) == ("0.png", "oil", 7, ["hat", "bag"])
    assert len(row["box"]) == 4
    assert "mask_path" not in row


def test_pictures_at_an_address_need_a_database(photos_of_people: Path, model: Path, command: Command) -> None:
    done = command("train", "segment", f"file://{photos_of_people}", "--with", model, "--json")
    assert (done.exit_code, error_codes(done)) == (2, {"people.database_missing"})


def test_crop_refuses_what_would_mislead(photos_of_people: Path, model: Path, tmp_path: Path, command: Command) -> None:
    def crop_codes(pictures: Path, *arguments: object) -> set[str]:
        done = command("train", "crop", pictures, "--output", tmp_path / "crops", *arguments, "--json")
        assert done.exit_code == 2, done.output
        assert not (tmp_path / "crops").exists()
        return error_codes(done)

    assert crop_codes(tmp_path / "none") == {"people.not_found"}
    assert crop_codes(photos_of_people) == {"people.database_not_found"}
    assert crop_codes(photos_of_people, "--background", "blur") == {"people.background"}
    database = ("--database", f"sqlite:///{tmp_path}/masks.db")
    assert crop_codes(photos_of_people, *database) == {"people.database_not_found"}
    assert not (tmp_path / "masks.db").exists()
    segmented(command, photos_of_people / "worker", "--with", model, *database)
    assert crop_codes(photos_of_people / "visitor", *database) == {"people.nothing_to_crop"}
    segmented(command, photos_of_people, "--with", model, *database)
    segmented(command, photos_of_people / "worker", "--with", model, *database, "--min-share", 0.001)
    assert crop_codes(photos_of_people, *database) == {"people.mixed_masks"}
    segmented(command, photos_of_people, "--with", model, *database)
    shutil.copy(photos_of_people / "worker" / "0.png", photos_of_people / "visitor" / "copy.png")
    assert crop_codes(photos_of_people, *database) == {"people.contradicting_labels"}
    assert crop_codes(photos_of_people, "--output", photos_of_people / "new" / "crops") == {"people.output_in_pictures"}
    assert not list(tmp_path.glob(".crops*"))
    (tmp_path / ".crops.partial" / "complete" / "crops").mkdir(parents=True)
    (tmp_path / ".crops.partial" / "complete" / "crops" / "old.png").touch()
    descriptor = os.open(tmp_path / ".crops.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another `train crop` does
    assert crop_codes(photos_of_people / "worker", *database) == {"people.output_in_use"}
    os.close(descriptor)
    done = command("train", "crop", photos_of_people / "worker", "--output", tmp_path / "crops", *database)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.glob("*crops*")} == {"crops"}
    assert not (tmp_path / "crops" / "crops" / "old.png").exists()


@pytest.mark.drill
def test_model_on_triton_gives_the_masks_of_its_file(
    photos_of_people: Path, model: Path, tmp_path: Path, command: Command
) -> None:
    segmented(command, photos_of_people, "--with", model, "--database", f"sqlite:///{tmp_path}/file.db")
    export(ExportRequest(source=model, repository=tmp_path / "repository", max_batch=8))
    with serving(options_for(tmp_path / "repository")) as server:
        words = (
            "--model",
            "bright",
            "--url",
            f"127.0.0.1:{server.options.grpc_port}",
            "--database",
            f"sqlite:///{tmp_path}/served.db",
        )
        assert segmented(command, photos_of_people, *words)["segmented"] == 20
    assert contents(f"sqlite:///{tmp_path}/served.db") == contents(f"sqlite:///{tmp_path}/file.db")


def _work(pictures: str, model: str, address: str) -> None:
    segment(SegmentOptions(pictures, model, None, None, address, None, 0.0005, process_all=False))


@pytest.mark.drill
@pytest.mark.parametrize(("backend", "count", "kills"), [("postgresql", 400, 20), ("sqlite", 200, 8)])
def test_four_killed_workers_lose_and_double_no_mask(
    backend: str, count: int, kills: int, model: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    folder = tmp_path / "street"
    for number in range(count):
        draw(folder / f"{number}.png", objects=number % 9, seed=number, size=(640, 480))
    undisturbed = address_of("sqlite", tmp_path / "street", postgres)
    _work(str(folder), str(model), undisturbed)
    address = address_of(backend, tmp_path, postgres)
    expected = contents(undisturbed)
    assert len(expected) == count + sum(number % 9 for number in range(count))
    chance, processes = random.Random(7), multiprocessing.get_context("fork")

    def started() -> Any:
        worker = processes.Process(target=_work, args=(str(folder), str(model), address))
        worker.start()
        return worker

    workers = [started() for _ in range(4)]
    for kill in range(1, kills + 1):
        while stored_rows(address) < len(expected) * kill // (kills + 1):
            assert any(worker.is_alive() for worker in workers)
            time.sleep(0.01)
        number = chance.randrange(4)
        workers[number].kill()
        workers[number].join()
        workers[number] = started()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert contents(address) == expected
