from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from model.errors import DataError
from train.config import DataConfig
from train.data import Splits, read_labelled, read_splits
from train.samples import Sample, natural, read_samples


def split(path: Path, seed: int = 0, **ratios: float) -> Splits:
    return read_splits(DataConfig(path=path, **ratios), seed)


def problem(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        split(path)
    return str(caught.value)


def write_rows(path: Path, rows: list[list[str]], header: str = "image_path,label") -> Path:
    with path.open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
    return path


def csv_of(folder: Path, name: str = "labels.csv") -> Path:
    rows = [[str(p.relative_to(folder)), p.parent.name] for p in sorted(folder.rglob("*.png"))]
    return write_rows(folder / name, rows)


def test_split_is_stratified_when_a_folder_has_class_folders(folder: Path) -> None:
    splits = split(folder, val_ratio=0.25, test_ratio=0.25)
    assert splits.labels == ("0", "1", "7")
    for part, count in ((splits.train, 6), (splits.val, 3), (splits.test, 3)):
        assert Counter(sample.label for sample in part) == {"0": count, "1": count, "7": count}
    assert len({sample.path for sample in splits.train + splits.val + splits.test}) == 36


def test_split_is_the_same_when_the_seed_is(folder: Path) -> None:
    assert split(folder, seed=3) == split(folder, seed=3)
    assert split(folder, seed=3).test != split(folder, seed=4).test


def test_fingerprint_follows_the_content_when_the_folder_moves(folder: Path, tmp_path: Path) -> None:
    before = split(folder).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert split(moved).fingerprint == before
    first, second = sorted((moved / "0").iterdir())[:2]
    shutil.copy(first, second)
    assert split(moved).fingerprint != before


def test_labels_are_in_natural_order_when_they_hold_numbers() -> None:
    labels = ["b", "10", "2", "a12", "a2", "1a"]
    assert sorted(labels, key=natural) == ["1a", "2", "10", "a2", "a12", "b"]


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


def test_csv_gives_what_its_folder_gives_when_read(folder: Path) -> None:
    from_csv, from_folder = split(csv_of(folder)), split(folder)
    assert from_csv == from_folder


def test_splits_are_read_back_when_saved(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    splits = split(Path("data"))
    splits.save(tmp_path / "splits")
    read = read_samples(tmp_path / "splits" / "val.csv")
    assert read.samples == [Sample(sample.path.absolute(), sample.label) for sample in splits.val]


def no_such_folder(folder: Path) -> Path:
    return folder / "missing"


def no_class_folders(folder: Path) -> Path:
    return folder / "0"


def a_class_without_pictures(folder: Path) -> Path:
    (folder / "9").mkdir()
    (folder / "9" / "notes.txt").write_text("none yet")
    return folder


def a_class_too_small(folder: Path) -> Path:
    for picture in sorted((folder / "7").iterdir())[2:]:
        picture.unlink()
    return folder


def a_picture_cut_short(folder: Path) -> Path:
    picture = min((folder / "1").iterdir())
    os.truncate(picture, picture.stat().st_size // 2)
    return folder


def a_stranger_in_val(folder: Path) -> Path:
    for part in ("train", "val"):
        shutil.copytree(folder, folder.parent / "parts" / part)
    shutil.move(folder.parent / "parts" / "val" / "7", folder.parent / "parts" / "val" / "seven")
    return folder.parent / "parts"


def an_unknown_part(folder: Path) -> Path:
    for part in ("train", "valid"):
        shutil.copytree(folder, folder.parent / "parts" / part)
    return folder.parent / "parts"


def a_csv_with_another_header(folder: Path) -> Path:
    return write_rows(folder / "labels.csv", [["0/0000.png", "0"]], header="file,class")


def an_empty_csv(folder: Path) -> Path:
    (folder / "labels.csv").touch()
    return folder / "labels.csv"


def a_csv_without_rows(folder: Path) -> Path:
    return write_rows(folder / "labels.csv", [])


def a_csv_with_a_blank_label(folder: Path) -> Path:
    return write_rows(folder / "labels.csv", [["0/0000.png", " "]])


def a_csv_with_a_missing_picture(folder: Path) -> Path:
    return write_rows(folder / "labels.csv", [["0/9999.png", "0"]])


def a_csv_with_a_picture_twice(folder: Path) -> Path:
    return write_rows(folder / "labels.csv", [["0/0000.png", "0"], ["0/0000.png", "1"]])


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (no_such_folder, "expected a folder of class folders or a .csv file, got nothing there"),
        (no_class_folders, "has no class folders; expected 0/<label>/<picture>"),
        (a_class_without_pictures, "classes without a picture (1):\n    "),
        (a_class_too_small, "which takes 3 pictures each (1):\n    7 has 2"),
        (a_picture_cut_short, "pictures that cannot be read (1):\n    "),
        (a_stranger_in_val, "val has labels that train lacks: seven"),
        (an_unknown_part, "besides train, val, test there is also valid"),
        (a_csv_with_another_header, "expected the header image_path,label, got file,class"),
        (an_empty_csv, "expected the header image_path,label, got an empty file"),
        (a_csv_without_rows, "has a header and no rows"),
        (a_csv_with_a_blank_label, "line 2: '0/0000.png, '"),
        (a_csv_with_a_missing_picture, "labels.csv that do not exist (1):\n    line 2: "),
        (a_csv_with_a_picture_twice, "line 3: 0/0000.png, as on line 2"),
    ],
)
def test_data_is_refused_with_its_reason_when_broken(
    folder: Path, broken: Callable[[Path], Path], expected: str
) -> None:
    assert expected in problem(broken(folder))


def test_data_lists_all_problems_when_there_are_several(folder: Path) -> None:
    for breaking in (a_class_without_pictures, a_class_too_small, a_picture_cut_short):
        breaking(folder)
    text = problem(folder)
    for expected in ("classes without a picture (1)", "7 has 2", "the PNG data is broken"):
        assert expected in text


def test_data_counts_the_rest_when_many_pictures_are_unreadable(folder: Path) -> None:
    for picture in (folder / "0").iterdir():
        picture.write_bytes(b"not a picture")
    text = problem(folder)
    assert "pictures that cannot be read (12)" in text
    assert "... and 2 more" in text
    assert text.count("not a picture") == 10


def test_hidden_files_are_left_out_when_a_folder_is_read(folder: Path) -> None:
    (folder / "0" / "._0000.png").write_bytes(b"what macOS leaves behind")
    (folder / ".cache").mkdir()
    assert len(read_samples(folder).samples) == 36


def test_split_is_refused_when_the_parts_would_lack_a_class(folder: Path) -> None:
    with pytest.raises(DataError, match="cannot become test"):
        split(folder, test_ratio=0.01)


def test_labelled_pictures_are_refused_when_the_model_does_not_know_them(folder: Path) -> None:
    with pytest.raises(DataError, match="does not know these labels: 7; it knows 0, 1"):
        read_labelled(folder, ["0", "1"])


def test_labelled_pictures_are_the_test_part_when_the_folder_has_one(
    copy_digits: Callable[..., Path], tmp_path: Path
) -> None:
    copy_digits(tmp_path / "data" / "train")
    copy_digits(tmp_path / "data" / "test", count=2, start=20)
    assert len(read_labelled(tmp_path / "data", ["0", "1", "7"])) == 6


def test_pictures_of_any_mode_are_accepted_when_they_decode(folder: Path) -> None:
    Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(folder / "0" / "alpha.PNG")
    assert len(read_samples(folder).samples) == 37
    assert split(folder).labels == ("0", "1", "7")
