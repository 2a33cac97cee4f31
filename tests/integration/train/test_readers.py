"""Readers of labelled images, and mask files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errors import raises
from tritonkit.errors import DataError
from tritonkit.evaluation.provenance import read_provenance
from tritonkit.evaluation.readers import read_table
from tritonkit.evaluation.samples.sample import IMAGE, MASK
from tritonkit.plugins import load_plugins

Table = Callable[..., Path]

READER = """
import json
from pathlib import Path
from tritonkit.plugins import register

@register("reader", "lines")
def lines(path):
    for line in Path(path).read_text().splitlines():
        picture, label = line.split("\\t")
        yield {"image_path": picture, "label": label}

def broken(path):
    raise RuntimeError("no such luck")

def careless(path):
    return [{"picture": "x"}]
"""


def rows(path: Path, reader: str | None = None, masks: Path | None = None) -> list[dict[str, object]]:
    table = read_table(path, reader, masks)
    assert not table.problems
    return [dict(row) for _, row in table.rows]


def names_in(folder: Path) -> list[dict[str, str]]:
    return [{"image_path": str(p.relative_to(folder)), "label": p.parent.name} for p in sorted(folder.rglob("*.png"))]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a plugin module in the working directory that registers a reader."""
    (tmp_path / "own_readers.py").write_text(READER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins(["own_readers"])
    return "own_readers"


def test_table_with_a_provenance_is_refused_when_it_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    picture = str(next(folder.rglob("*.png")))
    table = {"provenance": {"crop": {"margin": 9}}, "images": [{"image_path": picture, "label": "0"}]}
    (tmp_path / "images.json").write_text(json.dumps(table))
    assert len(read_table(tmp_path / "images.json").rows) == 1
    with raises(DataError, "data.provenance", "margin"):
        read_provenance(tmp_path)


def test_folder_gives_a_row_for_each_picture_when_it_has_class_folders(folder: Path) -> None:
    found = rows(folder)
    assert len(found) == 36
    assert found[0] == {IMAGE: folder / "0" / "0000.png", "label": "0"}
    assert {row["label"] for row in found} == {"0", "1", "7"}


def test_hidden_files_are_left_out_when_a_folder_is_read(folder: Path) -> None:
    (folder / "0" / "._0000.png").write_bytes(b"what macOS leaves behind")
    (folder / ".cache").mkdir()
    assert len(rows(folder)) == 36


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_table_gives_what_its_folder_gives_when_read(folder: Path, write_table: Table, name: str) -> None:
    assert rows(write_table(folder / name, names_in(folder))) == rows(folder)


def test_csv_is_read_when_it_has_a_byte_order_mark_and_spaces(folder: Path) -> None:
    (folder / "labels.csv").write_text("\ufeffimage_path, label\n0/0000.png, 0\n\n1/0500.png ,1\n", encoding="utf-8")
    assert [(row[IMAGE].name, row["label"]) for row in rows(folder / "labels.csv")] == [
        ("0000.png", "0"),
        ("0500.png", "1"),
    ]  # type: ignore[attr-defined]


def test_json_is_refused_by_entry_when_one_is_no_object(folder: Path) -> None:
    (folder / "labels.json").write_text(
        json.dumps([{"image_path": "0/0000.png", "label": 0}, "0/0001.png", {"label": 1}])
    )
    table = read_table(folder / "labels.json")
    assert len(table.rows) == 1
    assert [problem.code for problem in table.problems] == ["data.not_an_object", "data.invalid_path"]
    assert "(1):\n    entry 2" in str(table.problems[0])
    assert "(1):\n    entry 3: " in str(table.problems[1])


def test_masks_are_paired_by_name_when_their_extension_is_another(masked: Path) -> None:
    found = rows(masked / "images", masks=masked / "masks")
    assert len(found) == 12
    assert found[3] == {IMAGE: masked / "images" / "03.jpg", MASK: masked / "masks" / "03.png"}


def test_masks_are_paired_by_path_when_they_lie_in_folders(masked: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (masked / kind / "more").mkdir()
        (masked / kind / f"03.{suffix}").rename(masked / kind / "more" / f"00.{suffix}")
    found = rows(masked / "images", masks=masked / "masks")
    assert len(found) == 12
    assert {IMAGE: masked / "images" / "more" / "00.jpg", MASK: masked / "masks" / "more" / "00.png"} in found


@pytest.mark.parametrize("column", ["mask_path", "ink"])
def test_masks_are_found_from_the_table_when_their_paths_are_relative(
    masked: Path, write_table: Table, column: str
) -> None:
    pairs = [{"image_path": f"images/{n:02}.jpg", column: f"masks/{n:02}.png"} for n in range(12)]
    table = read_table(write_table(masked / "pairs.csv", pairs), mask_column=column)
    assert table.rows[3][1] == {IMAGE: masked / "images" / "03.jpg", column: masked / "masks" / "03.png"}


@pytest.mark.parametrize("reader", ["lines", "own_readers:lines"])
def test_own_reader_gives_rows_when_it_is_a_plugin(folder: Path, plugin: str, reader: str) -> None:
    listing = folder / "labels.lines"
    listing.write_text("".join(f"{row['image_path']}\t{row['label']}\n" for row in names_in(folder)))
    assert rows(listing, reader) == rows(folder)


@pytest.mark.parametrize(
    ("reader", "code", "expected"),
    [
        ("own_readers:broken", "data.reader_failed", "RuntimeError: no such luck"),
        ("own_readers:careless", "data.no_image_column", "picture"),
        ("own_readers:absent", "", "'own_readers' has no class or function 'absent'"),
        ("other_readers:lines", "", "'other_readers'"),
    ],
)
def test_own_reader_is_refused_with_its_reason_when_it_fails(
    folder: Path, plugin: str, reader: str, code: str, expected: str
) -> None:
    problem = read_table(folder, reader).problems[0]
    assert problem.code == code or not code
    assert expected in problem.message
