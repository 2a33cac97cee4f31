"""Tables from various programs: read the same, or refused with cause and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonkit.system.tables import TableError, path_of, table_rows

EXPECTED = [["image_path", "label"], ["a/1.png", "Kätzchen"], ["a/2.png", "Hund"]]
TEXT = "image_path,label\na/1.png,Kätzchen\na/2.png,Hund\n"


def cells(path: Path) -> list[list[str]]:
    return [row for _, row in table_rows(path)]


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace(",", "|").encode(),
        TEXT.replace(",", " , ").encode(),
        TEXT.replace("label", '"label"').replace("Hund", '"Hund"').encode(),
        ("\n" + TEXT + "\n,\n , \n").encode(),
        TEXT.removesuffix("\n").encode(),
    ],
    ids=lambda content: str(content[:24]),
)
def test_table_is_read_when_a_program_writes_it_its_own_way(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    assert cells(tmp_path / "table.csv") == EXPECTED


def test_lines_are_where_rows_begin_when_a_cell_has_a_newline(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('image_path,label\n\na.png,"two\nlines"\nb.png,one\n')
    assert list(table_rows(tmp_path / "table.csv")) == [
        (1, ["image_path", "label"]),
        (3, ["a.png", "two\nlines"]),
        (5, ["b.png", "one"]),
    ]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (TEXT.encode("latin-1"), "table.encoding", "line 2 is not UTF-8 (byte 0xe4)"),
        (TEXT.encode("utf-16")[2:], "table.binary", "UTF-8"),
        (TEXT.encode("utf-16") + b"\0", "table.encoding", "UTF-16"),
        (b'a,b\n1,"2\n', "table.csv", "line 2: "),
        (b"a,b\n" + 2**20 * b"x", "table.line_length", "1,048,576"),
        (2**18 * b"x", "table.csv", "line 1: "),
    ],
    ids=["latin-1", "utf-16 without its mark", "utf-16 cut short", "an open quote", "a long line", "a long header"],
)  # fmt: skip
def test_table_is_refused_when_it_may_be_misread(tmp_path: Path, content: bytes, code: str, message: str) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(TableError) as caught:
        cells(tmp_path / "table.csv")
    assert caught.value.code == code
    assert message in str(caught.value)


def test_foreign_bytes_are_kept_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"path\n\xe4.png\n")
    assert [row for _, row in table_rows(tmp_path / "table.csv", errors="surrogateescape")][1] == ["\udce4.png"]


def test_backslashes_part_folders_when_no_file_has_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "b\\1.png").touch()
    assert path_of(tmp_path, "a\\1.png") == tmp_path / "a" / "1.png"
    assert path_of(tmp_path, "b\\1.png") == tmp_path / "b\\1.png"
