"""`train collect` from a real HTTP service: every picture once, after faults, kills and changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.collection_server import TOKEN_VARIABLE, Collection, CollectionServer
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from tests.programs import ROOT
from tests.web import listening
from tritonkit.checkpoint import read_spec


@pytest.fixture
def service(tmp_path: Path, copy_digits: CopyDigits) -> Iterator[CollectionServer]:
    """A group `street` of 24 pictures with the labels 0 and 1, in pages of 10."""
    folder = copy_digits(tmp_path / "street", labels="01")
    with listening(CollectionServer(Collection(folder, page_size=10))) as server:
        yield server


@pytest.fixture
def collect(command: Command, service: CollectionServer, tmp_path: Path) -> Callable[..., Any]:
    """Run `train collect` into a folder `out`; return the result of the command, with its document."""

    def run(*arguments: object, group: str = "street") -> Any:
        options = ("--url", service.url, "--group", group, "--output", tmp_path / "out", "--retry-s", 5, "--json")
        return command("train", "collect", *options, *arguments)

    return run


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "images.json").read_text())["images"]
    return rows


def write_labels(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "labels.json").write_text(json.dumps(rows))


def test_collected_group_is_trained_on_and_found_in_the_checkpoint(
    collect: Callable[..., Any], command: Command, service: CollectionServer, tmp_path: Path, write_config: WriteConfig
) -> None:
    done = collect()
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["images"], result["fetched"], result["rejected"]) == (24, 24, {})
    originals = {path.read_bytes() for path in service.collection.folder.rglob("*.png")}
    assert {path.read_bytes() for path in (tmp_path / "out" / "pictures").iterdir()} == originals
    fitted = command("train", "fit", write_config(tmp_path / "config.yaml", tmp_path / "out"), "--json")
    assert fitted.exit_code == 0, fitted.output
    assert read_spec(Path(json.loads(fitted.stdout)["checkpoint"])).lineage.group == "street"


def test_group_reaches_the_checkpoint_through_prepared_splits(
    collect: Callable[..., Any], command: Command, tmp_path: Path, write_config: WriteConfig
) -> None:
    collect()
    prepared = command("train", "prepare", tmp_path / "out" / "images.json", tmp_path / "splits")
    assert prepared.exit_code == 0, prepared.output
    fitted = command("train", "fit", write_config(tmp_path / "config.yaml", tmp_path / "splits"), "--json")
    assert fitted.exit_code == 0, fitted.output
    assert read_spec(Path(json.loads(fitted.stdout)["checkpoint"])).lineage.group == "street"


def test_faults_of_the_service_cost_only_repeated_requests(
    collect: Callable[..., Any], service: CollectionServer
) -> None:
    faults = service.collection.faults
    faults.unavailable, faults.cut, faults.wrong = 3, 4, 2
    done = collect("--retry-s", 60)  # one request may meet several of them
    assert done.exit_code == 0, done.output
    assert (faults.unavailable, faults.cut, faults.wrong) == (0, 0, 0)
    assert json.loads(done.stdout)["images"] == 24


def test_second_run_fetches_only_changed_pictures_and_forgets_removed_ones(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path
) -> None:
    collect()
    folder, fetched = service.collection.folder, service.collection.fetched
    changed, removed = sorted((folder / "0").iterdir())[:2]
    Image.new("L", (28, 28), 7).save(changed)
    removed.unlink()
    fetched.clear()
    done = collect()
    assert json.loads(done.stdout)["fetched"] == 1
    assert dict(fetched) == {f"0/{changed.name}": 1}
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert len(rows) == 23
    assert f"0/{removed.name}" not in rows
    stored = tmp_path / "out" / rows[f"0/{changed.name}"]["image_path"]
    assert stored.read_bytes() == changed.read_bytes()


def test_picture_is_stored_once_when_listed_under_two_ids_and_on_two_pages(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path
) -> None:
    folder = service.collection.folder
    first, second, *_ = sorted((folder / "0").iterdir())
    shutil.copy(first, folder / "0" / "zcopy.png")
    service.collection.extra = [service.collection.entries()[1]]  # on the last page once more
    shutil.copy(second, folder / "1" / "other_label.png")
    done = collect()
    assert done.exit_code == 1
    assert set(json.loads(done.stdout)["rejected"]) == {f"0/{second.name}", "1/other_label.png"}
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len({row["image_path"] for row in rows}) == 23
    assert max(service.collection.fetched.values()) == 1


def test_picture_is_fetched_under_its_next_id_when_the_first_one_is_gone(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path
) -> None:
    entry, *_ = service.collection.entries()
    same = {"sha256": entry["sha256"], "bytes": entry["bytes"], "labels": ["hat", "bag"]}
    path = service.collection.folder / entry["id"]
    write_labels(service.collection.folder, {"file": str(path), "id": "p2", "labels": ["bag", "hat"]})
    service.collection.extra = [{"id": "p1"} | same]
    done = collect()
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "out")
    assert (row["id"], row["labels"]) == ("p1", ["hat", "bag"])


def test_listing_without_an_end_is_refused(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.people.service._MOST_PICTURES", 15)
    for size in (-1, 10):  # -1: pages of none, each with another next page; 10: the second page has too many pictures
        service.collection.page_size = size
        done = collect()
        assert (done.exit_code, error_codes(done)) == (2, {"collection.protocol"})
        assert not (tmp_path / "out").exists()


def test_what_is_no_picture_is_left_out_and_not_fetched_again(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path
) -> None:
    page = service.collection.folder / "0" / "page.png"
    page.write_text("<html>not found</html>")
    entry = {"sha256": "0" * 64, "bytes": 5, "label": "0"}
    service.collection.extra = [
        {"id": "gone", "name": "../../gone.png"} | entry,
        {"id": "../up"} | entry | {"sha256": "1" * 64},
    ]
    for fetched in (1, 0):
        service.collection.fetched.clear()
        done = collect()
        assert done.exit_code == 1
        assert set(json.loads(done.stdout)["rejected"]) == {"0/page.png", "gone", "../up"}
        assert service.collection.fetched["0/page.png"] == fetched
    assert len(rows_of(tmp_path / "out")) == 24
    assert {path.name for path in tmp_path.iterdir()} == {"street", "out"}


def test_meta_and_label_lists_become_columns(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path
) -> None:
    folder = service.collection.folder
    name = next((folder / "0").iterdir()).relative_to(folder)
    meta = {"camera": "north", "label": "ours"}
    write_labels(folder, {"file": str(name), "id": "p1", "labels": ["hat", "bag"], "meta": meta})
    assert collect().exit_code == 0
    (row,) = rows_of(tmp_path / "out")
    assert (row["id"], row["labels"], row["camera"], row["meta.label"]) == ("p1", ["hat", "bag"], "north", "ours")


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"id": "a", "sha256": "../../etc/passwd", "bytes": 5}, "collection.protocol"),
        ({"id": "a", "sha256": "0" * 64, "bytes": 2**40}, "collection.protocol"),
        ({"id": "", "sha256": "0" * 64, "bytes": 5}, "collection.protocol"),
    ],
)
def test_listing_that_breaks_the_protocol_writes_nothing(
    entry: dict[str, Any], code: str, collect: Callable[..., Any], service: CollectionServer, tmp_path: Path
) -> None:
    service.collection.extra = [entry]
    done = collect()
    assert (done.exit_code, error_codes(done)) == (2, {code})
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_one_clear_error(
    collect: Callable[..., Any],
    command: Command,
    service: CollectionServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = collect(group="nobody")
    assert (unknown.exit_code, error_codes(unknown)) == (2, {"collection.unknown_group"})
    for url in ("ftp://x", "http://user:secret@127.0.0.1:1", "http://x/?token=abc"):
        refused = command("train", "collect", "--url", url, "--group", "g", "--json")
        assert (refused.exit_code, error_codes(refused)) == (2, {"collection.url"})
        assert "secret" not in refused.output
    dead = command("train", "collect", "--url", "http://127.0.0.1:1", "--group", "g", "--retry-s", 0, "--json")
    assert (dead.exit_code, error_codes(dead)) == (3, {"collection.unreachable"})
    unnamed = command("train", "collect", "--url", service.url, "--group", "../g", "--json")
    assert (unnamed.exit_code, error_codes(unnamed)) == (2, {"collection.output_missing"})

    service.collection.token = "s3cret"
    assert error_codes(collect()) == {"collection.token"}
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret\r")
    unusable = collect()
    assert (unusable.exit_code, error_codes(unusable)) == (2, {"collection.token"})
    assert "s3cret" not in unusable.output
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    assert collect().exit_code == 0
    with listening(CollectionServer(Collection(service.collection.folder / ".." / "other"))) as other:
        shutil.copytree(service.collection.folder, other.collection.folder)
        again = ("train", "collect", "--url", other.url, "--group", "other", "--output", tmp_path / "out", "--json")
        assert error_codes(command(*again)) == {"collection.other_group"}


@pytest.mark.drill
def test_killed_collect_continues_and_fetches_nothing_twice(
    collect: Callable[..., Any], service: CollectionServer, tmp_path: Path, digits: Path
) -> None:
    for label in "0123":
        shutil.copytree(digits / label, service.collection.folder / label, dirs_exist_ok=True)
    service.collection.page_size = 1000
    count = sum(1 for _ in service.collection.folder.rglob("*.png"))
    arguments = ("--url", service.url, "--group", "street", "--output", str(tmp_path / "out"), "--threads", "2")
    pictures = tmp_path / "out" / "pictures"
    for stop_at in (100, 400, 900):
        process = subprocess.Popen([sys.executable, "-P", "-m", "train.cli", "collect", *arguments], cwd=ROOT)
        while process.poll() is None and (not pictures.exists() or len(list(pictures.iterdir())) < stop_at):
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert collect().exit_code == 0
    assert len(rows_of(tmp_path / "out")) == count
    # Each kill loses at most the two pictures that were on their way.
    assert service.collection.fetched.total() <= count + 3 * 2
    assert not list(pictures.glob(".*"))
