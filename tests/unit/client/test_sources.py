"""The pictures of local files, lists, archives and videos, and their order."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client.cli import app
from client.picture import Picture
from client.sources import find_pictures
from client.sources.content import SpillBuffer
from client.sources.naming import safe_relative_path
from client.sources.tars import Tar
from tests.errors import error_codes, raises
from tests.fixture_types import Command
from tests.pictures import content_or_error, png
from tests.programs import ROOT
from tritonkit.errors import InputError
from tritonkit.images.preprocess import MAX_BYTES, ImageError

PACKERS = {"tar": lambda data: data, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "txz": lzma.compress}


def contents(*paths: object, **options: object) -> dict[str, bytes | str]:
    pictures = list(find_pictures([str(path) for path in paths], **options).pictures)  # type: ignore[arg-type]
    assert len({picture.name for picture in pictures}) == len(pictures)
    return {picture.name: content_or_error(picture) for picture in pictures}


def listing(*lines: object, end: str = "\n") -> io.BytesIO:
    return io.BytesIO("".join(f"{line}{end}" for line in lines).encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them in a subfolder, and files that are not images."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    for number, name in enumerate(["c.png", "b/a.PNG", "b.png"]):
        (tmp_path / "in" / name).write_bytes(png(number))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_bytes(png())
    return tmp_path / "in"


def test_folder_gives_its_pictures_in_the_order_of_paths(folder: Path) -> None:
    found = find_pictures([str(folder)])
    pictures = list(found.pictures)
    assert [Path(picture.name) for picture in pictures] == sorted([folder / "b" / "a.PNG", *folder.glob("[bc].png")])
    assert [str(picture.relative_path) for picture in pictures] == ["b/a.PNG", "b.png", "c.png"]
    assert found.total == 3


def test_folder_here_is_named_without_a_dot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert list(contents(".", "./b.png", "b/../c.png")) == ["b/a.PNG", "b.png", "c.png", "b/../c.png"]


def test_skipped_files_are_counted_by_kind(folder: Path) -> None:
    for name in ("a.psd", "b.PSD", "none", ".ipynb_checkpoints/c.png", "@eaDir/c.png", "b/c.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png())
    archive = shutil.make_archive(str(folder.parent / "packed"), "zip", folder)
    for path in (str(folder), archive):
        found = find_pictures([path])
        assert len(list(found.pictures)) == 3
        assert found.skipped.sentence() == "5 files skipped: 2 .psd, 1 .csv, 1 .txt, 1 without an ending"


def test_linked_folders_are_searched_once_and_dangling_links_are_rows(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "f.png").write_bytes(png(7))
    (tmp_path / "far" / "back").symlink_to(folder)
    (folder / "a_link").symlink_to(tmp_path / "far")
    (folder / "again").symlink_to(tmp_path / "far")
    (folder / "gone.png").symlink_to("nowhere.png")
    found = contents(folder)
    assert list(found) == [f"{folder}/{name}" for name in ("b/a.PNG", "b.png", "c.png", "gone.png", "a_link/f.png")]
    assert "nowhere.png" in str(found[f"{folder}/gone.png"])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image_path;label\nb.png;x\n", "utf-8-sig"),
        ("filename\tlabel\nb.png\tx\n\n", "utf-16"),
        ("label,path\nx,b\\a.PNG\n,,\n", "utf-8"),
    ],
)
def test_csv_is_read_as_programs_write_it(folder: Path, text: str, encoding: str) -> None:
    (folder / "t.csv").write_bytes(text.encode(encoding))
    (content,) = contents(folder / "t.csv").values()
    assert isinstance(content, bytes)


def test_list_on_stdin_gives_what_its_lines_name(folder: Path) -> None:
    lines = listing(folder / "b.png", "", folder, folder / "c.png\r", folder / "none.png", folder / "b.png")
    assert contents("-", stdin=lines) == {
        f"{folder}/b.png": png(2),
        f"{folder}/c.png": png(0),
        f"{folder}/none.png": "no such file",
    }


def test_list_may_end_its_entries_with_nul(folder: Path) -> None:
    (folder / "two\nlines.png").write_bytes(png(9))
    entries = listing(folder / "two\nlines.png", folder / "b.png", end="\0")
    assert list(contents("-", stdin=entries, null=True).values()) == [png(9), png(2)]


def test_list_is_taken_as_it_comes_when_the_pipe_stays_open(folder: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as lines, os.fdopen(writing, "wb") as pipe:
        for name in ("b.png", "c.png"):
            pipe.write(f"{folder}/{name}\n".encode())
        pipe.flush()
        pictures = iter(find_pictures(["-"], stdin=lines).pictures)
        assert [content_or_error(next(pictures)), content_or_error(next(pictures))] == [png(2), png(0)]


def test_invalid_list_is_refused(folder: Path) -> None:
    for stdin, code, datum in [
        (io.BytesIO(), "list.empty", "-: "),
        (io.BytesIO(b"a.png\0b.png\0"), "list.invalid", "--null"),
        (io.BytesIO(b"x" * 10**6), "list.invalid", "65,536 bytes"),
    ]:
        with raises(InputError, code, datum):
            find_pictures(["-"], stdin=stdin)


def test_list_that_becomes_invalid_ends_with_an_error_row(folder: Path) -> None:
    broken = io.BytesIO(f"{folder}/b.png\n".encode() * 5000 + b"x" * 10**6)
    assert list(contents("-", stdin=broken)) == [f"{folder}/b.png", "-"]


def test_place_of_a_listed_file_stays_below(tmp_path: Path) -> None:
    lines = listing("../../etc/a.png", "/etc/b.png", "c/./d.png", "..")
    places = [str(picture.relative_path) for picture in find_pictures(["-"], stdin=lines).pictures]
    assert places == ["etc/a.png", "etc/b.png", "c/d.png"]
    assert str(safe_relative_path("..\\..\\a\0.png")) == "a.png"
    assert str(safe_relative_path("/../")) == "picture"


def test_csv_gives_its_column_relative_to_itself(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(f'label,image_path\ncat,b.png\n\ndog,"{folder}/c.png"\nowl,\nbee,none.png\ncow,b.png\n')
    found = contents(table)
    assert found == {
        f"{folder}/b.png": png(2),
        f"{folder}/c.png": png(0),
        f"{table}#line 5": "the line has no path of an image",
        f"{folder}/none.png": "no such file",
    }
    assert contents(table, column="image_path") == found


def test_tsv_with_a_column_of_another_name_is_read(folder: Path) -> None:
    (folder / "t.tsv").write_text("\ufeffscan\tlabel\nb/a.PNG\tcat\n", encoding="utf-8")
    assert contents(folder / "t.tsv", column="scan") == {f"{folder}/b/a.PNG": png(1)}


@pytest.mark.parametrize(
    ("text", "column", "code", "data"),
    [
        ("label\ncat\n", None, "csv.column", ["image_path, path, ", " or url", "label"]),
        ("image_path\nx.png\n", "scan", "csv.column", ["scan", "image_path"]),
        ("", None, "csv.empty", ["image_path, path, "]),
        ("image_path\n", None, "csv.no_rows", []),
        ("image_path\n" + "x" * 2_000_000, None, "csv.unreadable", ["line"]),
        ('image_path\n"' + "x" * 200_000, None, "csv.unreadable", ["field larger than"]),
    ],
)
def test_csv_without_images_is_refused(
    tmp_path: Path, text: str, column: str | None, code: str, data: list[str]
) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="latin-1")
    with raises(InputError, code, *data):
        find_pictures([str(tmp_path / "t.csv")], column=column)


def test_csv_that_becomes_unreadable_ends_with_an_error_row(folder: Path) -> None:
    table = folder / "t.csv"
    table.write_bytes(b"path\nb.png\n\xff.png\n" + b"x" * 2_000_000)
    found = contents(table)
    assert list(found) == [f"{folder}/b.png", f"{folder}/\\udcff.png", str(table)]
    assert isinstance(found[str(table)], str)


def test_options_without_use_are_refused(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_pictures([str(folder)], column="scan", null=True)
    assert [problem.code for problem in caught.value.problems] == ["option.null_unused", "option.column_unused"]


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


MEMBERS = {"z/b.png": png(1), "a.png": png(2), "notes.txt": b"-", "__MACOSX/._a.png": b"-", "../../up.png": png(3)}


def test_zip_gives_its_pictures_in_its_order(tmp_path: Path) -> None:
    path = zipped(tmp_path / "some.zip", MEMBERS)
    found = find_pictures([str(path)])
    pictures = list(found.pictures)
    assert [picture.name for picture in pictures] == [f"{path}/{name}" for name in ("z/b.png", "a.png", "../../up.png")]
    assert [str(picture.relative_path) for picture in pictures] == ["some/z/b.png", "some/a.png", "some/up.png"]
    # After all pictures were yielded, in another order, and twice.
    assert [content_or_error(picture) for picture in pictures[::-1] * 2] == [png(3), png(2), png(1)] * 2
    assert found.total == 3


@pytest.mark.parametrize("ending", PACKERS)
def test_tar_gives_its_pictures_in_its_order(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"some.{ending}"
    path.write_bytes(PACKERS[ending](tarred(MEMBERS)))
    pictures = list(find_pictures([str(path)]).pictures)
    assert [picture.name for picture in pictures] == [f"{path}/{name}" for name in ("z/b.png", "a.png", "../../up.png")]
    assert [content_or_error(picture) for picture in pictures[::-1] * 2] == [png(3), png(2), png(1)] * 2
    assert not any(".." in picture.relative_path.parts or picture.relative_path.is_absolute() for picture in pictures)


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in [
            ("soft.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        info = tarfile.TarInfo("real.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    assert contents(path) == {f"{path}/real.png": png()}


def test_zip_member_that_cannot_be_unpacked_is_a_row_of_its_own(tmp_path: Path) -> None:
    path = zipped(tmp_path / "t.zip", {"a.png": png(1) * 50, "b.png": png(2), "c.png": b"", "d.png": png(3)})
    data = bytearray(path.read_bytes())
    data[60:64] = b"\xff" * 4  # of a.png's packed data
    for entry, flags, size in ((1, 1, None), (2, 0, MAX_BYTES + 1)):
        start = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"][entry]
        data[start + 8] |= flags
        if size:
            data[start + 24 : start + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)
    found = contents(path)
    assert isinstance(found[f"{path}/a.png"], str)
    assert "encrypted" in str(found[f"{path}/b.png"])
    assert "268,435,457 bytes" in str(found[f"{path}/c.png"])
    assert found[f"{path}/d.png"] == png(3)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("harm", ["cut", "overwritten"])
def test_damaged_tar_gives_its_whole_members_and_an_error_row(tmp_path: Path, ending: str, harm: str) -> None:
    data = tarred({f"{number}.png": png(number) for number in range(8)})
    data = data[:4000] if harm == "cut" else data[:4096] + b"x" * 512 + data[4608:]
    path = tmp_path / f"t.{ending}"
    path.write_bytes(PACKERS[ending](data))
    found = contents(path)
    assert list(found)[:3] == [f"{path}/{number}.png" for number in range(3)]
    assert list(found)[-1] == str(path)
    assert isinstance(found[str(path)], str)
    assert len(found) == 5


def test_tar_header_of_any_size_is_not_taken_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    (tmp_path / "t.tgz").write_bytes(gzip.compress(tarred({"a.png": png()})[:1024] + info.tobuf() + b"\0" * 10**7))
    found = contents(tmp_path / "t.tgz")
    assert "1,073,741,824 bytes" in str(found[f"{tmp_path}/t.tgz"])


@pytest.mark.parametrize("name", ["t.zip", "t.tar", "t.tgz", "t.mp4", "empty.zip", "empty.tar", "text.zip"])
def test_archive_without_pictures_is_refused_with_all_others(tmp_path: Path, name: str) -> None:
    zipped(tmp_path / "text.zip", {"notes.txt": b"-"})
    (tmp_path / "empty.zip").touch()
    (tmp_path / "empty.tar").touch()
    for broken in ("t.zip", "t.tar", "t.tgz", "t.mp4"):
        (tmp_path / broken).write_bytes(b"\x1f\x8b neither this nor that" * 40)
    with pytest.raises(InputError, match=f"{name}: .*\n.*nowhere.png: ") as caught:
        find_pictures([str(tmp_path / name), "nowhere.png"])
    assert [problem.code for problem in caught.value.problems] == ["source.unreadable", "source.missing"]


def test_archive_that_vanishes_before_its_turn_is_a_row(tmp_path: Path) -> None:
    path = zipped(tmp_path / "t.zip", {"a.png": png()})
    found = find_pictures([str(path)])
    path.unlink()
    (picture,) = found.pictures
    assert picture.name == str(path)
    assert "(No such file or directory)" in str(content_or_error(picture))


def test_buffered_contents_are_in_files_when_memory_is_full(tmp_path: Path) -> None:
    path = tmp_path / "t.tgz"
    path.write_bytes(gzip.compress(tarred({f"{number}.png": png(number) for number in range(9)})))
    buffer = SpillBuffer(max_memory_bytes=len(png(0)) + len(png(1)))
    pictures = list(Tar(buffer).pictures(path.open("rb"), "t", Path("t")))
    kinds = [type(picture.content).__name__ for picture in pictures]
    assert kinds == ["_InMemory"] * 2 + ["FileSlice"] * 7
    assert [content_or_error(picture) for picture in pictures] == [png(number) for number in range(9)]
    del pictures
    assert type(buffer.store(png())).__name__ == "_InMemory"


def video(path: Path, frames: int = 60, kind: str = "mp4", turned: int = 0) -> Path:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(turned)
        for number in range(frames):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, :32] = number * 4
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def decode_picture(picture: Picture) -> Image.Image:
    content = picture.content()
    assert isinstance(content, Image.Image)
    return content


def level(picture: Picture) -> float:
    return float(np.asarray(decode_picture(picture))[:, :24].mean())


def test_video_gives_every_nth_frame(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    found = find_pictures([str(path)], frame_step=25)
    pictures = list(found.pictures)
    assert [picture.name for picture in pictures] == [f"{path}#{number}" for number in (0, 25, 50)]
    assert [str(picture.relative_path) for picture in pictures] == [f"clip/{number:06}" for number in (0, 25, 50)]
    assert [level(picture) for picture in pictures] == pytest.approx([0, 100, 200], abs=6)
    assert decode_picture(pictures[0]).size == (64, 48)
    assert found.total == 3
    assert len(contents_of_all_frames(path)) == 60


def contents_of_all_frames(path: Path) -> list[str]:
    return [picture.name for picture in find_pictures([str(path)], frame_step=1).pictures]


def test_turned_video_is_given_upright(tmp_path: Path) -> None:
    # A frame that is bright on the left is bright at the bottom after a quarter turn counterclockwise.
    path = video(tmp_path / "clip.mov", turned=90, kind="mov")
    *_, last = find_pictures([str(path)], frame_step=50).pictures
    pixels = np.asarray(decode_picture(last))
    assert pixels.shape == (64, 48, 3)
    assert pixels[40:].mean() > 150 > 50 > pixels[:24].mean()


def test_damaged_frame_is_a_row_of_its_own(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.avi", kind="avi")
    with av.open(str(path)) as container:
        packet = next(packet for number, packet in enumerate(container.demux(video=0)) if number == 20)
    data = bytearray(path.read_bytes())
    data[packet.pos + 8 : packet.pos + 8 + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    found = list(find_pictures([str(path)], frame_step=10).pictures)
    assert [picture.name for picture in found] == [f"{path}#{number}" for number in range(0, 60, 10)]
    with pytest.raises(ImageError, match="the frame"):
        found[2].content()
    assert decode_picture(found[3]).size == (64, 48)


def test_playlist_named_as_a_video_opens_nothing(tmp_path: Path) -> None:
    clip = video(tmp_path / "secret.mp4")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{clip}\n#EXT-X-ENDLIST\n")
    with raises(InputError, "source.unreadable", "list.mp4: "):
        find_pictures([str(tmp_path / "list.mp4")])


def test_video_is_refused_with_the_command_that_helps_when_pyav_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video(tmp_path / "clip.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    with raises(InputError, "install.missing_module", "pip install 'tritonkit[video]'"):
        find_pictures([str(path)])


@pytest.fixture
def mixed(folder: Path, tmp_path: Path) -> Iterator[list[str]]:
    """A folder, two archives, a CSV, a video and a glob."""
    zipped(tmp_path / "some.zip", {"in.png": png(7)})
    (tmp_path / "some.tgz").write_bytes(gzip.compress(tarred({"in.png": png(8)})))
    (tmp_path / "some.csv").write_text("url\nin/b.png\nsome.zip\n")
    video(tmp_path / "some.mp4", frames=30)
    return [str(tmp_path / name) for name in ("in", "some.zip", "some.tgz", "some.csv", "some.mp4", "in/c*")]


def test_order_and_names_are_the_same_the_next_time_when_kinds_are_mixed(mixed: list[str]) -> None:
    first, second = (
        [(picture.name, picture.relative_path) for picture in find_pictures(mixed).pictures] for _ in range(2)
    )
    assert first == second
    assert len(first) == len({name for name, _ in first}) == 7


def test_command_answers_a_list_on_stdin(checkpoint: Path, folder: Path) -> None:
    text = "".join(f"{path}\n" for path in [folder, *sorted(folder.glob("[bcn]*.*"))])
    result = CliRunner().invoke(app, ["infer", "-", "--from", str(checkpoint), "--json"], input=text)
    assert result.exit_code == 1, result.stderr
    rows = {Path(row["path"]).name: row for row in json.loads(result.stdout)["rows"]}
    assert list(rows) == ["b.png", "c.png", "notes.txt"]
    assert "error" in rows["notes.txt"]


def test_command_answers_all_kinds(command: Command, checkpoint: Path, mixed: list[str], tmp_path: Path) -> None:
    result = command("client", "infer", *mixed, "--every", 10, "--from", checkpoint, "--json")
    assert result.exit_code == 0, result.stderr
    assert [Path(row["path"]).name for row in json.loads(result.stdout)["rows"]] == [
        *("a.PNG", "b.png", "c.png", "in.png", "in.png"),
        *("some.mp4#0", "some.mp4#10", "some.mp4#20"),
    ]
    (tmp_path / "bad.csv").write_text("label\ncat\n")
    refused = command("client", "infer", tmp_path / "bad.csv", "no.png", "--from", checkpoint, "--json")
    assert refused.exit_code == 2
    assert error_codes(refused) == {"source.invalid", "csv.column", "source.missing"}


LISTS_FOLDERS = """
import sys
from client.sources import find_pictures
for picture in find_pictures(sys.argv[1:]).pictures:
    try:
        picture.content()
        print(picture.name)
    except ValueError as error:
        print(picture.name, error)
"""


@pytest.mark.parametrize("path", ["in", "in/*", "in/**/*.png", "in/locked"])
def test_folder_that_may_not_be_listed_is_a_row(folder: Path, path: str) -> None:
    (folder / "locked").mkdir(mode=0o000)
    rights = "-dac_override,-dac_read_search"
    without_rights = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", "--"] if os.getuid() == 0 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*without_rights, sys.executable, "-c", LISTS_FOLDERS, path],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = ended.stdout.splitlines()
    assert any(row.startswith("in/locked ") and row.endswith("(Permission denied)") for row in rows)
    assert path == "in/locked" or "in/b.png" in rows
